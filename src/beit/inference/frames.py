"""Every frame of a film as an image: animated GIF, PNG, WebP and AVIF, and the pages of TIFF files.

Frames are decoded one after the other, each from the one before; one is held at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from beit.core.errors import ConfigError, DataError
from beit.core.text import printable
from beit.data.decode import errors_of, frame_count, opened, pillow_warnings, read_image, refuse_bomb, upright_rgb
from beit.data.fingerprint import fingerprint_of
from beit.inference.files import ImageFiles


class FrameFiles:
    """Every Nth frame of each file, as `film.gif#0`, `film.gif#3`, …: an `Images` source without labels. Reading is fast in order, and slow in any other.

    Each file is opened once to count its frames. One that cannot be opened or counted is one image, whose reading fails.

    Args:
        paths: the files.
        every: 1 for all frames, N for the frames 0, N, 2N, …
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], every: int = 1) -> None:
        self.labels: np.ndarray | None = None
        self.classes: list[str] = []
        self.paths = [os.fspath(path) for path in paths]
        self._faults: dict[int, str] = {}
        counts = np.array([self._count(number) for number in range(len(self.paths))], np.int64)
        taken = -(-counts // every)
        # For each image its file, and its frame; -1 where the file is no film, and its name stays as it is.
        self._file = np.repeat(np.arange(len(counts)), taken)
        self._frame = (np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)) * every
        self._frame[np.repeat(counts == 1, taken)] = -1
        self._held = contextlib.ExitStack()  # the film that is being read
        self._image: Image.Image | None = None
        self._at: tuple[int, int] = (-1, 0)  # its number, and where it is
        self._damaged = -1  # number of a film of which no more can be decoded

    def _count(self, number: int) -> int:
        path = self.paths[number]
        try:
            with opened(path) as image:
                return frame_count(image, path)
        except DataError as error:
            self._faults[number] = str(error)
            return 1

    def __len__(self) -> int:
        return len(self._file)

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB, upright. Raises DataError when it cannot be read."""
        number, frame = int(self._file[index]), max(int(self._frame[index]), 0)
        if number in self._faults:
            raise DataError(self._faults[number])
        name = self.name(index)
        if number == self._damaged:
            raise DataError(f"{printable(name)}: a frame before it is damaged, and this one builds on it.")
        try:
            with errors_of(name), pillow_warnings():
                return upright_rgb(self._frame_of(number, frame), name)
        except DataError:
            builds = self._image is not None and self._image.format != "TIFF"  # pages of a TIFF stand alone
            self.close()
            self._damaged = number if builds else -1
            raise
        finally:
            if index + 1 == len(self) or self._file[index + 1] != number:
                self.close()

    def _frame_of(self, number: int, frame: int) -> Image.Image:
        """The film, standing at a frame."""
        if self._image is None or self._at[0] != number or self._at[1] > frame:
            self.close()
            self._image = self._held.enter_context(opened(self.paths[number], in_thread=True))
            self._at = (number, 0)
        alone = self._image.format == "TIFF"
        for position in [frame] if alone else range(self._at[1] + 1, frame + 1):
            self._image.seek(position)
            refuse_bomb(self._image)  # each may have a size of its own
            self._at = (number, position)
        return self._image

    def close(self) -> None:
        """Close the film that is being read. It happens by itself after the last frame of each."""
        self._held.close()
        self._image, self._at = None, (-1, 0)

    def target(self, index: int) -> int:
        """Always 0: there are no labels."""
        return 0

    def name(self, index: int) -> str:
        """The path, and of a file with several frames `#` and the number of the frame, from 0."""
        path, frame = self.paths[self._file[index]], self._frame[index]
        return path if frame < 0 else f"{path}#{frame}"

    def fingerprint(self) -> str:
        """Equal for equal paths and frames in the same order."""
        return fingerprint_of(os.fsencode("\n".join(map(self.name, range(len(self))))))

    def subset(self, indices: np.ndarray) -> FrameFiles:
        """The images with these numbers, in this order."""
        part = FrameFiles([])
        part.paths, part._faults = self.paths, self._faults
        part._file, part._frame = self._file[indices], self._frame[indices]
        return part


def parse_frames(frames: str) -> int:
    """`--frames`: 0 for `first`, 1 for `all`, N for the frames 0, N, 2N, …

    Raises:
        ConfigError: it is something else.
    """
    number = {"first": 0, "all": 1}.get(frames) or (int(frames) if frames.isdecimal() and frames.isascii() else 0)
    if number < 1 and frames != "first":
        raise ConfigError(f"frames is {frames!r:.40}; choose first, all, or a number N for the frames 0, N, 2N, …")
    return number


def open_frames(paths: Sequence[str], every: int) -> ImageFiles | FrameFiles:
    """The images of files: the first frame of each if `every` is 0, else every Nth."""
    return FrameFiles(paths, every) if every else ImageFiles(paths)


def read_named(name: str) -> Image.Image:
    """An image by the name that `ImageFiles` or `FrameFiles` gives it, in RGB, upright. Raises DataError when it cannot be read."""
    path, mark, frame = name.rpartition("#")
    if not mark or not frame.isdecimal() or os.path.lexists(name):
        return read_image(name)
    with contextlib.closing(FrameFiles([path])) as film:
        found = film.read(min(int(frame), len(film) - 1))  # the last, so that a file that cannot be read says why
        if int(frame) < len(film):
            return found
    raise DataError(f"{printable(path)} has no frame {frame}.")

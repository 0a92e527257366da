"""From paths to images: the thin layer above the functions of this room, which take images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from beit.data.decode import frame_count, opened, upright_rgb


class ImageFiles:
    """Image files by path, without labels: an `Images` source. Of a film, the first frame (`frames.py` has the others).

    Args:
        paths: the files, in the order in which they are read.

    Attributes:
        frames_left_out: number of further frames in the files that were read.
        films: number of these files that have any.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.labels: np.ndarray | None = None
        self.classes: list[str] = []
        self.paths = [os.fspath(path) for path in paths]
        self.frames_left_out = self.films = 0

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB, upright. Raises DataError when it cannot be read."""
        path = self.paths[index]
        with opened(path) as image:
            picture = upright_rgb(image, path)
            with contextlib.suppress(Exception):  # what is wrong with further frames does not concern the first
                further = frame_count(image, path) - 1
                self.frames_left_out += further
                self.films += further > 0
        return picture

    def target(self, index: int) -> int:
        """Always 0: there are no labels."""
        return 0

    def name(self, index: int) -> str:
        """The path, as it was given."""
        return self.paths[index]

    def fingerprint(self) -> str:
        """Equal for equal paths in the same order."""
        return "\n".join(self.paths)

    def subset(self, indices: np.ndarray) -> ImageFiles:
        """The files with these numbers, in this order."""
        return ImageFiles([self.paths[i] for i in indices])


def png_names(paths: Iterable[Path]) -> list[Path]:
    """A PNG name for each: `a.png` for a.jpg, and `a-2.png` for another a.jpg or an a.bmp; `film#3.png` for film.gif#3."""
    taken: set[str] = set()
    names = []
    for path in paths:
        base, mark, frame = path.name.rpartition("#")
        stem = f"{Path(base).stem}#{frame}" if mark and frame.isdecimal() else path.stem
        name, number = path.with_name(f"{stem}.png"), 2
        while str(name).lower() in taken:  # some file systems do not tell A from a
            name, number = path.with_name(f"{stem}-{number}.png"), number + 1
        taken.add(str(name).lower())
        names.append(name)
    return names

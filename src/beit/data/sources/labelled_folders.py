"""Images with a label map each: two folders whose files match by name."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from beit.core.errors import DataError, InputError
from beit.data.decode import FORMATS, opened, upright_rgb
from beit.data.fingerprint import fingerprint_of
from beit.data.label_maps import LabelRules, read_label_map
from beit.data.sources.paths import list_images

_LOSSY = (*FORMATS["JPEG"], *FORMATS["MPO"])
_PLAIN = LabelRules()  # numbers are classes, 255 means no label
# EXIF orientation → what turns the stored pixels upright. Orientation 1 is upright already.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDES_SWAP = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}


class _Stored(NamedTuple):
    """How an image is stored in its file: (width, height), and what turns it upright."""

    size: tuple[int, int]
    turn: Image.Transpose | None

    @classmethod
    def of(cls, image: Image.Image) -> _Stored:
        return cls(image.size, _turn(image))

    def upright_shape(self) -> tuple[int, int]:
        """(height, width) of the upright image."""
        width, height = self.size
        return (width, height) if self.turn in _SIDES_SWAP else (height, width)


class LabelledFolders:
    """Images and label maps in two folders, matched by their paths without suffix: `street/1.jpg`, `street/1.png`.

    A map belongs to the pixels as they are stored: where the EXIF orientation turns an image, its map is turned too. A map
    that has its own orientation, or fits only the upright image, is not.

    Args:
        images: searched with all its subfolders, as by `FolderImages`.
        maps: grey or palette images in a lossless format (PNG), one number per pixel.
        classes: names of the classes; None to leave them open until `with_classes`.
        rules: what the numbers mean.
        smallest_side: images with a shorter side, in pixels, are refused when read.

    Raises:
        DataError: there is no such folder, a folder is empty, an image has no map or a map no image, two files of a folder
            have the same name but for the suffix, or a map is a JPEG file.
        ConfigError: as `LabelRules.check_classes`.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        maps: str | os.PathLike[str],
        classes: Sequence[str] | None = None,
        rules: LabelRules = _PLAIN,
        smallest_side: int = 1,
    ) -> None:
        self.folder, self.map_folder = Path(images), Path(maps)
        found, partners = _by_stem(self.folder, "images"), _by_stem(self.map_folder, "label maps")
        _check_partners(self.folder, self.map_folder, found, partners)
        lossy = [path for path in partners.values() if path.lower().endswith(_LOSSY)]
        if lossy:
            raise DataError(f"{lossy[0]} is a JPEG file, which changes class numbers. Save label maps as PNG.")
        stems = sorted(found)
        self.paths, self.maps = [found[stem] for stem in stems], [partners[stem] for stem in stems]
        self.labels: np.ndarray | None = None  # labels are per pixel here, not per image
        self.rules, self.smallest_side = rules, smallest_side
        self.classes = list(classes) if classes is not None else []
        rules.check_classes(len(self.classes))
        self._last_read: tuple[int, _Stored] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def with_classes(self, classes: Sequence[str]) -> LabelledFolders:
        """The same images with these classes. Raises ConfigError as `LabelRules.check_classes`."""
        self.rules.check_classes(len(classes))
        other = copy.copy(self)
        other.classes = list(classes)
        return other

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB, upright. Raises DataError when it is damaged, too small or too large."""
        self._last_read = None
        with opened(self.paths[index]) as file:
            image = upright_rgb(file, self.paths[index], self.smallest_side)
            self._last_read = index, _Stored.of(file)
        return image

    def target(self, index: int) -> np.ndarray:
        """The class numbers of image `index`, int64 `(H, W)`; the ignore index where there is none.

        Raises:
            DataError: a file cannot be read.
            InputError: the map has another size or mode than it should, or numbers that are no class.
        """
        path, image = self.maps[index], self._stored(index)
        with opened(path) as file:
            file.load()
            own = _turn(file)
            turn = image.turn if own is None and file.size == image.size else own
            found = file if turn is None else file.transpose(turn)
            labels = self.rules.apply(read_label_map(without_metadata(found), image.upright_shape(), path))
        if self.classes:
            self.rules.check(labels, len(self.classes), path)
        return labels

    def check_size(self, index: int) -> None:
        """Check that map and image `index` have one size; only their headers are read.

        Raises:
            DataError: a file cannot be read.
            InputError: the sizes differ.
        """
        with opened(self.paths[index], in_thread=True) as file:
            image = _Stored.of(file)
        with opened(self.maps[index], in_thread=True) as file:
            own = _turn(file)
            turn = image.turn if own is None and file.size == image.size else own
            shape = _Stored(file.size, turn).upright_shape()
        if shape != image.upright_shape():
            raise InputError(
                f"{self.maps[index]} has shape {shape} and its image {image.upright_shape()} (height, width). Wanted one class "
                "number per pixel, at the size of the image itself, turned as its EXIF orientation says."
            )

    def _stored(self, index: int) -> _Stored:
        """How image `index` is stored. `target` usually follows `read`: then the file is not opened a second time."""
        last, self._last_read = self._last_read, None
        if last is not None and last[0] == index:
            return last[1]
        with opened(self.paths[index]) as file:
            return _Stored.of(file)

    def name(self, index: int) -> str:
        """The image's path."""
        return self.paths[index]

    def fingerprint(self) -> str:
        """The same for the same paths below the folders, classes and rules; files are not opened."""
        images = "\n".join(os.path.relpath(path, self.folder) for path in self.paths)
        maps = "\n".join(os.path.relpath(path, self.map_folder) for path in self.maps)
        parts = (images, maps, "\n".join(self.classes), repr(self.rules))
        return fingerprint_of(*(os.fsencode(part) for part in parts))

    def subset(self, indices: np.ndarray) -> LabelledFolders:
        """Only the images with these numbers, in this order."""
        part = copy.copy(self)
        part.paths, part.maps = [self.paths[i] for i in indices], [self.maps[i] for i in indices]
        part._last_read = None  # its numbers are others here
        return part


def without_metadata(image: Image.Image) -> Image.Image:
    """A copy without EXIF data, of an image that is upright already: nothing turns it a second time."""
    plain = image.copy()
    plain.info.clear()
    plain.getexif().clear()
    return plain


def _turn(image: Image.Image) -> Image.Transpose | None:
    with contextlib.suppress(Exception):  # a damaged EXIF block counts as none
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def _by_stem(folder: Path, what: str) -> dict[str, str]:
    """Path below the folder without suffix → path."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Give a folder with {what} in it.")
    found: dict[str, str] = {}
    for path in sorted(list_images(folder)):
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        if stem in found:
            raise DataError(f"{found[stem]} and {path} have the same name but for the suffix. Rename or remove one.")
        found[stem] = path
    if not found:
        raise DataError(f"{folder} has no {what}, nor have its subfolders.")
    return found


def _check_partners(images: Path, maps: Path, found: dict[str, str], partners: dict[str, str]) -> None:
    without_map = [(found[stem], f"no label map in {maps}") for stem in sorted(found.keys() - partners.keys())]
    without_image = [(partners[stem], f"no image in {images}") for stem in sorted(partners.keys() - found.keys())]
    if not without_map and not without_image:
        return
    # Six examples; of both kinds if there are many without a map.
    shown = without_map[:3] + without_image[:3] if len(without_map) > 3 else (without_map + without_image)[:6]
    lines = "\n".join(f"  {path}: {why}" for path, why in shown)
    raise DataError(
        f"{len(without_map)} images have no label map and {len(without_image)} label maps no image:\n{lines}\nWanted the same "
        "names in both folders, but for the suffix: images/street/1.jpg, maps/street/1.png. Add or remove files until they "
        "agree."
    )

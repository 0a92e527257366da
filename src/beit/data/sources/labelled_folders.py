"""Images with a label map each: two folders whose files match by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from beit.core.errors import DataError, InputError
from beit.data.colour_table import ColourTable
from beit.data.decode import FORMATS, opened
from beit.data.fingerprint import fingerprint_of
from beit.data.label_maps import LabelRules, read_label_map
from beit.data.sources.partners import partners
from beit.data.sources.segmented import Look, SegmentedImages, Stored, turn_of

_LOSSY = (*FORMATS["JPEG"], *FORMATS["MPO"])
_PLAIN = LabelRules()  # numbers are classes, 255 means no label


class LabelledFolders(SegmentedImages):
    """Images and label maps in two folders, matched by name: `street/1.jpg`, `street/1.png` (see `partners`).

    A map belongs to the pixels as they are stored: where the EXIF orientation turns an image, its map is turned too. A map
    that has its own orientation, or fits only the upright image, is not.

    Args:
        images: searched with all its subfolders, as by `FolderImages`.
        maps: images in a lossless format (PNG, TIFF, BMP): grey or palette images with one number per pixel; or, with
            `colours`, images in colour.
        classes: names of the classes; None to leave them open until `with_classes`, or to take those that `colours` names.
        rules: what the numbers mean.
        smallest_side: images with a shorter side, in pixels, are refused when read.
        colours: which class a colour means, for maps in colour.
        mask_suffix: how the names of the maps end, where that is more than the suffix of the format: `_L.png`.

    Raises:
        DataError: as `partners`; a map is a JPEG file; or a class of `colours` is none of `classes`.
        ConfigError: as `LabelRules.check_classes`.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        maps: str | os.PathLike[str],
        classes: Sequence[str] | None = None,
        rules: LabelRules = _PLAIN,
        smallest_side: int = 1,
        colours: ColourTable | None = None,
        mask_suffix: str | None = None,
    ) -> None:
        super().__init__(rules, () if colours is None else colours.names, smallest_side)
        self.folder, self.map_folder, self.colours = Path(images), Path(maps), colours
        self.paths, self.maps = partners(self.folder, self.map_folder, mask_suffix)
        lossy = [path for path in self.maps if path.lower().endswith(_LOSSY)]
        if lossy:
            raise DataError(
                f"{lossy[0]} is a JPEG file, which changes class numbers and colours. Save label maps as PNG."
            )
        self.place = f"label maps in {self.map_folder}"
        self.naming = "" if colours is None else colours.file
        self._set_classes(self.names if classes is None else classes)

    def numbers(self, index: int) -> np.ndarray:
        """As `SegmentedImages.numbers`."""
        path, image = self.maps[index], self.stored(index)
        with opened(path) as file:
            _check_lossless(file, path)
            file.load()
            own = turn_of(file)
            turn = image.turn if own is None and file.size == image.size else own
            found = without_metadata(file if turn is None else file.transpose(turn))
            if self.colours is None:
                return self.rules.apply(read_label_map(found, image.upright_shape(), path))
            _check_shape(path, (found.height, found.width), image.upright_shape())
            return self.colours.numbers(found, path, self.rules.ignore_index)[0]

    def look(self, index: int) -> Look:
        """As `SegmentedImages.look`. Nothing is said of an image that cannot be read."""
        path = self.maps[index]
        unknown = 0
        with opened(path, in_thread=True) as file:
            _check_lossless(file, path)
            if self.colours is not None:
                labels, unknown = self.colours.numbers(without_metadata(file), path, self.rules.ignore_index)
                numbers = np.unique(labels)
            elif file.mode in ("L", "P"):
                numbers = self.rules.apply(
                    np.flatnonzero(file.histogram()[:256])
                )  # much faster than np.unique of all pixels
            else:
                file.load()
                shape = (file.height, file.width)
                numbers = self.rules.apply(np.unique(read_label_map(without_metadata(file), shape, path)))
        numbers = self.in_order(numbers)
        if self.classes:
            self.rules.check(numbers, len(self.classes), path)
        self._check_size(index)
        return Look(numbers, unknown)

    def _check_size(self, index: int) -> None:
        """Check that map and image `index` have one size; only their headers are read. Raises InputError."""
        try:
            with opened(self.paths[index], in_thread=True) as file:
                image = Stored.of(file)
        except DataError:  # of a damaged image; training skips a few of them
            return
        with opened(self.maps[index], in_thread=True) as file:
            own = turn_of(file)
            turn = image.turn if own is None and file.size == image.size else own
            shape = Stored(file.size, turn).upright_shape()
        _check_shape(self.maps[index], shape, image.upright_shape())

    def label_name(self, index: int) -> str:
        """The map's path."""
        return self.maps[index]

    def fingerprint(self) -> str:
        """The same for the same paths below the folders, classes, colours and rules; files are not opened."""
        images = "\n".join(os.path.relpath(path, self.folder) for path in self.paths)
        maps = "\n".join(os.path.relpath(path, self.map_folder) for path in self.maps)
        parts = [images, maps, "\n".join(self.classes), repr(self.rules)]
        parts += [] if self.colours is None else [repr(self.colours)]
        return fingerprint_of(*(os.fsencode(part) for part in parts))

    def subset(self, indices: np.ndarray) -> Self:
        """Only the images with these numbers, in this order."""
        part = super().subset(indices)
        part.maps = [self.maps[i] for i in indices]
        return part


def _check_lossless(file: Image.Image, path: str) -> None:
    if file.info.get("compression") == "jpeg":  # a TIFF file
        raise InputError(
            f"{path} is compressed as JPEG, which changes class numbers and colours. Save it without loss."
        )


def _check_shape(path: str, shape: tuple[int, int], wanted: tuple[int, int]) -> None:
    if shape != wanted:
        raise InputError(
            f"{path} has shape {shape} and its image {wanted} (height, width). Wanted one class per pixel, at the size of the "
            "image itself, turned as its EXIF orientation says."
        )


def without_metadata(image: Image.Image) -> Image.Image:
    """A copy without EXIF data, of an image that is upright already: nothing turns it a second time."""
    plain = image.copy()
    plain.info.clear()
    plain.getexif().clear()
    return plain

"""Images with a label map each, whatever form the labels have: what label files and outlines share."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from PIL import ExifTags, Image

from beit.core.errors import DataError
from beit.core.suggest import did_you_mean, similar
from beit.core.text import printable
from beit.data.decode import opened, upright_rgb
from beit.data.label_maps import LabelRules

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


class Stored(NamedTuple):
    """How an image is stored in its file: (width, height), and what turns it upright."""

    size: tuple[int, int]
    turn: Image.Transpose | None

    @classmethod
    def of(cls, image: Image.Image) -> Stored:
        """Of an open image; its pixels are not decoded."""
        return cls(image.size, turn_of(image))

    def upright_shape(self) -> tuple[int, int]:
        """(height, width) of the upright image."""
        width, height = self.size
        return (width, height) if self.turn in _SIDES_SWAP else (height, width)


class Look(NamedTuple):
    """What a look at one label map finds.

    Attributes:
        numbers: the distinct class numbers, the ignore index among them.
        unknown: how many pixels have a colour that the table does not have, and count as no label.
    """

    numbers: np.ndarray
    unknown: int = 0


class SegmentedImages(ABC):
    """Images from files, each with a label map.

    Attributes:
        paths: of the images.
        classes: names of the classes; empty while they are open.
        names: of the classes that the labels themselves name, by the numbers that `numbers` gives; empty where the labels are
            numbers and nothing else.
        rules: what numbers mean.
        place: what to call all label maps together in a message, in the plural.
        naming: the file that names `names`, for a message; empty where there are none.
        smallest_side: images with a shorter side, in pixels, are refused when read.
        labels: None: labels are per pixel here, not per image.
    """

    paths: list[str]
    place: str
    naming: str = ""
    labels: np.ndarray | None = None

    def __init__(self, rules: LabelRules, names: Sequence[str] = (), smallest_side: int = 1) -> None:
        self.rules, self.smallest_side = rules, smallest_side
        self.names, self.classes = list(names), list(names)
        self._order: np.ndarray | None = None  # number in `names` → number in `classes`
        self._last_read: tuple[int, Stored] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def with_classes(self, classes: Sequence[str]) -> Self:
        """The same images with these classes; where the labels name theirs, classes are matched by name.

        Raises:
            ConfigError: as `LabelRules.check_classes`.
            DataError: a class that the labels name is none of these.
        """
        other = copy.copy(self)
        other._set_classes(classes)
        return other

    def _set_classes(self, classes: Sequence[str]) -> None:
        self.rules.check_classes(len(classes))
        self.classes = list(classes)
        if self.names:
            self._order = _order(self.names, self.classes, self.naming)

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB, upright. Raises DataError when it is damaged, too small or too large."""
        self._last_read = None
        with opened(self.paths[index]) as file:
            image = upright_rgb(file, self.paths[index], self.smallest_side)
            self._last_read = index, Stored.of(file)
        return image

    def target(self, index: int) -> np.ndarray:
        """The class numbers of image `index`, int64 `(H, W)`; the ignore index where there is none.

        Raises:
            DataError: a file cannot be read.
            InputError: the labels have another size or mode than they should, or numbers that are no class.
        """
        labels = self.in_order(self.numbers(index))
        if self.classes:
            self.rules.check(labels, len(self.classes), self.label_name(index))
        return labels

    def in_order(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers by `names` → numbers by `classes`; the ignore index stays."""
        if self._order is None:
            return numbers
        known = numbers != self.rules.ignore_index
        return np.where(known, self._order[np.where(known, numbers, 0)], self.rules.ignore_index)

    @abstractmethod
    def numbers(self, index: int) -> np.ndarray:
        """The map of image `index`, int64 `(H, W)`: class numbers by `names`, and the ignore index. Raises as `target`."""

    @abstractmethod
    def look(self, index: int) -> Look:
        """What the map of image `index` holds, without the image's pixels; its numbers are by `classes`.

        May run in threads, inside `pillow_warnings`.

        Raises:
            DataError: the labels cannot be read.
            InputError: as `target`.
        """

    @abstractmethod
    def label_name(self, index: int) -> str:
        """What to call the labels of image `index` in a message."""

    def stored(self, index: int) -> Stored:
        """How image `index` is stored. `target` usually follows `read`: then the file is not opened a second time."""
        last, self._last_read = self._last_read, None
        if last is not None and last[0] == index:
            return last[1]
        with opened(self.paths[index]) as file:
            return Stored.of(file)

    def name(self, index: int) -> str:
        """The image's path."""
        return self.paths[index]

    @abstractmethod
    def fingerprint(self) -> str:
        """The same for the same images, labels, classes and rules."""

    def subset(self, indices: np.ndarray) -> Self:
        """Only the images with these numbers, in this order."""
        part = copy.copy(self)
        part.paths = [self.paths[i] for i in indices]
        part._last_read = None  # its numbers are others here
        return part


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What turns the stored pixels of an open image upright, by its EXIF orientation."""
    with contextlib.suppress(Exception):  # a damaged EXIF block counts as none
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def _order(names: Sequence[str], classes: Sequence[str], naming: str) -> np.ndarray:
    """Of each name its number among the classes, int64. Raises DataError where there is none."""
    numbers = {name: number for number, name in enumerate(classes)}
    strange = [name for name in names if name not in numbers]
    if strange:
        shown = ", ".join(printable(name) for name in strange[:5]) + ", …" * (len(strange) > 5)
        known = ", ".join(printable(name) for name in classes[:5]) + ", …" * (len(classes) > 5)
        raise DataError(
            f"{naming}: the classes {shown} are none of the {len(classes)} classes {known}."
            f"{did_you_mean(similar(strange[0], classes))} Classes of labels that name them are matched by name: rename them, or "
            "name all classes with --classes."
        )
    return np.array([numbers[name] for name in names], np.int64)

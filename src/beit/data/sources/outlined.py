"""Images whose labels are shapes: what COCO's and YOLO's files have in common once they are read."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from beit.core.errors import DataError, InputError
from beit.core.text import printable
from beit.data.decode import opened
from beit.data.fingerprint import fingerprint_of
from beit.data.label_maps import LabelRules
from beit.data.outlines import VOID, Outlines
from beit.data.sources.segmented import Look, SegmentedImages, Stored

logger = logging.getLogger("beit")

BACKGROUND = "background"
_TOLERATED = 0.1  # of all shapes may be unusable, as of all images
_SHOWN = 5


class OutlinedImages(SegmentedImages):
    """Images with shapes as labels, painted when they are asked for; later shapes paint over earlier ones.

    Args:
        folder: of the images, for the fingerprint.
        paths: of the images.
        outlines: their shapes, with class numbers by `names`.
        sizes: (height, width) of each image as the labels say, `(n, 2)`; 0 where they do not.
        names: of the classes; with `background`, the class of pixels in no shape among them.
        rules: its ignore index stands for "no label".
        background: whether pixels in no shape are the class background; else they have no label.
        source: the file or folder of the labels.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[str],
        outlines: Outlines,
        sizes: np.ndarray,
        names: Sequence[str],
        rules: LabelRules,
        background: bool,
        source: Path,
    ) -> None:
        super().__init__(rules, names)
        self.folder, self.paths, self.outlines, self.sizes = folder, list(paths), outlines, sizes
        self.unlabelled = background_of(names) if background else rules.ignore_index
        self.place, self.naming = f"outlines in {source}", str(source)
        self._which = np.arange(len(self.paths))  # the number of each image in `outlines`
        self._set_classes(self.names)

    def numbers(self, index: int) -> np.ndarray:
        """As `SegmentedImages.numbers`."""
        stored = self.stored(index)
        shape, turned = self._shape(index, stored)
        found = self.outlines.paint(int(self._which[index]), shape, self.unlabelled, self.rules.ignore_index)
        if not turned or stored.turn is None:
            return found
        return np.asarray(Image.fromarray(found.astype(np.int32)).transpose(stored.turn)).astype(np.int64)

    def look(self, index: int) -> Look:
        """As `SegmentedImages.look`, without painting: a class that others cover wholly counts as present."""
        try:
            with opened(self.paths[index], in_thread=True) as file:
                stored = Stored.of(file)
        except DataError:  # of a damaged image; training skips a few of them
            stored = None
        if stored is not None:
            self._shape(index, stored)
        found = self.outlines.numbers(int(self._which[index]))
        numbers = np.append(np.where(found == VOID, self.rules.ignore_index, found), self.unlabelled)
        return Look(np.unique(self.in_order(numbers)))

    def _shape(self, index: int, stored: Stored) -> tuple[tuple[int, int], bool]:
        """((height, width) in which the shapes are drawn, whether that is the image as it is stored and not upright)."""
        upright, said = stored.upright_shape(), tuple(self.sizes[self._which[index]].tolist())
        if said in ((0, 0), upright):
            return upright, False
        if said == stored.size[::-1]:
            return stored.size[::-1], True
        raise InputError(
            f"{self.naming} says that {self.paths[index]} has {said[1]}x{said[0]} pixels; it has {upright[1]}x{upright[0]}. Wanted "
            "the images that were annotated, at their size then."
        )

    def label_name(self, index: int) -> str:
        """The image's path, with the file of the labels."""
        return f"{self.paths[index]} in {self.naming}"

    def fingerprint(self) -> str:
        """The same for the same paths below the folder, shapes, classes and rules."""
        parts = ["\n".join(os.path.relpath(path, self.folder) for path in self.paths), "\n".join(self.names)]
        parts += ["\n".join(self.classes), repr(self.rules), str(self.unlabelled), self.outlines.fingerprint()]
        return fingerprint_of(*(os.fsencode(part) for part in parts), np.ascontiguousarray(self._which))

    def subset(self, indices: np.ndarray) -> Self:
        """Only the images with these numbers, in this order."""
        part = super().subset(indices)
        part._which = self._which[indices]
        return part


def background_of(names: Sequence[str]) -> int:
    """The number of the class background, in any case of its letters; -1 where there is none."""
    return next((number for number, name in enumerate(names) if name.lower() == BACKGROUND), -1)


def with_background(names: Sequence[str], background: bool, source: Path) -> tuple[list[str], int]:
    """(names with the class background before them if it is wanted and none of them, by how much their numbers grow).

    Raises:
        DataError: there are fewer than two classes.
    """
    found = list(names)
    if background and background_of(names) < 0:
        found = [BACKGROUND, *found]
    if len(found) < 2:
        raise DataError(
            f"{source} has {len(found)} classes; wanted at least two, or --unlabelled background for pixels in no outline."
        )
    return found, len(found) - len(names)


class Unusable:
    """Shapes that cannot be used: a few are left out and named, many end the command.

    Attributes:
        total: number of shapes that were looked at.
    """

    def __init__(self, source: Path) -> None:
        self.source, self.total = source, 0
        self._reasons: list[str] = []
        self._outside: Counter[str] = Counter()

    def add(self, name: str, reason: str) -> None:
        """A shape of this name is left out."""
        self._reasons.append(f"{printable(name)}: {reason}")

    def add_outside(self, name: str) -> None:
        """A shape of this name lies partly outside its image."""
        self._outside[name] += 1

    def say(self) -> None:
        """Log what was left out and cut off. Raises DataError where that is more than a tenth."""
        if self._reasons:
            lines = "\n".join(f"  {reason}" for reason in self._reasons[:_SHOWN]) + "\n  …" * (
                len(self._reasons) > _SHOWN
            )
            says = f"{self.source}: {len(self._reasons):,} of {self.total:,} outlines cannot be used:\n{lines}"
            if len(self._reasons) > _TOLERATED * self.total:
                raise DataError(
                    f"{says}\nThat is more than a tenth. Wanted polygons of three corners or more, or masks."
                )
            logger.warning("%s\nThey are left out: their pixels are as if nothing had been drawn there.", says)
        if self._outside:
            shown = ", ".join(printable(name) for name in list(self._outside)[:_SHOWN]) + ", …" * (
                len(self._outside) > _SHOWN
            )
            logger.warning(
                "%s: %s of %s outlines reach beyond their image and are cut at its edge: %s.",
                self.source,
                f"{self._outside.total():,}",
                f"{self.total:,}",
                shown,
            )


def say_counts(source: Path, kinds: Sequence[tuple[Sequence[str], str]]) -> None:
    """Log which images or files are of each kind: (names, what is said of them)."""
    for names, what in kinds:
        if names:
            shown = ", ".join(printable(name) for name in names[:_SHOWN]) + ", …" * (len(names) > _SHOWN)
            logger.warning("%s: %s %s: %s.", source, f"{len(names):,}", what, shown)

"""Reads all label maps before a run: to find the classes, or to check that every number is one."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from beit.core.errors import DataError
from beit.core.progress import progress_bar
from beit.data.decode import pillow_warnings
from beit.data.sources.segmented import Look, SegmentedImages

logger = logging.getLogger("beit")

# A map with larger numbers holds instance numbers, colours or depths rather than classes.
_MOST_CLASSES = 1000


def numbered_classes(images: SegmentedImages) -> list[str]:
    """The names `0`, `1`, … up to the largest number in any map.

    Raises:
        DataError: no map can be read, there are fewer than two classes, or more than a thousand, or most of the numbers occur
            in no map.
        InputError: a map is neither a grey nor a palette image, or has another size than its image.
    """
    found = _scan(images)
    if found.damaged == len(images):
        raise DataError(f"None of the {images.place} can be read.")
    numbers = sorted(number for number in found.where if number != images.rules.ignore_index)
    largest = numbers[-1] if numbers else -1
    if largest < 1:
        raise DataError(
            f"The {images.place} have {'no label' if largest < 0 else 'class 0 alone'}; wanted at least two "
            f"classes. {images.rules.ignore_index} counts as no label: see --ignore-index.{found.remedy(images, 1)}"
        )
    if largest >= _MOST_CLASSES:
        raise DataError(
            f"{found.where[largest]} has the value {largest + images.rules.reduce_labels}: too large for a class number. If it "
            "means no label, say so with --ignore-index; if it means a class, say which with --map-value "
            f"{largest + images.rules.reduce_labels}=1; if there are so many classes, name them with --classes."
        )
    if 4 * len(numbers) <= largest + 1:
        shift = int(images.rules.reduce_labels)
        shown = ", ".join(str(number + shift) for number in numbers[:8])
        raise DataError(
            f"The {images.place} have the values {shown} alone: {largest + 1 - len(numbers)} of the "
            f"{largest + 1} numbers up to the largest are in no map. Say which classes the values mean, with --map-value "
            f"{largest + shift}={len(numbers) - 1 + shift}, or name all classes with --classes."
        )
    names = [str(number) for number in range(largest + 1)]
    _check_absent(images, names, found, refuse=True)
    return names


def check_maps(images: SegmentedImages, refuse: bool = True) -> None:
    """Check that the numbers of all label maps are classes: before hours of training rather than in their middle.

    Maps that cannot be read are ignored here: training skips a few of them. Classes that are in no map are logged.

    Args:
        images: with their classes.
        refuse: whether maps with a single class are an error, as where a model is to learn from them.

    Raises:
        InputError: as `SegmentedImages.target`.
        DataError: with `refuse`, all maps together have fewer than two classes.
    """
    found = _scan(images)
    _check_absent(images, images.classes, found, refuse)


class _Found(NamedTuple):
    """What all maps together hold.

    Attributes:
        where: number, the ignore index among them → the first map that has it.
        damaged: how many maps cannot be read.
    """

    where: dict[int, str]
    damaged: int

    def remedy(self, images: SegmentedImages, number: int) -> str:
        """What to do if the number for "no label" was meant as class `number`; "" if it is in no map."""
        ignore = images.rules.ignore_index
        if ignore not in self.where or images.rules.reduce_labels or images.names:  # names say which class is which
            return ""
        return f" If {ignore}, which is in {self.where[ignore]}, means class {number}, say so with --map-value {ignore}={number}."


def _check_absent(images: SegmentedImages, classes: Sequence[str], found: _Found, refuse: bool) -> None:
    """What is absent is as wrong as what is strange: nothing can be learned of it, and no score would show it."""
    absent = [
        number for number in range(len(classes)) if number not in found.where and number != images.rules.ignore_index
    ]
    if not absent or found.damaged == len(images):
        return
    names = ", ".join(classes[number] for number in absent[:5]) + ", …" * (len(absent) > 5)
    says = f"{len(absent)} of the {len(classes)} classes are in none of the {images.place}: {names}."
    says += found.remedy(images, absent[0])
    if refuse and len(absent) >= len(classes) - 1:
        raise DataError(f"{says} There is nothing to tell apart; a model would learn one answer for every pixel.")
    logger.warning("%s", says)


def _scan(images: SegmentedImages) -> _Found:
    """Look at every label map, with a progress bar; say how many pixels have unknown colours."""
    where: dict[int, str] = {}
    damaged = unknown = strange = 0
    with pillow_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow unpacks PNG files without the GIL
        found = pool.map(lambda index: _looked_at(images, index), range(len(images)))
        bar = progress_bar(
            found, purpose="a look at all label maps", total=len(images), desc="looking at label maps", unit="map"
        )
        for index, look in enumerate(bar):
            if look is None:
                damaged += 1
                continue
            unknown += look.unknown
            strange += look.unknown > 0
            for number in look.numbers.tolist():
                where.setdefault(number, images.label_name(index))
    if unknown:
        logger.warning(
            "%s pixels in %s of %s label maps have colours that %s does not have; they count as no label.",
            f"{unknown:,}",
            f"{strange:,}",
            f"{len(images):,}",
            images.naming,
        )
    return _Found(where, damaged)


def _looked_at(images: SegmentedImages, index: int) -> Look | None:
    """The look at a map whose size and numbers are right; None for one that cannot be read."""
    try:
        return images.look(index)
    except DataError:
        return None

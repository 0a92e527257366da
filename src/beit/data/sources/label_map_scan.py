"""Reads all label maps before a run: to find the classes, or to check that every number is one."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from beit.core.errors import DataError, require
from beit.data.decode import opened, pillow_warnings
from beit.data.label_maps import LabelRules, read_label_map
from beit.data.sources.labelled_folders import LabelledFolders, without_metadata

# A map with larger numbers holds instance numbers, colours or depths rather than classes.
_MOST_CLASSES = 1000


def numbered_classes(images: LabelledFolders) -> list[str]:
    """The names `0`, `1`, … up to the largest number in any map.

    Raises:
        DataError: no map can be read, there are fewer than two classes, or more than a thousand.
        InputError: a map is neither a grey nor a palette image.
    """
    largest, where, damaged = -1, "", 0
    for path, labels in _scan(images):
        damaged += labels is None
        number = -1 if labels is None else int(np.max(labels[labels != images.rules.ignore_index], initial=-1))
        if number > largest:
            largest, where = number, path
    if damaged == len(images.maps):
        raise DataError(f"None of the label maps in {images.map_folder} can be read.")
    if largest < 1:
        raise DataError(
            f"The label maps in {images.map_folder} have {'no label' if largest < 0 else 'class 0 alone'}; wanted at least two "
            f"classes. {images.rules.ignore_index} counts as no label: see --ignore-index."
        )
    if largest >= _MOST_CLASSES:
        raise DataError(
            f"{where} has the value {largest + images.rules.reduce_labels}: too large for a class number. If it means no "
            "label, say so with --ignore-index; if there are so many classes, name them with --classes."
        )
    return [str(number) for number in range(largest + 1)]


def check_maps(images: LabelledFolders) -> None:
    """Check that the numbers of all label maps are classes: before hours of training rather than in their middle.

    Maps that cannot be read are ignored here: training skips a few of them.

    Raises:
        InputError: as `LabelledFolders.target`.
    """
    for path, labels in _scan(images):
        if labels is not None:
            images.rules.check(labels, len(images.classes), path)


def _scan(images: LabelledFolders) -> list[tuple[str, np.ndarray | None]]:
    """(path, distinct numbers) of every label map, with a progress bar; None for a map that cannot be read."""
    tqdm = require("tqdm", "train", "a look at all label maps").tqdm
    with pillow_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow unpacks PNG files without the GIL
        found = pool.map(lambda path: _distinct(path, images.rules), images.maps)
        bar = tqdm(
            found, total=len(images.maps), desc="looking at label maps", unit="map", disable=None, file=sys.stderr
        )
        return list(zip(images.maps, bar, strict=True))


def _distinct(path: str, rules: LabelRules) -> np.ndarray | None:
    """The distinct class numbers of a map, the ignore index among them; None if it cannot be read."""
    try:
        with opened(path, in_thread=True) as file:
            if file.mode in ("L", "P"):
                numbers = np.flatnonzero(file.histogram()[:256])  # much faster than np.unique of all pixels
            else:
                file.load()
                numbers = np.unique(read_label_map(without_metadata(file), (file.height, file.width), path))
    except DataError:
        return None
    return rules.apply(numbers)

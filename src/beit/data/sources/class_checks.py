"""Whether the classes of a folder are what was meant: what is absent is as wrong as what is strange."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np

from beit.core.errors import DataError
from beit.data.decode import opened
from beit.data.sources.images import FolderImages, Images
from beit.data.sources.splits import PARTS
from beit.data.sources.spooled import SpooledImages
from beit.data.sources.stream import Stream
from beit.data.sources.table_labels import REGRESSION, problem_of

logger = logging.getLogger("beit")

_TRIED = 20  # images of a class, until one can be opened


def check_class_folders(images: Images | Stream) -> None:
    """Check the classes of labelled images before the first step. Of other images than a folder's nothing is known.

    Raises:
        DataError: the class folders are parts of a data set (train, test); a class folder has files, but no image; or none of
            the images of a class can be opened.
    """
    if not isinstance(images, FolderImages) or images.labels is None:
        return
    present = sorted({images.classes[number] for number in np.unique(images.labels)})
    if all(name.lower() in PARTS for name in present):
        raise DataError(
            f"{images.folder} has the subfolders {', '.join(present)}: parts of a data set, and no classes. Give one of them, such "
            f"as {images.folder / present[0]}, and another one with --validation."
        )
    for folder in sorted(entry for entry in images.folder.iterdir() if entry.is_dir()):
        if folder.name not in present and not folder.name.startswith("."):
            _check_without_images(folder)
    for number in np.unique(images.labels):
        _check_opens(images, np.flatnonzero(images.labels == number))


def warn_of_absent_classes(images: Images, classes: list[str]) -> None:
    """Log which classes have no image to measure on: a score says nothing about them."""
    if images.labels is None or problem_of(images.labels) == REGRESSION:
        return
    labels = images.labels[images.sound()] if isinstance(images, SpooledImages) else images.labels
    present = set((labels if labels.ndim == 1 else np.flatnonzero(labels.any(0))).tolist())
    absent = [name for number, name in enumerate(classes) if number not in present]
    if absent:
        where = images.folder if isinstance(images, FolderImages) else "the images to measure on"
        shown = ", ".join(absent[:5]) + ", …" * (len(absent) > 5)
        logger.warning("%d of the %d classes have no image in %s: %s.", len(absent), len(classes), where, shown)


def _check_without_images(folder: Path) -> None:
    suffixes = Counter(
        os.path.splitext(name)[1].lower() or "no suffix"
        for _, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    )
    if not suffixes:
        logger.warning("%s is empty, and is no class.", folder)
        return
    kinds = ", ".join(suffix for suffix, _ in suffixes.most_common(3))
    raise DataError(
        f"{folder} has {suffixes.total()} files ({kinds}), but no image that is known by its suffix: the class would be left out. "
        "Save them as JPEG or PNG, or move the folder away."
    )


def _check_opens(images: FolderImages, numbers: np.ndarray) -> None:
    reason = ""
    for number in numbers[:_TRIED]:
        try:
            with opened(images.paths[int(number)]):
                return
        except DataError as error:
            reason = reason or str(error)
    if len(numbers) <= _TRIED:
        name = images.classes[images.target(int(numbers[0]))]
        raise DataError(f"None of the {len(numbers)} images of class {name} can be opened: {reason}")

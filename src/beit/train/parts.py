"""The images of a run in two parts: to learn from, and to measure on."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beit.core.errors import ConfigError, DataError
from beit.core.files import write_json
from beit.data.sources import open_images, open_to_measure
from beit.data.sources.class_names import read_classes
from beit.data.sources.images import FolderImages, Images
from beit.data.sources.splits import TEST, TRAIN, VALIDATION, splits_of
from beit.data.sources.stream import Stream
from beit.data.sources.table_images import TableImages, TableSettings
from beit.data.sources.table_labels import SINGLE, problem_of
from beit.data.sources.tables import is_table
from beit.evaluation.hold_out import hold_out
from beit.train.settings import FinetuneSettings
from beit.train.task import in_words

SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class Parts:
    """Two parts of a data set.

    Attributes:
        learn: images to learn from.
        measure: images to measure on; None for none.
        how: where the latter come from, for people; "" where they were given.
        held: whether they were held out of the images that were given.
        elsewhere: whether another process has opened the images to measure on; `measure` is None then.
    """

    learn: Images | Stream
    measure: Images | None
    how: str = ""
    held: bool = False
    elsewhere: bool = False

    def save(self, output: Path) -> None:
        """Write split.json, the list of the images that were held out; nothing where none were.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self.measure is None or not self.held:
            return
        images = self.measure
        if isinstance(images, FolderImages | TableImages):
            names = [os.path.relpath(path, images.folder) for path in images.paths]
        else:
            names = [images.name(index) for index in range(len(images))]
        write_json(output / SPLIT_FILE, {"held_out": names})

    def __str__(self) -> str:
        """`200 images of 2 classes: cat 100, dog 100; 160 to learn from, 40 to measure on (held out, 20% of each class)`."""
        classes = self.learn.classes
        if isinstance(self.learn, Stream) or self.learn.labels is None:
            return f"a stream of images of {len(classes)} classes" + self._measured()
        labels = self.learn.labels
        if self.held and self.measure is not None and self.measure.labels is not None:
            labels = np.concatenate((labels, self.measure.labels))
        learn = f"; {len(self.learn):,} to learn from" if self.held else ""
        return f"{len(labels):,} images {in_words(labels, classes)}{learn}{self._measured()}"

    def _measured(self) -> str:
        if self.measure is None:
            return ""
        return f", {len(self.measure):,} to measure on" + (f" ({self.how})" if self.how else "")


def parts_of(
    settings: FinetuneSettings,
    images: Images | Stream | None = None,
    validation: Images | None = None,
    main: bool = True,
) -> Parts:
    """The images to learn from and to measure on.

    Args:
        settings: name them: with a folder of validation; or a folder that has train/ beside val/ or test/; or with a part that is
            held out.
        images: labelled images, used instead of those that the settings name.
        validation: images to measure on, used instead of the folder.
        main: whether this process measures; the others do not open what is given to measure on.

    Raises:
        DataError, ConfigError: they do not fit.
    """
    classes = None if settings.classes is None else read_classes(settings.classes)
    folder, beside = settings.images, settings.validation
    how = ""
    if images is None:
        splits = splits_of(folder) if beside is None and validation is None else None
        if splits is not None:
            folder = splits.train
            if splits.validation is not None:
                beside, how = splits.validation, f"in {splits.validation.name}/"
        images = open_images(
            folder, labelled=True, classes=classes, shuffle_buffer=settings.shuffle_buffer, table=_table(settings)
        )
        if isinstance(images, TableImages) and images.parts is not None:
            images, held_rows, split = _parts_of_table(images)
            if beside is None and validation is None:  # else those rows are neither learned from nor measured on
                validation, how = held_rows, split
    _check_labelled(images)
    elsewhere = validation is None and beside is not None and not main
    if validation is None and beside is not None and main:
        validation = open_to_measure(beside, images.classes, _table(settings, beside), _problem(images))
    held = False
    if (
        validation is None
        and beside is None
        and settings.hold_out
        and not isinstance(images, Stream)
        and _spares(images)
    ):
        images, validation = hold_out(images, settings.seed, fraction=settings.hold_out, keep_single=True)
        each = " of each class" if _problem(images) == SINGLE else " at random"
        held, how = True, f"held out, {settings.hold_out:.0%}{each}"
    if settings.labels_per_class is not None:
        if isinstance(images, Stream):
            raise ConfigError(
                "labels_per_class is for folders and arrays; to choose, a stream would have to be read to its end."
            )
        if _problem(images) != SINGLE:
            raise ConfigError(
                "labels_per_class is for one class an image; these images have several labels, or numbers."
            )
        images = first_of_each_class(images, settings.labels_per_class)
    return Parts(images, validation, how, held, elsewhere)


def _spares(images: Images) -> bool:
    """Whether a class has an image to spare."""
    if images.labels is None or images.labels.ndim == 2:
        return images.labels is not None and len(images) > 1
    return int(np.bincount(images.labels).max()) > 1


def _problem(images: Images | Stream) -> str:
    return SINGLE if isinstance(images, Stream) or images.labels is None else problem_of(images.labels)


def _table(settings: FinetuneSettings, beside: Path | None = None) -> TableSettings | None:
    """How tables are read; `split` is for the images to learn from alone, and a folder beside a table needs nothing."""
    if beside is None:
        return settings
    return dataclasses.replace(settings, split=None, problem="auto") if is_table(beside) else None


def _parts_of_table(images: TableImages) -> tuple[Images, Images | None, str]:
    """The rows of a table to learn from, those to measure on, and where the latter come from."""
    learn, held, test = (images.in_part(names) for names in (TRAIN, VALIDATION, TEST))
    if learn is None:
        there = ", ".join(sorted(set(images.parts or ()))[:6])
        raise DataError(
            f"{images.table}: no row's column split says train; it says {there}. Choose rows with --split, or rename the column."
        )
    measure = held or test
    name = "" if measure is None or not measure.parts else f"split {measure.parts[0]}"
    return learn, measure, name


def _check_labelled(images: Images | Stream) -> None:
    if not images.labelled if isinstance(images, Stream) else images.labels is None:
        raise DataError("Fine-tuning needs labelled images: one subfolder per class, or a table.")
    if len(images.classes) < 2 and _problem(images) == SINGLE:
        raise DataError(
            f"There is only one class, {images.classes[0]}; a classifier needs two or more: one subfolder each."
        )


def first_of_each_class(images: Images, count: int) -> Images:
    """The first `count` images of each class, in the order of the folder or array.

    Raises:
        DataError: a class has fewer.
    """
    assert images.labels is not None
    chosen = []
    for number, name in enumerate(images.classes):
        found = np.flatnonzero(images.labels == number)
        if len(found) < count:
            raise DataError(f"Class {name} has {len(found)} images; {count} were asked for (labels_per_class).")
        chosen.append(found[:count])
    return images.subset(np.sort(np.concatenate(chosen)))

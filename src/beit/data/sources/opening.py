"""From what a user wrote to images: a folder, a table, tar shards, or a data set of the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from beit.core.errors import DataError
from beit.data.sources.hub import HubShards
from beit.data.sources.images import EmptyFolderError, FolderImages, Images
from beit.data.sources.patterns import ENDINGS, FORMS, names_tar_files, restore_slashes, tar_files
from beit.data.sources.shards import Shards
from beit.data.sources.spooled import SpooledImages
from beit.data.sources.stream import Stream
from beit.data.sources.table_images import TableImages, TableSettings
from beit.data.sources.tables import TABLES, is_table
from beit.data.sources.tar import TarShards
from beit.data.sources.wnids import classes_by_wnid


def open_images(
    source: str | Path,
    *,
    labelled: bool = False,
    classes: Sequence[str] | None = None,
    smallest_side: int = 1,
    shuffle_buffer: int = 4096,
    table: TableSettings | None = None,
    problem: str | None = None,
) -> Images | Stream:
    """The images of a folder or a table, by number; or those of tar shards or a data set of the Hub, as a stream.

    Args:
        source: one of
            - a folder;
            - a table (`beit.data.sources.tables.TABLES`) with the paths of images, and their labels;
            - tar files in WebDataset's layout: a path, pattern (`*`, `?`), list in braces (`{000..099}`, `{a,b}`) or
              http(s) address;
            - `hub:OWNER/NAME[:SPLIT]`, by default split train; also `hub:` and a local folder of Parquet files.
        labelled: with class numbers: from first-level subfolders, from `.cls` or `.json` beside the images, or from a column
            of the type ClassLabel.
        classes: names of the classes in their order; needed for labelled tar shards.
        smallest_side: images with a shorter side, in pixels, are refused when read.
        shuffle_buffer: number of images of a stream that are shuffled together.
        table: how a table is read.
        problem: the `problem_type` of the model that the labels are for, where there is one; else the labels of a table say it.

    Raises:
        DataError: there is no such folder, file or data set, or it has no images; or it has one class an image, and the problem is
            another.
        ConfigError: labels of tar shards are wanted without `classes`.
    """
    text = restore_slashes(os.fspath(source))
    if is_table(text) and os.path.isfile(text):
        return TableImages(text, table, labelled, classes, problem, smallest_side)
    if table is not None and (used := table.given()):
        raise DataError(
            f"{text} is no table, so --{used[0].replace('_', '-')} means nothing. Leave it out, or give a table ({', '.join(TABLES)})."
        )
    if text.startswith("hub:"):
        shards: Shards = _hub_shards(text)
    elif names_tar_files(text):
        shards = TarShards(tar_files(text))
    else:
        return _folder(text, labelled, classes, smallest_side)
    return Stream(shards, labelled, list(classes or []), smallest_side, shuffle_buffer)


def open_to_measure(
    source: str | Path, classes: Sequence[str], table: TableSettings | None = None, problem: str | None = None
) -> Images:
    """Labelled images by number, from any source that `open_images` knows: to evaluate, or to validate.

    Args:
        source: as for `open_images`. A stream is read to its end, into a temporary file.
        classes: names of the model's classes in their order. Folders of ImageNet, named by wnids, are matched to a model's 1,000
            classes by the published list.
        table: how a table is read.
        problem: the `problem_type` of the model.

    Raises:
        DataError: as `open_images`; or there are classes that are none of the model's.
        InputError: a label of a stream is none of the classes.
    """
    wnids = classes_by_wnid(source, classes)
    images = open_images(source, labelled=True, classes=wnids or classes, table=table, problem=problem)
    if isinstance(images, Stream):
        return SpooledImages(images)
    if wnids is not None:
        images.classes = list(classes)
    return images


def _folder(text: str, labelled: bool, classes: Sequence[str] | None, smallest_side: int) -> FolderImages:
    if not os.path.isdir(text):
        what = "is a file, but no tar file" if os.path.isfile(text) else "is not a folder"
        raise DataError(f"{text} {what}. {FORMS}")
    try:
        return FolderImages(text, labelled, classes, smallest_side)
    except EmptyFolderError as error:
        tars = [name for name in sorted(os.listdir(text)) if name.endswith(ENDINGS)]
        if not tars:
            raise
        raise DataError(
            f"{text} has no images, but {len(tars)} tar files. To stream them, give their pattern: "
            f"'{os.path.join(text, '*' + os.path.splitext(tars[0])[1])}'."
        ) from error


def _hub_shards(text: str) -> Shards:
    name, _, split = text.removeprefix("hub:").partition(":")
    name = os.path.expanduser(name)
    if not name or (not os.path.isdir(name) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is None):
        raise DataError(f"{text}: no such folder, and no name of a data set. {FORMS}")
    if not re.fullmatch(r"[\w.-]*", split):
        raise DataError(f"{text}: {split!r} is no name of a split, such as train or validation.")
    return HubShards(name, split or "train")

"""From what a user wrote to images: a folder, tar shards, a data set of the Hub, or folders with label maps."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beit.core.errors import DataError
from beit.data.embedded.pasted_garments import PastedGarments
from beit.data.label_maps import LabelRules
from beit.data.sources.hub import HubShards
from beit.data.sources.images import FolderImages, Images
from beit.data.sources.labelled_folders import LabelledFolders
from beit.data.sources.patterns import ENDINGS, FORMS, names_tar_files, restored_address, tar_files
from beit.data.sources.shards import Shards
from beit.data.sources.stream import Stream
from beit.data.sources.tar import TarShards


def open_images(
    source: str | Path,
    *,
    labelled: bool = False,
    classes: Sequence[str] | None = None,
    smallest_side: int = 1,
    shuffle_buffer: int = 4096,
) -> Images | Stream:
    """Images of a folder by number, or those of tar shards or of the Hub as a stream.

    Args:
        source: a folder; a path, pattern (`*`, `?`), list in braces (`{000..099}`, `{a,b}`) or http(s) address of tar
            files in WebDataset's layout; or `hub:OWNER/NAME[:SPLIT]`, split train if not given, `hub:` and a local folder
            of Parquet files.
        labelled: with class numbers: first-level subfolders, `.cls` or `.json` beside images, or a ClassLabel column.
        classes: names of the classes in their order; needed for labelled tar shards.
        smallest_side: images with a shorter side are refused when read.
        shuffle_buffer: images of a stream that are shuffled together.

    Raises:
        DataError: there is nothing of the kind.
        ConfigError: labels of tar shards are wanted without `classes`.
    """
    text = restored_address(os.fspath(source))
    if text.startswith("hub:"):
        shards: Shards = _hub(text)
    elif names_tar_files(text):
        shards = TarShards(tar_files(text))
    else:
        if not os.path.isdir(text):
            what = "is a file, but no tar file" if os.path.isfile(text) else "is not a folder"
            raise DataError(f"{text} {what}. {FORMS}")
        try:
            return FolderImages(text, labelled, classes, smallest_side)
        except DataError as error:
            tars = [name for name in sorted(os.listdir(text)) if name.endswith(ENDINGS)]
            if "no images" not in str(error) or not tars:
                raise
            raise DataError(
                f"{text} has no images, but {len(tars)} tar files. To stream them, give their pattern: "
                f"'{os.path.join(text, '*' + os.path.splitext(tars[0])[1])}'."
            ) from error
    return Stream(shards, labelled, list(classes or []), smallest_side, shuffle_buffer)


def open_segmented(
    images: Path, maps: Path | None, classes: Sequence[str] | None, rules: LabelRules, test: bool
) -> Any:
    """The images and maps that settings name: two folders, or the embedded task (its test part if `test`).

    Raises:
        DataError: as `LabelledFolders`, or folders without maps.
    """
    if str(images).startswith("embedded:"):
        if str(images) != "embedded:pasted_garments":
            raise DataError(f"There are no embedded images {str(images)[9:]!r}; wanted embedded:pasted_garments.")
        return PastedGarments(test=test)
    if maps is None:
        raise DataError(
            f"Got no label maps for {images}. Give their folder: --maps, or --validation-maps for validation."
        )
    return LabelledFolders(images, maps, classes, rules)


def _hub(text: str) -> Shards:
    name, _, split = text.removeprefix("hub:").partition(":")
    name = os.path.expanduser(name)
    if not name or (not os.path.isdir(name) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is None):
        raise DataError(f"{text}: no such folder, and no name of a data set. {FORMS}")
    if not re.fullmatch(r"[\w.-]*", split):
        raise DataError(f"{text}: {split!r} is no name of a split, such as train or validation.")
    return HubShards(name, split or "train")

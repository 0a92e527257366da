"""Folders of ImageNet are named by WordNet ids (n01440764), classes of models by words (tench): which belongs to which."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger("beit")

_WNID = re.compile(r"n\d{8}")


@functools.cache
def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 wnids of ImageNet-1k in the order in which models number the classes."""
    text = Path(__file__).with_name("imagenet_wnids.txt").read_text(encoding="ascii")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def classes_by_wnid(folder: str | os.PathLike[str], classes: Sequence[str]) -> list[str] | None:
    """The wnid of each class of a model, where the subfolders are named by wnids and the model knows none of them.

    Args:
        folder: of class folders; any of the 1,000, such as the ten of Imagenette.
        classes: names of the model's classes in their order. Nothing but their number, 1,000, says that they are ImageNet's,
            so this is logged as a guess.

    Returns:
        None where the folder is none of ImageNet's, or the model has other classes.
    """
    wnids = imagenet_wnids()
    if len(classes) != len(wnids):
        return None
    try:
        found = {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")}
    except OSError:  # no folder; whoever opens it says so
        return None
    if not found or not all(map(_WNID.fullmatch, found)) or not found <= set(wnids) or found & set(classes):
        return None
    example = min(found)
    logger.warning(
        "The folders are named by wnids, the model's classes are not: they are matched by the list of ImageNet-1k (%s is class %d, "
        "%s).",
        example,
        wnids.index(example),
        classes[wnids.index(example)],
    )
    return list(wnids)

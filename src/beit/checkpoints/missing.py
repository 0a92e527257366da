"""A name under which nothing is here: whether it can still be an id on the Hub, and what may have been meant."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from beit.checkpoints import catalogue
from beit.core.errors import CheckpointError
from beit.core.suggest import did_you_mean, similar
from beit.core.text import printable

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_MOST_ENTRIES = 10_000  # of a folder that are looked at for a similar name


def is_path(name: str) -> bool:
    """Whether a name that no folder has can only be a path: it is no owner/name, or its owner is a folder here.

    `runs/beit-tiny` beside a folder `runs` is a mistyped path. An id of the catalogue stays an id.
    """
    if not _ID.fullmatch(name) or name.startswith((".", "/", "~")):
        return True
    return catalogue.find(name) is None and Path(name).parent.is_dir()


def advice(name: str, words: Iterable[str] = ()) -> str:
    """What may have been meant: a similar folder or file beside it, a published checkpoint, or one of `words`.

    Returns:
        A question, with a space before it; "" where nothing is similar, or the name is a published one.
    """
    if catalogue.find(name) is not None:
        return ""
    path = Path(name).expanduser()
    near = [os.path.join(os.path.dirname(name), entry) for entry in similar(path.name, _entries(path.parent))]
    near += [other for other in similar(name, [*words, *catalogue.names()]) if other not in near]
    return did_you_mean(near[:3])


def no_such_folder(name: str) -> str:
    """The message for a path that nothing is at."""
    parent = Path(name).expanduser().parent
    found = advice(name)
    if not found and not parent.is_dir():
        found = f" {printable(parent)} is no folder either."
    elif not found and os.path.dirname(name):
        found = f" {printable(parent)} holds {', '.join(map(printable, _entries(parent)[:8])) or 'nothing'}."
    else:
        found = found or " Give an existing model folder or a Hub id like owner/name."
    if _ID.fullmatch(name) and not name.startswith("."):
        found += f" If it is a repository on the Hub, download it first: hf download {name}"
    return f"No such folder: {name}.{found}"


def check_word(name: str, sizes: Iterable[str]) -> None:
    """Refuse a plain word that is neither one of the `sizes`, nor a checkpoint's name, nor in the current folder.

    Raises:
        CheckpointError: it names the sizes, and what may have been meant.
    """
    word = os.sep not in name and "/" not in name and name not in ("", ".", "..", "~")
    if word and catalogue.find(name) is None and not os.path.lexists(name) and name not in (sizes := list(sizes)):
        raise CheckpointError(
            f"There is no model {name!r}: no size ({', '.join(sizes)}), no folder or file here, no published checkpoint."
            f"{advice(name, sizes)} beit models lists the published ones."
        )


def _entries(folder: Path) -> list[str]:
    """Names in a folder, without hidden ones; none where it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(
                entry.name
                for entry, _ in zip(found, range(_MOST_ENTRIES), strict=False)
                if not entry.name.startswith(".")
            )
    except OSError:
        return []

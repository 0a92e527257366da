"""`open_images`: from what a user wrote to images. A folder, tar shards, a data set of the Hub."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from beit.core.errors import DataError
from beit.data.sources.images import FolderImages, Images
from beit.data.sources.stream import Stream
from beit.data.sources.tar import Shards, TarShards, is_url

_ENDINGS = (".tar", ".tar.gz", ".tgz")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_FILES = 1_000_000
_FORMS = (
    "Wanted a folder of images; tar shards, such as shards/train-{000..099}.tar, 'shards/*.tar' or "
    "https://server/train-{000..099}.tar; or hub:OWNER/NAME[:SPLIT], a data set of the Hub."
)


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
    text = _address(os.fspath(source))
    if text.startswith("hub:"):
        shards: Shards = _hub(text)
    elif _is_tar(text):
        shards = TarShards(_files(text))
    else:
        if not os.path.isdir(text):
            what = "is a file, but no tar file" if os.path.isfile(text) else "is not a folder"
            raise DataError(f"{text} {what}. {_FORMS}")
        try:
            return FolderImages(text, labelled, classes, smallest_side)
        except DataError as error:
            tars = [name for name in sorted(os.listdir(text)) if name.endswith(_ENDINGS)]
            if "no images" not in str(error) or not tars:
                raise
            raise DataError(
                f"{text} has no images, but {len(tars)} tar files. To stream them, give their pattern: "
                f"'{os.path.join(text, '*' + os.path.splitext(tars[0])[1])}'."
            ) from error
    return Stream(shards, labelled, list(classes or []), smallest_side, shuffle_buffer)


def expand_braces(text: str) -> list[str]:
    """`a-{08..10}.tar` → `a-08.tar`, `a-09.tar`, `a-10.tar`; `{a,b}` → `a`, `b`; several braces give all combinations.

    Raises:
        DataError: what is in braces is neither a range nor a list, or gives more than a million names.
    """
    parts = _BRACES.split(text)
    if "{" in "".join(parts[::2]) or "}" in "".join(parts[::2]):
        raise DataError(f"{text}: a brace without its partner, or braces in braces. Write {{000..099}} or {{a,b}}.")
    choices = [[part] if number % 2 == 0 else _choices(part, text) for number, part in enumerate(parts)]
    total = 1
    for some in choices:
        total *= len(some)
    if total > _MOST_FILES:
        raise DataError(f"{text} stands for {total:,} files; wanted at most {_MOST_FILES:,}.")
    return ["".join(combination) for combination in itertools.product(*choices)]


def _choices(inside: str, text: str) -> list[str]:
    span = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if span is None:
        if "," not in inside:
            raise DataError(f"{text}: {{{inside}}} is no range and no list. Write {{000..099}} or {{a,b}}.")
        return inside.split(",")
    first, last = int(span[1]), int(span[2])
    if first > last:
        raise DataError(f"{text}: {{{inside}}} goes downwards. Write {{{last}..{first}}}.")
    if last - first >= _MOST_FILES:
        raise DataError(f"{text} stands for {last - first + 1:,} files; wanted at most {_MOST_FILES:,}.")
    padded = any(len(end) > 1 and end[0] == "0" for end in span.groups())  # as in a shell
    width = max(map(len, span.groups())) if padded else 0
    return [str(number).zfill(width) for number in range(first, last + 1)]


def _address(text: str) -> str:
    """`Path` makes one slash of the two in https://; give it back."""
    return re.sub(r"^(https?):/(?=[^/])", r"\1://", text)


def _is_tar(text: str) -> bool:
    if re.match(r"[a-z0-9]+://", text) and not is_url(text):
        raise DataError(f"{text}: only http:// and https:// can be read. {_FORMS}")
    path = re.split(r"[?#]", text)[0] if is_url(text) else text
    if is_url(text):
        return True
    last = re.sub(r"\{([^{}]*)\}$", lambda found: found[1].split(",")[-1].rpartition("..")[2], path)
    return last.endswith(_ENDINGS) and not os.path.isdir(text)


def _files(text: str) -> list[str]:
    found: list[str] = []
    # A name that exists is meant, whatever signs are in it.
    for name in [text] if os.path.isfile(text) else expand_braces(text):
        if is_url(name):
            if "*" in name:
                raise DataError(f"{name}: a server does not list its files. Write numbers as {{000..099}}.")
            if not name.partition("?")[0].endswith(_ENDINGS):
                raise DataError(f"{name} does not end in {', '.join(_ENDINGS)}. {_FORMS}")
            found.append(name)
        elif os.path.isfile(name):
            found.append(name)
        else:
            matching = sorted(path for path in glob.glob(name) if os.path.isfile(path))
            if not matching:
                raise DataError(f"{name}: {'nothing matches' if glob.has_magic(name) else 'no such file'}. {_FORMS}")
            found += matching
    wrong = [name for name in found if not name.partition("?")[0].endswith(_ENDINGS)]
    if wrong:
        raise DataError(f"{wrong[0]} is no tar file. {_FORMS}")
    twice = len(found) - len(set(found))
    if twice:
        raise DataError(f"{text} names {twice} files twice.")
    return found


def _hub(text: str) -> Shards:
    from beit.data.sources.hub import HubShards

    name, _, split = text.removeprefix("hub:").partition(":")
    name = os.path.expanduser(name)
    if not name or (not os.path.isdir(name) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is None):
        raise DataError(f"{text}: no such folder, and no name of a data set. {_FORMS}")
    if not re.fullmatch(r"[\w.-]*", split):
        raise DataError(f"{text}: {split!r} is no name of a split, such as train or validation.")
    return HubShards(name, split or "train")

"""Which tar files a path, a pattern, a list in braces or an address names."""

from __future__ import annotations

import glob
import itertools
import os
import re

from beit.core.errors import DataError
from beit.core.text import printable

ENDINGS = (".tar", ".tar.gz", ".tgz")
FORMS = (
    "Wanted a folder of images; tar shards, such as shards/train-{000..099}.tar, 'shards/*.tar' or "
    "https://server/train-{000..099}.tar; or hub:OWNER/NAME[:SPLIT], a data set of the Hub."
)
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_FILES = 1_000_000


def is_url(name: str) -> bool:
    """Whether a name is an http(s) address."""
    return name.startswith(("http://", "https://"))


def restore_slashes(text: str) -> str:
    """An address as the user wrote it: `Path` turns the two slashes of https:// into one."""
    return re.sub(r"^(https?):/(?=[^/])", r"\1://", text)


def names_tar_files(text: str) -> bool:
    """Whether a text names tar files rather than a folder. Every address counts; `tar_files` checks it.

    Raises:
        DataError: an address of another kind than http(s).
    """
    if is_url(text):
        return True
    if re.match(r"[a-z0-9]+://", text):
        raise DataError(f"{text}: only http:// and https:// can be read. {FORMS}")
    # Of braces at the end, the last choice decides: `x.{tar,tgz}` ends in `.tgz`, `x.ta{q..r}` in `.tar`.
    last = re.sub(r"\{([^{}]*)\}$", lambda found: found[1].split(",")[-1].rpartition("..")[2], text)
    return last.endswith(ENDINGS) and not os.path.isdir(text)


def tar_files(text: str) -> list[str]:
    """The paths and addresses of the tar files that a text names, in their order.

    Raises:
        DataError: there is no such file, a name is not of a tar file, or a file is named twice.
    """
    found: list[str] = []
    # A file of exactly this name comes first: braces and stars may be part of a name.
    for name in [text] if os.path.isfile(text) else expand_braces(text):
        if is_url(name):
            if "*" in name:
                raise DataError(f"{name}: a server does not list its files. Write numbers as {{000..099}}.")
            if not name.partition("?")[0].endswith(ENDINGS):
                raise DataError(f"{name} does not end in {', '.join(ENDINGS)}. {FORMS}")
            found.append(name)
        elif os.path.isfile(name):
            found.append(name)
        else:
            matching = sorted(glob.glob(name)) or [name] * os.path.lexists(name)
            other = [path for path in matching if not os.path.isfile(path)]
            if other:
                raise DataError(
                    f"{printable(other[0])} is not a file, but a folder, a pipe, a device or a broken link. {FORMS}"
                )
            if not matching:
                raise DataError(f"{name}: {'nothing matches' if glob.has_magic(name) else 'no such file'}. {FORMS}")
            found += matching
    wrong = [name for name in found if not name.partition("?")[0].endswith(ENDINGS)]
    if wrong:
        raise DataError(f"{wrong[0]} is no tar file. {FORMS}")
    twice = len(found) - len(set(found))
    if twice:
        raise DataError(f"{text} names {twice} files twice.")
    return found


def expand_braces(text: str) -> list[str]:
    """`a-{08..10}.tar` → `a-08.tar`, `a-09.tar`, `a-10.tar`; `{a,b}` → `a`, `b`; several braces give all combinations.

    Raises:
        DataError: braces hold neither a range nor a list, or stand for more than a million names.
    """
    parts = _BRACES.split(text)  # text and the insides of braces in turn
    if "{" in "".join(parts[::2]) or "}" in "".join(parts[::2]):
        raise DataError(f"{text}: a brace without its partner, or nested braces. Write {{000..099}} or {{a,b}}.")
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
            raise DataError(f"{text}: {{{inside}}} is neither a range nor a list. Write {{000..099}} or {{a,b}}.")
        return inside.split(",")
    first, last = int(span[1]), int(span[2])
    if first > last:
        raise DataError(f"{text}: {{{inside}}} goes downwards. Write {{{last}..{first}}}.")
    if last - first >= _MOST_FILES:
        raise DataError(f"{text} stands for {last - first + 1:,} files; wanted at most {_MOST_FILES:,}.")
    padded = any(len(end) > 1 and end[0] == "0" for end in span.groups())  # as in a shell: 08..10 has two digits each
    width = max(map(len, span.groups())) if padded else 0
    return [str(number).zfill(width) for number in range(first, last + 1)]

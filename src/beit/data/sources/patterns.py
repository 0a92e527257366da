"""Which tar files a path, a pattern or an address names."""

from __future__ import annotations

import glob
import itertools
import os
import re

from beit.core.errors import DataError

ENDINGS = (".tar", ".tar.gz", ".tgz")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_FILES = 1_000_000
FORMS = (
    "Wanted a folder of images; tar shards, such as shards/train-{000..099}.tar, 'shards/*.tar' or "
    "https://server/train-{000..099}.tar; or hub:OWNER/NAME[:SPLIT], a data set of the Hub."
)


def is_url(name: str) -> bool:
    """Whether a name is an address."""
    return name.startswith(("http://", "https://"))


def names_tar_files(text: str) -> bool:
    if re.match(r"[a-z0-9]+://", text) and not is_url(text):
        raise DataError(f"{text}: only http:// and https:// can be read. {FORMS}")
    path = re.split(r"[?#]", text)[0] if is_url(text) else text
    if is_url(text):
        return True
    last = re.sub(r"\{([^{}]*)\}$", lambda found: found[1].split(",")[-1].rpartition("..")[2], path)
    return last.endswith(ENDINGS) and not os.path.isdir(text)


def tar_files(text: str) -> list[str]:
    found: list[str] = []
    # A name that exists is meant, whatever signs are in it.
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
            matching = sorted(path for path in glob.glob(name) if os.path.isfile(path))
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


def restored_address(text: str) -> str:
    """`Path` makes one slash of the two in https://; give it back."""
    return re.sub(r"^(https?):/(?=[^/])", r"\1://", text)


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

"""Which image files a folder holds: millions of paths in one block of bytes, listed without opening any file."""

from __future__ import annotations

import logging
import os
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from beit.core.errors import DataError
from beit.core.text import printable
from beit.data.decode import SUFFIXES

_SUFFIXES = tuple(suffix.encode() for suffix in SUFFIXES)

_SHOWN = 10  # folders in a warning
# Files that stand beside images and are none; of all others that are left out the suffixes are named.
_BESIDE = frozenset(
    b".txt .json .jsonl .csv .tsv .xml .md .html .yaml .yml .toml .ini .db .log .py .sh .cls .npy .npz .parquet .tar .gz .tgz .zip "
    b".pdf .pt .pth .safetensors".split()
)
_MOST_SUFFIXES = 100  # that are counted
_MOST_VISITS = 16  # of one folder by links

logger = logging.getLogger("beit")


class PathList(Sequence[str]):
    """The paths of files in one folder, as a compact sequence of str: each takes its own bytes and eight more.

    A list of str takes several times that. And reading an item of a list changes its reference count, by which a forked
    worker copies the memory around it: after an epoch, each worker would hold all paths.

    Args:
        folder: what each path begins with.
        blob: the paths below the folder, each with a line feed at its end.
        lengths: number of bytes of each path, with its line feed.
    """

    def __init__(self, folder: str, blob: bytes, lengths: Any) -> None:
        self.folder, self.blob = folder, blob
        self.offsets = np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> PathList: ...
    def __getitem__(self, index: int | slice) -> str | PathList:
        """Path `index`; or, of a slice, the `PathList` of those paths."""
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        return os.path.join(self.folder, os.fsdecode(self.relative(index)))

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))  # noqa: B905

    __hash__ = None  # type: ignore[assignment]

    def relative(self, index: int) -> bytes:
        """Path `index` below the folder, as bytes."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} paths; got number {index}.")
        index %= len(self)
        return self.blob[self.offsets[index] : self.offsets[index + 1] - 1]

    def take(self, indices: Iterable[int]) -> PathList:
        """Only the paths with these numbers, in this order."""
        parts = [self.relative(int(index)) + b"\n" for index in indices]
        return PathList(self.folder, b"".join(parts), [len(part) for part in parts])

    def first_folders(self) -> Iterator[tuple[str, int, int]]:
        """Of sorted paths: (first-level folder, number of its first path, number after its last).

        Files directly in the folder come one by one, with "" as their first-level folder.
        """
        start = 0
        while start < len(self):
            head, slash, _ = self.relative(start).partition(b"/")
            # "0" is the byte after "/": all paths that begin with `head/` sort before `head0`.
            end = bisect_left(range(len(self)), head + b"0", start, key=self.relative) if slash else start + 1
            yield os.fsdecode(head) if slash else "", start, end
            start = end


def list_images(folder: Path) -> PathList:
    """The image files of a folder and its subfolders, known by their suffixes, sorted by path.

    Hidden files and folders are left out. Links are followed, except those that lead back to a folder around them, and those to
    a folder that so many links have led to already that the folders seem to be linked with each other. These, and subfolders
    that cannot be read, are left out with a warning.

    Raises:
        DataError: the folder itself cannot be read.
    """
    walk = _Walk(os.fsencode(folder))
    try:
        walk.all()
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be read: {error.strerror}.") from error
    if walk.left_out:
        more = f"\n… and {len(walk.left_out) - _SHOWN:,} more" if len(walk.left_out) > _SHOWN else ""
        logger.warning("%s%s", "\n".join(walk.left_out[:_SHOWN]), more)
    if walk.others:
        kinds = [
            f"{count:,} {printable(os.fsdecode(suffix)) or 'without a suffix'}"
            for suffix, count in walk.others.most_common(5)
        ]
        logger.warning(
            "%s: files of unknown suffixes are left out: %s%s.",
            printable(folder),
            ", ".join(kinds),
            ", …" * (len(walk.others) > 5),
        )
    return PathList(os.fspath(folder), bytes(walk.blob), walk.lengths)


# An image file (then the second is None) or a subfolder, under its name, that of a folder with a slash at its end.
_Entry = tuple[bytes, "os.DirEntry[bytes] | None"]


class _Level(NamedTuple):
    """A folder that is being listed.

    Attributes:
        entries: those that have not been looked at yet.
        below: its path below the folder that is listed, with a slash at its end; empty for that folder.
        above: real path of the folder (the last one), and of those folders above it that a link led into or out of.
    """

    entries: Iterator[_Entry]
    below: bytes
    above: tuple[bytes, ...]


class _Walk:
    """Lists a folder. Without recursion: folders may be nested deeper than calls.

    Attributes:
        blob: as in `PathList`.
        lengths: as in `PathList`.
        left_out: one line per folder that is left out, with the reason.
        others: suffix → number of files that are left out because of it.
    """

    def __init__(self, folder: bytes) -> None:
        self.folder = folder
        self.blob, self.lengths = bytearray(), array("i")
        self.left_out: list[str] = []
        self.others: Counter[bytes] = Counter()
        self._visits: Counter[bytes] = Counter()  # of the folders that links lead to

    def all(self) -> None:
        """List the folder. Raises OSError if it cannot be read itself."""
        levels = [_Level(_entries(self.folder, self.others), b"", (os.path.realpath(self.folder),))]
        blob, lengths = self.blob, self.lengths
        while levels:
            level = levels[-1]
            below = level.below
            for name, inner in level.entries:
                if inner is None:
                    path = below + name + b"\n"
                    blob += path
                    lengths.append(len(path))
                    continue
                try:
                    deeper = self._enter(level, name, inner)
                except OSError as error:
                    self._leave_out(inner, f"cannot be read and is left out: {error.strerror}")
                    continue
                if deeper is not None:
                    levels.append(deeper)  # it comes before the other entries of this level
                    break
            else:
                levels.pop()

    def _enter(self, level: _Level, name: bytes, inner: os.DirEntry[bytes]) -> _Level | None:
        chain = (*level.above[:-1], os.path.join(level.above[-1], inner.name))
        if inner.is_symlink():
            target = os.path.realpath(inner.path)
            if any(os.path.join(place, b"").startswith(os.path.join(target, b"")) for place in level.above):
                self._leave_out(inner, "is left out: it is a link to a folder around it")
                return None
            self._visits[target] += 1
            if self._visits[target] > _MOST_VISITS:  # among n folders that link to each other, there are n! paths
                self._leave_out(inner, f"is left out: {_MOST_VISITS} links led to the same folder before")
                return None
            chain = (*chain, target)
        return _Level(_entries(inner.path, self.others), level.below + name, chain)

    def _leave_out(self, inner: os.DirEntry[bytes], why: str) -> None:
        self.left_out.append(f"{printable(os.fsdecode(inner.path))} {why}")


def _entries(folder: bytes, others: Counter[bytes]) -> Iterator[_Entry]:
    """The images and subfolders of a folder, sorted; other files are counted. Raises OSError if it cannot be read."""
    entries: list[_Entry] = []
    with os.scandir(folder) as found:
        for entry in found:
            name = entry.name
            if name.startswith(b"."):
                continue
            lower = name.lower()
            image = lower.endswith(_SUFFIXES)
            # Following a link takes a system call per file; one that is named like an image is taken for an image.
            if entry.is_dir(follow_symlinks=not image):
                entries.append((name + b"/", entry))  # with the slash, folders sort as the paths in them do
            elif image:
                entries.append((name, None))
            else:
                _, dot, ending = lower.rpartition(b".")
                suffix = dot + ending if dot else b""
                if suffix not in _BESIDE and (suffix in others or len(others) < _MOST_SUFFIXES):
                    others[suffix] += 1
    entries.sort(key=itemgetter(0))
    return iter(entries)

"""Which image files a folder holds: millions of paths in one block of bytes, listed without opening any file."""

from __future__ import annotations

import logging
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from beit.core.errors import DataError
from beit.data.decode import SUFFIXES

_SUFFIXES = tuple(suffix.encode() for suffix in SUFFIXES)

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

    Hidden files and folders are left out. Links are followed, except those that lead back to a folder around them.
    Subfolders that cannot be read are left out with a warning.

    Raises:
        DataError: the folder itself cannot be read.
    """
    blob, lengths = bytearray(), array("i")
    try:
        _walk(os.fsencode(folder), b"", (os.path.realpath(os.fsencode(folder)),), blob, lengths)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from error
    return PathList(os.fspath(folder), bytes(blob), lengths)


def _walk(folder: bytes, below: bytes, above: tuple[bytes, ...], blob: bytearray, lengths: array[int]) -> None:
    """Add the images of a folder to `blob` and `lengths`.

    Args:
        folder: its path.
        below: the same below the folder that is listed, with a slash at its end; empty for that folder.
        above: real path of the folder (the last one), and of those folders above it that a link led into or out of.
        blob: as in `PathList`.
        lengths: as in `PathList`.
    """
    entries: list[tuple[bytes, os.DirEntry[bytes] | None]] = []
    with os.scandir(folder) as found:
        for entry in found:
            name = entry.name
            if name.startswith(b"."):
                continue
            image = name.lower().endswith(_SUFFIXES)
            # Following a link takes a system call per file; one that is named like an image is taken for an image.
            if entry.is_dir(follow_symlinks=not image):
                entries.append((name + b"/", entry))  # with the slash, folders sort as the paths in them do
            elif image:
                entries.append((name, None))
    entries.sort(key=lambda item: item[0])
    for name, inner in entries:
        if inner is None:
            path = below + name + b"\n"
            blob += path
            lengths.append(len(path))
            continue
        chain = (*above[:-1], os.path.join(above[-1], inner.name))
        if inner.is_symlink():
            target = os.path.realpath(inner.path)
            if any(os.path.join(place, b"").startswith(os.path.join(target, b"")) for place in above):
                continue  # a link to a folder around it: walking there would never end
            chain = (*above, target)
        try:
            _walk(inner.path, below + name, chain, blob, lengths)
        except OSError as error:
            logger.warning("%s cannot be read and is left out: %s", os.fsdecode(inner.path), error.strerror)

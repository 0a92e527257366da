"""Which image files a folder holds: millions of paths in one block of bytes, listed without a look at any file."""

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

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_SUFFIXES = tuple(suffix.encode() for suffix in SUFFIXES)

logger = logging.getLogger("beit")


class PathList(Sequence[str]):
    """Paths below one folder; a sequence of str that takes a path's own bytes and eight more.

    A list of str takes several times that, and each process that looks at one of its items copies the memory around it.

    Args:
        folder: what each path begins with.
        blob: the paths below it, each with a line feed at its end.
        lengths: bytes of each, its line feed included.
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
        """A path, or some of them."""
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        return os.path.join(self.folder, os.fsdecode(self.relative(index)))

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))  # noqa: B905

    __hash__ = None  # type: ignore[assignment]

    def relative(self, index: int) -> bytes:
        """Path `index` below the folder."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} paths; got number {index}.")
        index %= len(self)
        return self.blob[self.offsets[index] : self.offsets[index + 1] - 1]

    def take(self, indices: Iterable[int]) -> PathList:
        """The paths of these numbers, in this order."""
        parts = [self.relative(int(index)) + b"\n" for index in indices]
        return PathList(self.folder, b"".join(parts), [len(part) for part in parts])

    def first_folders(self) -> Iterator[tuple[str, int, int]]:
        """Of sorted paths, (first folder, first number, number after the last); the folder of a file without one is ""."""
        start = 0
        while start < len(self):
            head, slash, _ = self.relative(start).partition(b"/")
            # "0" comes right after "/": all that begins with `head/` lies before it.
            end = bisect_left(range(len(self)), head + b"0", start, key=self.relative) if slash else start + 1
            yield os.fsdecode(head) if slash else "", start, end
            start = end


def list_images(folder: Path) -> PathList:
    """Paths of the image files below a folder, by their suffix, sorted; hidden files and folders are passed over.

    Links are followed, but not those that lead back to a folder in which they lie. Folders that may not be read are passed
    over with a warning.

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
    """Add the images of a folder whose path begins with `below`; `above`: real paths of it and of where links were met."""
    entries: list[tuple[bytes, os.DirEntry[bytes] | None]] = []
    with os.scandir(folder) as found:
        for entry in found:
            name = entry.name
            if name.startswith(b"."):
                continue
            image = name.lower().endswith(_SUFFIXES)
            # A look at a link's target takes a call a file; one that is named like an image is taken for one.
            if entry.is_dir(follow_symlinks=not image):
                entries.append((name + b"/", entry))  # so that folders sort as the paths in them do
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
                continue  # it would never end
            chain = (*above, target)
        try:
            _walk(inner.path, below + name, chain, blob, lengths)
        except OSError as error:
            logger.warning("%s cannot be read and is passed over: %s", os.fsdecode(inner.path), error.strerror)

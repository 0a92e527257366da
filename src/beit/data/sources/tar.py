"""Tar shards in WebDataset's layout, local or behind http(s), read in order from any sample on. No decoding here.

Members that stand next to each other and share their name up to the first dot of its last part are one sample:
`n01/0001.jpg`, `n01/0001.cls` (https://github.com/webdataset/webdataset).
"""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from beit.core.errors import DataError
from beit.core.http import RemoteFile
from beit.data.sources.paths import SUFFIXES
from beit.data.sources.patterns import is_url
from beit.data.sources.shards import EncodedSample, TruncatedShard

_LARGEST_TEXT = 1 << 20  # bytes of a label or of an extended header; larger ones are damaged
_BLOCK = tarfile.BLOCKSIZE  # 512 bytes: headers and data are padded to whole blocks


class TarShards:
    """Tar files, plain or gzipped, local or behind http(s). As `Shards`.

    Args:
        files: paths or addresses; at least one.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self.files = list(files)
        # Without folder or server: an image's crops follow from its shard's name, and must not depend on where that lies.
        self.names = [os.path.basename(file.partition("?")[0] if is_url(file) else file) for file in files]
        self.classes: list[str] = []
        self.total: int | None = None

    def read(self, number: int, first: int = 0) -> Iterator[EncodedSample | TruncatedShard]:
        """The samples of shard `number` from sample `first` on; of a damaged shard, a `TruncatedShard` at the end.

        Raises:
            DataError: the file cannot be opened, or its server not be reached.
        """
        name = self.files[number]
        remote = RemoteFile(name) if is_url(name) else None
        try:
            file: Any = remote or open(name, "rb")  # noqa: SIM115  (closed below)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}.") from error
        try:
            inner: Any = _ReadOnly(file)
            packed = name.partition("?")[0].endswith((".gz", ".tgz"))
            yield from _samples(gzip.GzipFile(fileobj=inner, mode="rb") if packed else file, name, first)
        finally:
            file.close()


class _DamagedTarError(Exception):
    """A tar file ends early or makes no sense; the text says how."""


class _ReadOnly:
    """A file of which gzip sees no method but `read`: a remote file cannot seek."""

    def __init__(self, file: Any) -> None:
        self.read = file.read


class _Sample:
    """The members of one key, collected as they are read.

    Args:
        key: what their names have in common.
        wanted: whether to read their data; False for samples before the first one that was asked for.
    """

    def __init__(self, key: str, wanted: bool) -> None:
        self.key, self.wanted = key, wanted
        self.name = ""
        self.image: bytes | None = None
        self.exact = False  # whether the image has a plain suffix: 1.jpg, not 1.depth.png
        self.has_label = False
        self.label: int | str | None = None

    def add(self, name: str, suffix: str, size: int, read: Callable[[int], bytes]) -> None:
        """Take a member if it is an image or a label. The first image counts, or the first with a plain suffix."""
        if suffix.endswith(SUFFIXES) and (self.image is None or (suffix in SUFFIXES and not self.exact)):
            self.image = read(size) if self.wanted else b""
            self.name, self.exact = name, suffix in SUFFIXES
        elif suffix in (".cls", ".json") and size <= _LARGEST_TEXT:
            self.has_label = True
            found = _label(suffix, read(size)) if self.wanted else None
            self.label = self.label if found is None else found

    def encoded(self, shard: str) -> EncodedSample:
        return EncodedSample(self.key, f"{shard}: {self.name}", self.image or b"", self.label)


def _samples(file: Any, shard: str, first: int) -> Iterator[EncodedSample | TruncatedShard]:
    """Group members into samples. The data of samples before number `first` are skipped, not read."""
    number, labelled, sample, truncated = 0, False, _Sample("", False), None
    try:
        for name, size in (reader := _Members(file)):
            folder, _, base = name.rpartition("/")
            stem, dot, suffix = base.partition(".")
            if not stem:  # hidden files, such as macOS leaves in archives
                continue
            key = f"{folder}/{stem}" if folder else stem
            if key != sample.key:
                if sample.image is not None:
                    if sample.wanted:
                        yield sample.encoded(shard)
                    number, labelled = number + 1, labelled or sample.has_label
                sample = _Sample(key, number >= first)
            sample.add(name, dot + suffix.lower(), size, reader.data)
    except (_DamagedTarError, EOFError, zlib.error, OSError, tarfile.TarError) as error:
        truncated = TruncatedShard(f"{shard}: damaged or cut, the rest of it is left out ({error}).")
    # The last sample. At a damage its image is whole, but its label may have been lost: then, where others of this shard
    # have labels, it is dropped rather than reported as unlabelled.
    incomplete = truncated and labelled and sample.label is None
    if sample.image is not None and sample.wanted and not incomplete:
        yield sample.encoded(shard)
    if truncated:
        yield truncated


def _label(suffix: str, data: bytes) -> int | str | None:
    """The class number or name in a .cls or .json member; None if there is none."""
    text = data.decode("utf-8", "replace").strip()
    value: Any = text
    if suffix == ".json":
        try:
            values = json.loads(text)
        except ValueError:
            return None
        values = values if isinstance(values, dict) else {}
        value = values.get("label", values.get("class"))
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) and value != "" else None


class _Members:
    """Iterates over (name, size) of the regular files in a tar stream. `data` reads the current one; else it is skipped.

    Python's tarfile is not used to read: where a header is cut or damaged it ends without an error, and it keeps a record of
    every member in memory.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self.left = 0  # bytes to the next header

    def data(self, size: int) -> bytes:
        """The next `size` bytes of the current member."""
        found = self.file.read(size)
        self.left -= len(found)
        if len(found) < size:
            raise _DamagedTarError("it ends within a file")
        return found

    def __iter__(self) -> Iterator[tuple[str, int]]:
        extended: dict[str, str] = {}  # what extended headers say of the member after them
        while True:
            self._skip()
            block = self.file.read(_BLOCK)
            if block.count(0) == len(
                block
            ):  # an empty block, or the end of the file: some writers leave out the blocks
                return
            if len(block) < _BLOCK:
                raise _DamagedTarError("it ends within a header")
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")  # checks the header's checksum
            kind = member.type
            # Links, folders and devices have no data, whatever size their header states. Unknown types count as files.
            has_data = member.isreg() or kind not in tarfile.SUPPORTED_TYPES
            # Extended headers (pax, GNU) hold what a plain header has no room for: long names, large sizes.
            is_header = kind in (
                tarfile.XHDTYPE,
                tarfile.SOLARIS_XHDTYPE,
                tarfile.XGLTYPE,
                tarfile.GNUTYPE_LONGNAME,
                tarfile.GNUTYPE_LONGLINK,
            )
            size = member.size if is_header else int(extended.get("size", member.size))
            self.left = -(-size // _BLOCK) * _BLOCK if has_data or is_header else 0
            if is_header:
                if size > _LARGEST_TEXT:
                    raise _DamagedTarError(f"a header of {size:,} bytes")
                found = self.data(size)
                if kind == tarfile.GNUTYPE_LONGNAME:
                    extended["path"] = found.rstrip(b"\0").decode("utf-8", "surrogateescape")
                elif kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                    extended.update(_records(found))
                continue
            name = extended.get("path", member.name)
            extended = {}
            if member.isreg():
                yield name.removeprefix("./"), size

    def _skip(self) -> None:
        """Read up to the next header: a stream from a server or of gzip cannot seek."""
        while self.left > 0:
            found = len(self.file.read(min(self.left, 1 << 20)))
            if found == 0:
                raise _DamagedTarError("it ends within a file")
            self.left -= found


def _records(data: bytes) -> dict[str, str]:
    """The records of a pax header, each `length keyword=value\\n`, where the length counts all of its record."""
    found = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            raise _DamagedTarError("a header that makes no sense")
        record, data = data[len(length) + 1 : int(length) - 1], data[int(length) :]
        keyword, _, value = record.partition(b"=")
        found[keyword.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
    if not found.get("size", "0").isdigit():
        raise _DamagedTarError("a header that makes no sense")
    return found

"""Samples of a stream as they are stored: tar files in WebDataset's layout, or a data set of the Hub. No decoding here.

A shard is read in order, from any sample on. In a tar file, members that stand together and share their name up to the
first dot of its last part are one sample: `n01/0001.jpg`, `n01/0001.cls` (https://github.com/webdataset/webdataset).
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

_LARGEST_TEXT = 1 << 20  # bytes of a label; more is none
_BLOCK = tarfile.BLOCKSIZE


class TarShards:
    """Tar files, plain or gzipped, local or behind http(s).

    Args:
        files: paths or URLs; at least one.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self.files = list(files)
        self.names = [
            os.path.basename(file.partition("?")[0]) if is_url(file) else os.path.basename(file) for file in files
        ]
        self.classes: list[str] = []
        self.total: int | None = None

    def read(self, number: int, first: int = 0) -> Iterator[EncodedSample | TruncatedShard]:
        """The samples of shard `number` from the `first`-th on; if it is damaged, a `TruncatedShard` after what can be read."""
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


class _Damage(Exception):
    pass


class _ReadOnly:
    """What gzip wants of a file."""

    def __init__(self, file: Any) -> None:
        self.read = file.read


class _Sample:
    """Members of one key, as they come."""

    def __init__(self, key: str, wanted: bool) -> None:
        self.key, self.wanted = key, wanted
        self.name = ""
        self.image: bytes | None = None
        self.exact = False  # whether the image's suffix is nothing but an image's: 1.jpg, not 1.depth.png
        self.has_label = False
        self.label: int | str | None = None

    def add(self, name: str, suffix: str, size: int, read: Callable[[int], bytes]) -> None:
        """A member: the image, its label, or nothing of interest."""
        if suffix.endswith(SUFFIXES) and (self.image is None or (suffix in SUFFIXES and not self.exact)):
            self.image = read(size) if self.wanted else b""
            self.name, self.exact = name, suffix in SUFFIXES
        elif suffix in (".cls", ".json") and size <= _LARGEST_TEXT:
            self.has_label = True
            found = _label(suffix, read(size)) if self.wanted else None
            self.label = self.label if found is None else found

    def raw(self, shard: str) -> EncodedSample:
        """As it is handed on."""
        return EncodedSample(self.key, f"{shard}: {self.name}", self.image or b"", self.label)


def _samples(file: Any, shard: str, first: int) -> Iterator[EncodedSample | TruncatedShard]:
    """Group members into samples; the data of those before the `first`-th are passed over."""
    number, labelled, sample, cut = 0, False, _Sample("", False), None
    try:
        for name, size in (reader := _Members(file)):
            folder, _, base = name.rpartition("/")
            stem, dot, suffix = base.partition(".")
            if not stem:  # what macOS and others leave in archives
                continue
            key = f"{folder}/{stem}" if folder else stem
            if key != sample.key:
                if sample.image is not None:
                    if sample.wanted:
                        yield sample.raw(shard)
                    number, labelled = number + 1, labelled or sample.has_label
                sample = _Sample(key, number >= first)
            sample.add(name, dot + suffix.lower(), size, reader.data)
    except (_Damage, EOFError, zlib.error, OSError, tarfile.TarError) as error:
        cut = TruncatedShard(f"{shard}: damaged or cut, the rest of it is left out ({error}).")
    # Of a sample at a cut, the label may be what is missing.
    if sample.image is not None and sample.wanted and not (cut and labelled and sample.label is None):
        yield sample.raw(shard)
    if cut:
        yield cut


def _label(suffix: str, data: bytes) -> int | str | None:
    """A class number or name; None where there is none."""
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
    """(name, size) of the files in a tar stream; the data of the last one can be read, or is passed over.

    tarfile itself ends without a word where a header is cut or damaged, and keeps a record of every member.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self.left = 0  # bytes to the next header

    def data(self, size: int) -> bytes:
        found = self.file.read(size)
        self.left -= len(found)
        if len(found) < size:
            raise _Damage("it ends within a file")
        return found

    def __iter__(self) -> Iterator[tuple[str, int]]:
        extended: dict[str, str] = {}
        while True:
            self._skip()
            block = self.file.read(_BLOCK)
            if block.count(0) == len(block):  # two empty blocks are the end; some writers leave them out
                return
            if len(block) < _BLOCK:
                raise _Damage("it ends within a header")
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            kind = member.type
            # Links, folders and devices have no data, whatever their size says.
            holds = member.isreg() or kind not in tarfile.SUPPORTED_TYPES
            special = kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)
            special = special or kind == tarfile.GNUTYPE_LONGLINK
            size = int(extended.get("size", member.size)) if not special else member.size
            self.left = -(-size // _BLOCK) * _BLOCK if holds or special else 0
            if special:
                if size > _LARGEST_TEXT:
                    raise _Damage(f"a header of {size:,} bytes")
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
        while self.left > 0:
            found = len(self.file.read(min(self.left, 1 << 20)))
            if found == 0:
                raise _Damage("it ends within a file")
            self.left -= found


def _records(data: bytes) -> dict[str, str]:
    """The records of a pax header: `length keyword=value\\n`."""
    found = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            raise _Damage("a header that makes no sense")
        record, data = data[len(length) + 1 : int(length) - 1], data[int(length) :]
        keyword, _, value = record.partition(b"=")
        found[keyword.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
    if not found.get("size", "0").isdigit():
        raise _Damage("a header that makes no sense")
    return found

"""Tar shards in WebDataset's layout, local or behind http(s), read in order from any sample on. No decoding here.

Members that stand next to each other and share their name up to the first dot of its last part are one sample:
`n01/0001.jpg`, `n01/0001.cls` (https://github.com/webdataset/webdataset).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from beit.core.download_limits import Limits, largest_file
from beit.core.errors import DataError
from beit.core.http import RemoteFile
from beit.core.text import printable
from beit.data.decode import SUFFIXES
from beit.data.sources.patterns import is_url
from beit.data.sources.shards import EncodedSample, TruncatedShard
from beit.data.sources.tar_members import DAMAGES, LARGEST_TEXT, Gap, Member, Members, Unpacked

_MOST_DIGITS = 18  # of a class number
_LONGEST_NAME = 1000  # letters of a class


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
        """The samples of shard `number` from sample `first` on; and a `TruncatedShard` for each damage.

        Raises:
            DataError: the file cannot be opened, or its server not be reached.
        """
        name = self.files[number]
        remote = RemoteFile(name, limits=Limits(largest=largest_file(None))) if is_url(name) else None
        try:
            if remote is None and not stat.S_ISREG(os.stat(name).st_mode):  # opening a named pipe would wait for ever
                raise DataError(f"{printable(name)} is not a file, but a folder, pipe or device. Give a tar file.")
            file: Any = remote or open(name, "rb")  # noqa: SIM115  (closed below)
        except OSError as error:
            raise DataError(f"{printable(name)} cannot be read: {error.strerror}.") from error
        try:
            packed = name.partition("?")[0].endswith((".gz", ".tgz"))
            length = None if packed or remote else os.fstat(file.fileno()).st_size
            yield from _samples(Members(Unpacked(file) if packed else file, length), printable(name), first)
        finally:
            file.close()


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
        self.damage = self.label_damage = ""

    def add(self, member: Member, suffix: str, members: Members) -> str:
        """Take a member if it is an image or a label. The first image counts, or the first with a plain suffix.

        Returns:
            what is wrong with a member that is neither; empty if nothing is.
        """
        damage = member.damage
        if suffix.endswith(SUFFIXES) and (self.image is None or (suffix in SUFFIXES and not self.exact)):
            damage = damage or members.refusal(member.size)
            self.image = members.data(member.size) if self.wanted and not damage else b""
            self.name, self.exact, self.damage = member.name, suffix in SUFFIXES, damage
        elif suffix in (".cls", ".json"):
            if not damage and member.size > LARGEST_TEXT:
                damage = f"{member.size:,} bytes, wanted at most {LARGEST_TEXT:,}"
            if self.wanted:
                found, damage = (None, damage) if damage else _label(suffix, members.data(member.size))
                self.label = self.label if found is None else found
                self.label_damage = f"{suffix}: {damage}" if damage else self.label_damage
            self.has_label = True
        else:
            return damage
        return ""

    def encoded(self, shard: str) -> EncodedSample:
        name = f"{shard}: {printable(self.name)}"
        return EncodedSample(self.key, name, self.image or b"", self.label, self.damage, self.label_damage)


def _samples(members: Members, shard: str, first: int) -> Iterator[EncodedSample | TruncatedShard]:
    """Group members into samples. The data of samples before number `first` are skipped, not read."""
    grouping = _Grouping(shard, first)
    rest = None
    try:
        for found in members:
            if isinstance(found, Gap):
                yield from grouping.end(beside_gap=True)
                yield TruncatedShard(f"{shard}: {found.reason}.")
                continue
            folder, _, base = found.name.rpartition("/")
            stem, dot, suffix = base.partition(".")
            if not stem:  # hidden files, such as macOS leaves in archives
                continue
            key = f"{folder}/{stem}" if folder else stem
            if key != grouping.sample.key:
                yield from grouping.end()
                grouping.begin(key)
            damage = grouping.sample.add(found, dot + suffix.lower(), members)
            if damage:
                yield TruncatedShard(f"{shard}: {printable(found.name)} is damaged and left out ({damage}).")
    except DAMAGES as error:
        rest = f"{shard}: damaged or cut, the rest of it is left out ({error})."
    yield from grouping.end(beside_gap=rest is not None)
    if rest is not None:
        yield TruncatedShard(rest)


class _Grouping:
    """The sample that is being collected, and what of those before it matters for it."""

    def __init__(self, shard: str, first: int) -> None:
        self.shard, self.first = shard, first
        self.number = 0  # of the sample that is being collected
        self.labelled = False  # whether a sample before it has a label
        self.after_gap = False
        self.sample = _Sample("", False)

    def begin(self, key: str) -> None:
        """Collect the sample of this key."""
        self.sample = _Sample(key, self.number >= self.first)

    def end(self, beside_gap: bool = False) -> tuple[EncodedSample, ...]:
        """The sample that was collected, if it is one that was asked for."""
        sample, self.sample = self.sample, _Sample("", False)
        # Beside a gap the image is whole, but its label may have been lost: then, where others of this shard have labels, it
        # is dropped rather than reported as unlabelled.
        incomplete = (beside_gap or self.after_gap) and self.labelled and not sample.has_label
        self.after_gap = beside_gap or (self.after_gap and not sample.key)
        if sample.image is None or incomplete:
            return ()
        self.number, self.labelled = self.number + 1, self.labelled or sample.has_label
        return (sample.encoded(self.shard),) if sample.wanted else ()


def _label(suffix: str, data: bytes) -> tuple[int | str | None, str]:
    """(the class number or name in a .cls or .json member, or None; what is wrong with the member, or nothing)."""
    text = data.decode("utf-8", "replace").strip()
    value: Any = text
    if suffix == ".json":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # also numbers of too many digits, and brackets in brackets
            return None, f"it cannot be read as JSON ({printable(error)})"
        values = values if isinstance(values, dict) else {}
        value = values.get("label", values.get("class"))
    if isinstance(value, str) and value.isdecimal() and len(value) <= _MOST_DIGITS:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        return None, ""
    if (isinstance(value, int) and abs(value) >= 10**_MOST_DIGITS) or (
        isinstance(value, str) and len(value) > _LONGEST_NAME
    ):
        return None, f"its label has more than {_MOST_DIGITS} digits, or {_LONGEST_NAME:,} letters"
    return value, ""

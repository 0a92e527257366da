"""The members of a tar stream, one after the other. A damaged member is passed over and said; what follows is still read.

Python's tarfile is not used to read: where a header is cut or damaged it ends without an error, it believes any size, and it
keeps a record of every member in memory.
"""

from __future__ import annotations

import contextlib
import gzip
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from beit.core.text import printable
from beit.data.sources.shards import LARGEST_IMAGE

LARGEST_TEXT = 1 << 20  # bytes of a label or of an extended header; larger ones are damaged
_BLOCK = tarfile.BLOCKSIZE  # 512 bytes: headers and data are padded to whole blocks
_PIECE = 1 << 20  # bytes read at a time: memory is taken for what is there, not for what a header states
_LARGEST_SIZE = 1 << 43  # bytes: no member is larger, whatever its header states
_MOST_DAMAGED = 1000  # damaged members of a file; then it is no tar file worth reading
# What a packed file may become before it is taken for a bomb: photographs do not shrink, flat drawings to a fiftieth.
_FREE_UNPACKED, _FREE_IMAGES, _MOST_UNPACKED = 1 << 32, 1 << 26, 50
_MOST_DIGITS = 20  # of a number in an extended header
# Extended headers (pax, GNU) hold what a plain header has no room for: long names, large sizes.
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENDED = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class DamagedTarError(Exception):
    """A tar file ends early or makes no sense from here on; the text says how."""


class Member(NamedTuple):
    """A file in a tar stream.

    Attributes:
        name: its path.
        size: in bytes.
        damage: why its data cannot be read; empty where they can.
    """

    name: str
    size: int
    damage: str = ""


class Gap(NamedTuple):
    """A place where members may have been lost; `reason` says why. Reading goes on after it."""

    reason: str


class Unpacked:
    """What a gzip file holds, for reading only. Raises DamagedTarError where it becomes far larger than it is.

    Args:
        file: the packed file; nothing but its `read` is called, since a remote file cannot seek.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        counted: Any = _Counted(self)
        self._unpacked = gzip.GzipFile(fileobj=counted, mode="rb")
        self.packed = self.size = 0  # bytes so far

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        found: bytes = self._unpacked.read(size)
        self.size += len(found)
        if self.size > _FREE_UNPACKED + _MOST_UNPACKED * self.packed:
            raise DamagedTarError(f"{self.packed:,} bytes unpack to more than {self.size:,}")
        return found

    def read_packed(self, size: int) -> bytes:
        """As gzip asks for them: the next bytes of the packed file."""
        found: bytes = self._file.read(size)
        self.packed += len(found)
        return found


class _Counted:
    """A file of which gzip sees no method but `read`."""

    def __init__(self, unpacked: Unpacked) -> None:
        self.read = unpacked.read_packed


# What reading from a tar stream may raise where it is damaged.
DAMAGES = (DamagedTarError, EOFError, zlib.error, OSError, tarfile.TarError)


class Members:
    """Iterates over the regular files in a tar stream, and the gaps between them. `data` reads the current one; else it is
    skipped.

    Args:
        file: what is read, from its beginning on.
        length: of the file in bytes, if that is known.

    Raises:
        one of DAMAGES: nothing can be read from here on.
    """

    def __init__(self, file: Any, length: int | None = None) -> None:
        self.file, self.length = file, length
        self.position = 0
        self.left = 0  # bytes to the next header
        self.found = b""  # a header that was read already
        self.damaged = 0  # members so far
        self.taken = 0  # bytes of images so far, of a packed file

    def _read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end of the file."""
        found: bytes = self.file.read(size)
        self.position += len(found)
        return found

    def data(self, size: int) -> bytes:
        """The next `size` bytes of the current member."""
        if size <= _PIECE:
            found = self._read(size)
            self.left -= len(found)
            if len(found) < size:
                raise DamagedTarError("it ends within a file")
            return found
        parts = []
        while size > 0:
            part = self._read(min(size, _PIECE))
            if not part:
                raise DamagedTarError("it ends within a file")
            parts.append(part)
            size -= len(part)
            self.left -= len(part)
        return b"".join(parts)

    def refusal(self, size: int) -> str:
        """Why an image's file of this size shall not be read: it would take too much memory; empty if it may be."""
        if size > LARGEST_IMAGE:
            return f"it has {size:,} bytes; wanted at most {LARGEST_IMAGE:,}"
        if isinstance(self.file, Unpacked):
            # Images wait in memory until they are shuffled. Those of a packed file must not take many times its size.
            self.taken += size
            if self.taken > _FREE_IMAGES + _MOST_UNPACKED * self.file.packed:
                self.taken -= size
                return f"it unpacks to {size:,} bytes, far more than it takes in the file. Store the shard unpacked"
        return ""

    def __iter__(self) -> Iterator[Member | Gap]:
        extended = _Extended()  # what extended headers say of the member after them
        while True:
            self._skip()
            block, self.found = self.found or self._read(_BLOCK), b""
            # An empty block, or the end of the file: some writers leave out the blocks.
            if block.count(0) == len(block):
                return
            if len(block) < _BLOCK:
                raise DamagedTarError("it ends within a header")
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")  # checks the header's checksum
            except tarfile.TarError as error:
                start = self.position - _BLOCK
                if not self._find_header():
                    raise DamagedTarError(str(error)) from error
                extended = _Extended()
                self._count()
                yield Gap(
                    f"damaged, {self.position - _BLOCK - start:,} bytes from byte {start:,} on are left out ({error})"
                )
                continue
            if header.type in _EXTENDED:
                # The next member is another one than its plain header says, so it is left out where this is damaged.
                extended.damage = self._pass_over(header.size) or extended.damage
                if header.size > LARGEST_TEXT:
                    extended.damage = extended.damage or f"its extended header has {header.size:,} bytes"
                elif not extended.damage and header.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                    extended.add(header.type, self.data(header.size))
                continue
            size = header.size if extended.size is None else extended.size
            name = header.name if extended.path is None else extended.path
            damage, extended = extended.damage, _Extended()
            # Links, folders and devices have no data, whatever size their header states. Unknown types count as files.
            if header.isreg() or header.type not in tarfile.SUPPORTED_TYPES:
                damage = self._pass_over(size) or damage
            if damage:
                self._count()
            if header.isreg():
                yield Member(name.removeprefix("./"), size, damage)
            elif damage:
                yield Gap(f"{printable(name)} is damaged and left out ({damage})")

    def _skip(self) -> None:
        """Read up to the next header: a stream from a server or of gzip cannot seek."""
        while self.left > 0:
            found = len(self._read(min(self.left, _PIECE)))
            if found == 0:
                raise DamagedTarError("it ends within a file")
            self.left -= found

    def _pass_over(self, size: int) -> str:
        """Note that data of this size come before the next header. Where that cannot be, find that header.

        Returns:
            what is wrong with the size; empty if nothing is.
        """
        if 0 <= size <= _LARGEST_SIZE and (self.length is None or self.position + size <= self.length):
            self.left = -(-size // _BLOCK) * _BLOCK
            return ""
        if not self._find_header() and 0 <= size <= _LARGEST_SIZE:
            raise DamagedTarError("it ends within a file")
        return f"its header states {size:,} bytes"

    def _find_header(self) -> bool:
        """Read on to the next block that is a header, which is kept in `found`; False at the end of the file."""
        while len(block := self._read(_BLOCK)) == _BLOCK:
            if block[257:262] == b"ustar":
                with contextlib.suppress(tarfile.TarError):
                    tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                    self.found = block
                    return True
        return False

    def _count(self) -> None:
        self.damaged += 1
        if self.damaged > _MOST_DAMAGED:
            raise DamagedTarError(f"more than {_MOST_DAMAGED:,} members are damaged")


class _Extended:
    """What extended headers say of the member after them: its `path`, its `size`, and what is wrong with themselves."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.size: int | None = None
        self.damage = ""

    def add(self, kind: bytes, data: bytes) -> None:
        """Take over what a header of this kind says."""
        if kind == tarfile.GNUTYPE_LONGNAME:
            self.path = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            return
        # Records, each `length keyword=value\n`, where the length counts all of its record. By offsets: a header may
        # have 200,000 records, and cutting each off would copy the rest so many times.
        place = 0
        while place < len(data):
            space = data.find(b" ", place, place + _MOST_DIGITS)
            length = data[place:space] if space > 0 else b""
            end = place + int(length) if length.isdigit() else place  # of bytes, `isdigit` knows ASCII digits only
            if space < 0 or not space < end <= len(data):
                self.damage = "its extended header makes no sense"
                return
            keyword, _, value = data[space + 1 : end - 1].partition(b"=")
            if keyword == b"path":
                self.path = value.decode("utf-8", "surrogateescape")
            elif keyword == b"size" and value.isdigit() and len(value) < _MOST_DIGITS:
                self.size = int(value)
            elif keyword == b"size":
                self.damage = f"its extended header states {printable(value.decode('utf-8', 'replace'), 40)!r} bytes"
            place = end

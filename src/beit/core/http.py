"""A file behind http(s), read from beginning to end; a lost connection is made again. Standard library only.

A server may be slow, endless or hostile, so each read ends: see `download_limits.Limits`.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from beit.core.connections import opener
from beit.core.download_limits import MAX_BYTES, Limits, OutOfTimeError, Pace
from beit.core.errors import DataError

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds after each failure in a row; one more failure is an error
_AGAIN = (408, 423, 425, 429)  # HTTP statuses below 500 that another attempt may change
_PIECE = 1 << 20  # bytes read at a time
# A date of modification identifies a file only where it is older than the answer by this many seconds (RFC 7232, 2.2.2).
_SETTLED = 60.0

logger = logging.getLogger("beit")


class RemoteFile:
    """Reads a URL in order. After a lost connection it continues from the byte where it was lost.

    It continues only in the same file. Servers name a version of a file by an ETag or a date; where there is neither, the file
    is read again from its beginning, and what had been read is compared by its SHA-256.

    Args:
        url: http:// or https://.
        pauses: seconds to wait after each failure in a row, `PAUSES` by default; one more failure is an error.
        limits: what the server must keep to.

    Attributes:
        position: bytes read so far.
        size: bytes of the file; None before the first connection, or if the server does not state it.

    Raises:
        DataError (from `open` and `read`): more failures in a row than `pauses`; an HTTP status such as 404; the file changed;
            the server leads to an address that is not http(s); or it does not keep to the limits.
    """

    def __init__(self, url: str, pauses: Sequence[float] | None = None, limits: Limits | None = None) -> None:
        self.url = url
        self.pauses = PAUSES if pauses is None else pauses
        self.limits = limits or Limits()
        self.position = 0
        self.size: int | None = None
        self._version: _Version | None = None  # None before the first connection
        self._digest = hashlib.sha256()  # of what was read, as long as nothing else identifies the file
        self._failures = 0
        self._pace = Pace(self.limits)
        self._response: http.client.HTTPResponse | None = None

    def open(self) -> None:
        """Connect, if that was not done before; `size` is known from here on."""
        self._persist(lambda: b"")

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end of the file."""
        parts = []
        while size > 0:
            part = self._read_some(size)
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close the connection."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def _read_some(self, size: int) -> bytes:
        """At least one byte, and at most `size`; none at the end of the file."""
        if self.size is not None and self.position >= self.size:
            return b""
        part = self._persist(lambda: self._receive(min(size, _PIECE)))
        if part:
            self._failures = 0
            self.position += len(part)
            self._check_size(self.position, "has at least")
            if self._version is None or not self._version.known:
                self._digest.update(part)
        return part

    def _persist(self, action: Callable[[], bytes]) -> bytes:
        """Connect where there is no connection, then act; after a failure, again."""
        while True:
            try:
                if self._response is None:
                    self._response = self._connect()
                return action()
            except DataError:
                self.close()
                raise
            except (http.client.InvalidURL, ValueError) as error:
                raise DataError(f"{self.url!r} is not a valid URL: {error}.") from error
            except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
                self._failed(error)

    def _receive(self, size: int) -> bytes:
        assert self._response is not None
        part = self._response.read1(size)  # what has come; `read` would wait until all of it has
        if not part and self.size is not None:
            raise ConnectionError(f"the connection ended after {self.position:,} of {self.size:,} bytes")
        return part

    def _connect(self) -> http.client.HTTPResponse:
        request = urllib.request.Request(self.url, headers={"User-Agent": "beit"})
        if self.position and self._version is not None and self._version.known:
            request.add_header("Range", f"bytes={self.position}-")
            request.add_header("If-Range", self._version.validator)
        self._pace.begin_answer()
        response: http.client.HTTPResponse = opener(self._pace).open(request, timeout=self.limits.silence)
        try:
            self._pace.end_answer()
            self._begin(response)
        except BaseException:
            response.close()
            raise
        return response

    def _begin(self, response: http.client.HTTPResponse) -> None:
        """Take an answer as the rest of the file, after looking whether it is the same file."""
        version = _Version(response.headers)
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() and len(length) < 20 else None
        if response.status == 206:
            first, size = _range(response.headers.get("Content-Range", ""))
            if first != self.position:
                raise ConnectionError(f"asked for bytes from {self.position} on, got them from {first} on")
        known = self._version
        if known is not None and known.known and version.known and version.validator != known.validator:
            raise self._changed(f"it was {known.validator}, now it is {version.validator}")
        if known is not None and known.known and not version.known and response.status != 206:
            raise self._changed(f"it was {known.validator}, now the server does not say which version it is")
        if self.size is not None and size is not None and size != self.size:
            raise self._changed(f"it had {self.size:,} bytes, now {size:,}")
        if size is not None:
            self._check_size(size, "has")
            self.size = size
        if response.status != 206 and self.position:
            self._skip(response)
        if known is None:
            self._version = version

    def _skip(self, response: http.client.HTTPResponse) -> None:
        """The server sends the file from its beginning: pass over what was read before."""
        left, digest = self.position, hashlib.sha256()
        compared = self._version is None or not self._version.known
        while left > 0:
            part = response.read1(min(left, _PIECE))
            if not part:
                raise ConnectionError(f"the connection ended before byte {self.position:,}, where it was lost before")
            left -= len(part)
            if compared:
                digest.update(part)
        if compared and digest.digest() != self._digest.digest():
            raise self._changed(f"its first {self.position:,} bytes are others than before")

    def _changed(self, how: str) -> DataError:
        return DataError(f"{self.url} changed while it was read: {how}. Start again.")

    def _check_size(self, size: int, has: str) -> None:
        largest = self.limits.largest
        if largest is not None and size > largest:
            raise DataError(
                f"{self.url} {has} {size:,} bytes; at most {largest:,} are read. If it is the file that you want, allow more: "
                f"--max-bytes {_rounded(size)}, or the environment variable {MAX_BYTES}."
            )

    def _failed(self, error: Exception) -> None:
        """Wait before the next attempt, or give up."""
        self.close()
        reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        code = getattr(error, "code", None)
        if isinstance(error, urllib.error.HTTPError):
            reason = f"HTTP {code} {reason}"
            error.close()
        if isinstance(error, OutOfTimeError):
            raise DataError(
                f"{self.url} is given up: {reason}. Try another connection, or fetch it by other means."
            ) from error
        if code is not None and 300 <= code < 500 and code not in _AGAIN:
            raise DataError(f"{self.url} cannot be read: {reason}. Check the address.") from error
        if self._failures == len(self.pauses):
            raise DataError(
                f"{self.url} cannot be read after {self._failures + 1} failures in a row; the last: {reason}. When the server "
                "answers again, start again (a training run with --resume)."
            ) from error
        pause = self.pauses[self._failures]
        self._failures += 1
        logger.info("%s: %s; trying again in %g s", self.url, reason, pause)
        time.sleep(pause)
        self._pace.waited(pause)


class _Version:
    """What a server says to tell a version of a file from others: a strong ETag, or a date long past."""

    def __init__(self, headers: Any) -> None:
        tag, date = headers.get("ETag", ""), headers.get("Last-Modified", "")
        strong = tag.startswith('"') or (tag != "" and not tag.startswith("W/"))
        self.validator: str = tag if strong else date if _settled(date, headers.get("Date", "")) else ""

    @property
    def known(self) -> bool:
        return self.validator != ""


def _settled(date: str, now: str) -> bool:
    """Whether a file that was modified at `date` cannot have been modified again within the same second, `now`."""
    try:
        seconds = email.utils.parsedate_to_datetime(now) - email.utils.parsedate_to_datetime(date)
        return seconds.total_seconds() >= _SETTLED
    except (ValueError, TypeError, OverflowError):
        return False


def _range(text: str) -> tuple[int, int | None]:
    """`bytes 5-9/10` → (5, 10); (-1, None) where it cannot be read."""
    match = re.fullmatch(r"bytes\s+(\d{1,19})-\d{1,19}/(\d{1,19}|\*)", text.strip())
    if match is None:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _rounded(size: int) -> str:
    return f"{-(-size // 10**9)}GB" if size > 10**9 else str(size)

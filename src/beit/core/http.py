"""A file behind http(s), read from beginning to end; a lost connection is made again. Standard library only."""

from __future__ import annotations

import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

from beit.core.errors import DataError

TIMEOUT = 30.0  # seconds without a byte
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds after each failure in a row; one more failure is an error
_FINAL = (400, 401, 403, 404, 405, 410)  # HTTP statuses that another attempt would not change
_PIECE = 1 << 20  # bytes read at a time

logger = logging.getLogger("beit")


class RemoteFile:
    """Reads a URL in order. After a lost connection it continues from the byte where it was lost.

    Args:
        url: http:// or https://.
        pauses: seconds to wait after each failure in a row, `PAUSES` by default; one more failure is an error.

    Raises:
        DataError (from `read`): more failures in a row than `pauses`; an HTTP status such as 404; or the file changed.
    """

    def __init__(self, url: str, pauses: Sequence[float] | None = None) -> None:
        self.url = url
        self.pauses = PAUSES if pauses is None else pauses
        self.position = 0
        self.size: int | None = None
        self.version: str | None = None  # the server's ETag of the file
        self.failures = 0
        self.response: http.client.HTTPResponse | None = None

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
        if self.response is not None:
            self.response.close()
            self.response = None

    def _read_some(self, size: int) -> bytes:
        """At least one byte, and at most `size`; none at the end of the file."""
        while True:
            if self.size is not None and self.position >= self.size:
                return b""
            try:
                if self.response is None:
                    self.response = self._connect()
                part = self.response.read(min(size, _PIECE))
                if not part and self.size is not None:
                    raise ConnectionError(f"the connection ended after {self.position:,} of {self.size:,} bytes")
            except (http.client.InvalidURL, ValueError) as error:
                raise DataError(f"{self.url!r} is not a valid URL: {error}.") from error
            except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
                self._failed(error)
                continue
            self.failures = 0
            self.position += len(part)
            return part

    def _connect(self) -> http.client.HTTPResponse:
        request = urllib.request.Request(self.url, headers={"User-Agent": "beit"})
        if self.position:
            request.add_header("Range", f"bytes={self.position}-")
            if self.version is not None:
                request.add_header("If-Range", self.version)
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
        length = response.headers.get("Content-Length")
        if response.status == 206:
            start = response.headers.get("Content-Range", "").removeprefix("bytes").strip().partition("-")[0]
            if start != str(self.position):
                response.close()
                raise ConnectionError(f"asked for bytes from {self.position} on, got them from {start or '?'} on")
            return response
        size = int(length) if length is not None and length.isdigit() else None
        if self.size is not None and size is not None and size != self.size:
            response.close()
            raise DataError(f"{self.url} changed while it was read: {self.size:,} bytes, now {size:,}. Start again.")
        self.size = size
        tag = response.headers.get("ETag")
        self.version = tag if tag is not None and not tag.startswith("W/") else None
        left = self.position  # the server ignored the range and sends the whole file again: skip what was read
        while left > 0:
            part = response.read(min(left, _PIECE))
            if not part:
                response.close()
                raise ConnectionError(f"the connection ended before byte {self.position:,}, where it was lost before")
            left -= len(part)
        return response

    def _failed(self, error: Exception) -> None:
        """Wait before the next attempt, or give up."""
        self.close()
        reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        code = getattr(error, "code", None)
        if isinstance(error, urllib.error.HTTPError):
            reason = f"HTTP {code} {reason}"
            error.close()
        if code in _FINAL:
            raise DataError(f"{self.url} cannot be read: {reason}. Check the address.") from error
        if self.failures == len(self.pauses):
            raise DataError(
                f"{self.url} cannot be read after {self.failures + 1} failures in a row; the last: {reason}. When the server "
                "answers again, start again (a training run with --resume)."
            ) from error
        pause = self.pauses[self.failures]
        self.failures += 1
        logger.info("%s: %s; trying again in %g s", self.url, reason, pause)
        time.sleep(pause)

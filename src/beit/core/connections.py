"""Connections to http(s) servers that count all that comes through them, and lead to no other kind of address."""

from __future__ import annotations

import functools
import http.client
import io
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from beit.core.download_limits import Pace
from beit.core.errors import DataError


def opener(pace: Pace) -> urllib.request.OpenerDirector:
    """Opens http and https, also through the proxies of the environment, and nothing else: no ftp, no file."""

    def counted(kind: Callable[..., http.client.HTTPConnection], host: str, **how: Any) -> http.client.HTTPConnection:
        connection = kind(host, **how)
        connection.response_class = functools.partial(_Response, pace)  # type: ignore[assignment]  # it is only called
        return connection

    class Http(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(functools.partial(counted, http.client.HTTPConnection), request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(functools.partial(counted, http.client.HTTPSConnection), request)

    made = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        Http(),
        Https(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        made.add_handler(handler)
    return made


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and never from https to http."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        target = headers.get("Location") or headers.get("URI") or ""
        scheme = urllib.parse.urlsplit(urllib.parse.urljoin(req.full_url, target)).scheme.lower()
        if scheme not in ("http", "https") or (scheme == "http" and req.full_url.lower().startswith("https:")):
            fp.close()
            raise DataError(
                f"{req.full_url} leads to {target!r:.200}; wanted an https address"
                f"{'' if req.full_url.lower().startswith('https:') else ', or http'}. If you trust it, pass it yourself."
            )
        fp.close()  # the page of a redirect is not needed, and may have no end
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Timed(io.RawIOBase):
    """What comes through a socket, counted in a `Pace`: headers, sizes of chunks and content, so that none can drip for ever."""

    def __init__(self, raw: Any, pace: Pace) -> None:
        self.raw, self.pace = raw, pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        start = time.monotonic()
        size = 0
        try:
            size = self.raw.readinto(buffer)
        finally:
            self.pace.came(time.monotonic() - start, size)
        return size

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, pace: Pace, sock: Any, **how: Any) -> None:
        super().__init__(sock, **how)
        raw = self.fp.detach()  # of the buffer that was made for the socket
        self.fp = io.BufferedReader(_Timed(raw, pace))

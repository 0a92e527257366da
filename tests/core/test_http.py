"""Files behind http: every read ends, whatever the server does, and no two files are joined."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beit.core import http
from beit.core.download_limits import MAX_BYTES, Limits, largest_file, size_in_bytes
from beit.core.errors import ConfigError, DataError
from fixtures_streams import Server, serving

HURRIED = Limits(answer=0.2, silence=0.2, slowest=20_000, window=0.1, whole=1.0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSES", (0.0,) * 2)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(MAX_BYTES, raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as found:
        yield found


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that gives each connection to `answer`, after reading its request; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            answer(connection)

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x.bin"
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def dripping(before: bytes, drop: bytes, seconds: float = 0.01) -> Callable[[socket.socket], None]:
    """Sends `before`, then `drop` for ever."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(before)
        while True:
            connection.sendall(drop)
            time.sleep(seconds)

    return answer


def read_all(url: str, limits: Limits = HURRIED) -> bytes:
    file = http.RemoteFile(url, limits=limits)
    try:
        return file.read(1 << 30)
    finally:
        file.close()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("before", "drop", "says"),
    [
        (b"HTTP/1.1 200 ", b"x", "no answer within 0.2 s"),
        (OK, b"X: y\r\n", "no answer within 0.2 s|HTTPException|100 headers"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", "no answer within 0.2 s"),
        (OK + b"Content-Length: 1000000\r\n\r\n", b"x", "bytes per second over 0.1 s, wanted at least 20,000"),
        (OK + b"\r\n", b"x", "bytes per second over 0.1 s, wanted at least 20,000"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0", "bytes per second over 0.1 s|longer than 1 s"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", "bytes per second over 0.1 s"),
    ],
    ids=["status line", "headers", "continue", "content", "no length", "size of a chunk", "chunks"],
)
def test_what_drips_is_given_up(before: bytes, drop: bytes, says: str) -> None:
    start = time.monotonic()
    with answering(dripping(before, drop)) as url, pytest.raises(DataError, match=says):
        read_all(url)
    assert time.monotonic() - start < 5  # of one second that is allowed; the rest is for a slow machine


def test_silence_is_given_up() -> None:
    with answering(lambda _: time.sleep(3)) as url, pytest.raises(DataError, match=r"timed out|no answer within"):
        read_all(url)


def test_a_byte_for_each_connection_is_given_up() -> None:
    sent = iter(range(10**6))

    def answer(connection: socket.socket) -> None:
        position = next(sent)
        status = b"206 Partial Content" if position else b"200 OK"
        part = b"Content-Range: bytes %d-99999/100000\r\n" % position if position else b""
        connection.sendall(
            b'HTTP/1.1 %s\r\nETag: "a"\r\n%sContent-Length: %d\r\n\r\nx' % (status, part, 100000 - position)
        )

    with answering(answer) as url, pytest.raises(DataError, match=r"bytes per second|longer than 1 s"):
        read_all(url)


def test_a_slow_reader_is_no_slow_server(tmp_path: Path, server: Server) -> None:
    data = bytes(range(256)) * 1000
    (tmp_path / "x.bin").write_bytes(data)
    file = http.RemoteFile(f"{server.address}/x.bin", limits=Limits(slowest=1e6, window=0.05, whole=0.2))
    found = file.read(1000)
    time.sleep(0.4)
    assert found + file.read(1 << 20) == data
    file.close()


def test_the_page_of_a_redirect_is_not_read(tmp_path: Path, server: Server) -> None:
    (tmp_path / "x.bin").write_bytes(b"data")

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: %s/x.bin\r\n\r\n" % server.address.encode())
        with contextlib.suppress(OSError):
            for _ in range(100_000):
                connection.sendall(b"page" * 1000)

    with answering(answer) as url:
        assert read_all(url) == b"data"


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x", "gopher://127.0.0.1/x"])
def test_redirects_to_other_schemes_are_refused(target: str) -> None:
    requests = []

    def answer(connection: socket.socket) -> None:
        requests.append(1)
        connection.sendall(b"HTTP/1.1 301 Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % target.encode())

    with (
        answering(answer) as url,
        pytest.raises(DataError, match=f"leads to '{target}'; wanted an https address, or http"),
    ):
        read_all(url)
    assert len(requests) == 1


def test_redirects_in_a_circle_are_refused_at_once() -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /x.bin\r\nContent-Length: 0\r\n\r\n")

    with answering(answer) as url, pytest.raises(DataError, match="infinite loop"):
        read_all(url)


@pytest.mark.parametrize(("tags", "ranges"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_lost_connection_goes_on_in_the_same_file(tmp_path: Path, server: Server, tags: bool, ranges: bool) -> None:
    data = bytes(range(256)) * 40
    (tmp_path / "x.bin").write_bytes(data)
    server.tags, server.ranges, server.dropping = tags, ranges, 2
    assert read_all(f"{server.address}/x.bin", Limits()) == data
    assert [asked is not None for _, asked in server.requests] == [False, tags, tags]


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_another_file_of_the_same_size_is_not_joined(tmp_path: Path, server: Server, tags: bool, ranges: bool) -> None:
    (tmp_path / "x.bin").write_bytes(b"a" * 5000)
    server.tags, server.ranges, server.dropping = tags, ranges, 1
    file = http.RemoteFile(f"{server.address}/x.bin")
    assert file.read(1000) == b"a" * 1000
    (tmp_path / "x.bin").write_bytes(b"b" * 5000)
    with pytest.raises(DataError, match=r"changed while it was read: .*\. Start again\."):
        file.read(5000)
    file.close()


def test_a_server_that_no_longer_names_the_version_is_not_believed(tmp_path: Path, server: Server) -> None:
    """What was read before was not summed up, as the ETag stood for it."""
    (tmp_path / "x.bin").write_bytes(b"a" * 5000)
    server.dropping = 1
    file = http.RemoteFile(f"{server.address}/x.bin")
    assert file.read(1000) == b"a" * 1000
    server.tags = server.ranges = False
    (tmp_path / "x.bin").write_bytes(b"b" * 5000)
    with pytest.raises(DataError, match="the server does not say which version it is"):
        file.read(5000)
    file.close()


@pytest.mark.parametrize("stated", [True, False])
def test_a_file_is_as_large_as_is_allowed(stated: bool) -> None:
    length = b"Content-Length: 999999999999\r\n" if stated else b""
    with answering(dripping(OK + length + b"\r\n", b"x" * 10_000, 0)) as url:
        file = http.RemoteFile(url, limits=Limits(largest=1_000_000))
        says = "has 999,999,999,999 bytes" if stated else "has at least 1,0"
        with pytest.raises(DataError, match=rf"{says}.*at most 1,000,000 are read.*--max-bytes.*BEIT_MAX_BYTES"):
            file.read(1 << 30)
        file.close()


def test_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, size in {
        "5": 5,
        "5e9": 5 * 10**9,
        "1.5 GB": 15 * 10**8,
        "20mb": 2 * 10**7,
        "7b": 7,
        "1TB": 10**12,
    }.items():
        assert size_in_bytes(text, "it") == size
    for text in ("", "-1", "many", "1e999", "9" * 5000, "1 XB", "nan"):
        with pytest.raises(ConfigError, match=r"it is .*wanted a number of bytes"):
            size_in_bytes(text, "it")
    assert largest_file(3) == 3
    monkeypatch.setenv(MAX_BYTES, "1kB")
    assert largest_file(None) == 1000

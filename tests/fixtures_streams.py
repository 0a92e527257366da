"""Small tar shards, and a server for them that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fixtures_runs import stripes


def encoded(image: np.ndarray, form: str = "png") -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form)
    return buffer.getvalue()


def colour(number: int, side: int = 8) -> bytes:
    """A PNG file of one colour that tells its number, below 65,536."""
    return encoded(np.broadcast_to(np.array([number // 256, number % 256, 7], np.uint8), (side, side, 3)))


def number_of(image: Image.Image) -> int:
    """The number of such an image."""
    red, green, blue = np.asarray(image)[0, 0].tolist()
    assert blue == 7
    return red * 256 + green


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w", kind: int = tarfile.PAX_FORMAT) -> Path:
    """A tar file of these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=kind) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def numbered(path: Path, first: int, count: int, mode: str = "w") -> Path:
    """A tar file of images whose colours are the numbers from `first` on."""
    return write_tar(path, [(f"{number:05}.png", colour(number)) for number in range(first, first + count)], mode)


def striped(path: Path, count: int, seed: int, side: int = 16) -> Path:
    """A tar file of stripes with their classes."""
    members = []
    for number, (image, label) in enumerate(zip(*stripes(count, side, seed), strict=True)):
        members += [(f"{number:05}.png", encoded(image)), (f"{number:05}.cls", str(label).encode())]
    return write_tar(path, members)


class Server(ThreadingHTTPServer):
    """Serves a folder on the loopback.

    Attributes:
        failing: answers 503 so many times, or for ever if negative.
        dropping: ends so many connections half-way.
        ranges: understands Range requests.
        tags: names the version of a file by an ETag.
        requests: (path, Range or None) of all so far.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.failing = self.dropping = 0
        self.lock = threading.Lock()
        self.ranges = self.tags = True
        self.requests: list[tuple[str, str | None]] = []

    def take(self, name: str) -> bool:
        """Whether `failing` or `dropping` says that this request goes wrong; it counts as one. Requests come from threads."""
        with self.lock:
            left: int = getattr(self, name)
            setattr(self, name, left - bool(left))
        return bool(left)

    @property
    def address(self) -> str:
        """http://127.0.0.1:PORT"""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        if self.server.take("failing"):
            self.send_error(503)
            return
        path = self.server.folder / self.path.strip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        if self.server.tags:
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        part = data[first:]
        if self.server.take("dropping"):
            part = part[: len(part) // 2]
        self.wfile.write(part)

    def log_message(self, *arguments: object) -> None:
        """Nothing is printed."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server for a folder, for as long as the `with` lasts."""
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def write_parquet(folder: Path, files: int = 2, rows: int = 5, **columns: Any) -> Path:
    """A data set of numbered images; columns of another kind, or None for no such column."""
    datasets = pytest.importorskip("datasets")
    folder.mkdir()
    kinds = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "text": datasets.Value("string"),
    }
    kinds = {**kinds, **columns}
    for number in range(files):
        first = number * rows
        values = {
            "image": [{"bytes": colour(first + i), "path": None} for i in range(rows)],
            "label": [i % 2 for i in range(rows)],
            "text": ["x"] * rows,
            **{name: [{"bytes": b"", "path": None}] * rows for name in columns},
        }
        values = {name: value for name, value in values.items() if kinds[name] is not None}
        features = datasets.Features({name: kind for name, kind in kinds.items() if kind is not None})
        data = datasets.Dataset.from_dict(values, features=features)
        data.to_parquet(folder / f"train-{number:05}-of-{files:05}.parquet")
    return folder

"""What all tests share: small models, one thread, no network beyond this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

from beit import BeitConfig
from fixtures_runs import tiny_config

try:
    import torch
except ImportError:  # the tests of the framework-free rooms run without it
    pass
else:
    torch.set_num_threads(1)

try:
    from hypothesis import settings
except ImportError:
    pass
else:
    settings.register_profile("tests", deadline=None, max_examples=40, derandomize=True)
    settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that wants to talk to the world fails at once."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise ConnectionRefusedError(f"tests stay on this machine; refused {address}")
        connect(self, address)

    resolve = socket.getaddrinfo

    def resolve_guarded(host: Any, *rest: Any, **more: Any) -> Any:
        if host not in (None, "", "127.0.0.1", "::1", "localhost", b"127.0.0.1", b"localhost"):
            raise socket.gaierror(socket.EAI_NONAME, f"tests stay on this machine; refused {host}")
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", resolve_guarded)


@pytest.fixture
def tiny() -> Callable[..., BeitConfig]:
    """Settings of a model of a few thousand numbers on 16x16 images; keywords override."""

    return tiny_config


@pytest.fixture(scope="module")
def quick_compiles() -> Iterator[None]:
    """Most of what JAX's compiler does is for a speed that tiny models do not need."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def hub_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps its files in the test's folder, and shows no bars."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()

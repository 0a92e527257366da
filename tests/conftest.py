"""What all tests share: one thread, the same random numbers in any order, no network beyond this machine."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Read once, when a library starts. One thread each: several workers and their subprocesses share the cores.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

XLA_FLAGS = ["--xla_cpu_multi_thread_eigen=false"]
with contextlib.suppress(metadata.PackageNotFoundError):
    # Tiny models spend their time in the compiler: without this way of fusing it is twice as fast. A jax that does not
    # know a flag stops.
    if tuple(int(part) for part in metadata.version("jax").split(".")[:2]) >= (0, 10):
        XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
XLA_FLAGS = [flag for flag in XLA_FLAGS if flag not in os.environ.get("XLA_FLAGS", "")]  # a worker inherits them
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *XLA_FLAGS]).strip()

from beit import BeitConfig
from fixtures_runs import tiny_config

try:
    import torch
except ImportError:  # the tests of the framework-free rooms run without it
    torch = None
else:
    torch.set_num_threads(1)

try:
    from hypothesis import HealthCheck, settings
except ImportError:
    pass
else:
    unhurried = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # the machine may be busy
    settings.register_profile("tests", max_examples=40, derandomize=True, **unhurried)
    settings.load_profile("tests")


# --- the order is random, the numbers are not ---------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """pytest-randomly shuffles; we seed: its seeds differ from run to run, and know nothing of PyTorch."""
    if hasattr(config.option, "randomly_reset_seed"):
        config.option.randomly_reset_seed = False


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    if torch is not None:
        torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    """A fixture draws the same numbers whichever test asks for it first."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """A test draws the same numbers whatever ran before."""
    _seed()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The quiet output has no header, where pytest-randomly says how to repeat the order."""
    seed = getattr(config.option, "randomly_seed", None)
    if seed is not None:
        terminalreporter.write_line(f"The order was that of --randomly-seed={seed}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: a worker for each usable core, if it has 3 GB of memory; with one core there are no workers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # not in a container, or without a limit: "max"
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(limit) // int(period)))
    with contextlib.suppress(OSError, ValueError, AttributeError):  # not on all systems
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        cores = min(cores, max(1, memory // 3_000_000_000))
    return min(cores, 8) if cores > 1 else 0


# --- fixtures ----------------------------------------------------------------------------------------------------


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

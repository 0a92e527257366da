"""Batches do not depend on which workers make them; workers that are killed, fail or are abandoned."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit.core.errors import DataError, TrainingError
from beit.data.workers import processes
from beit.data.workers.processes import in_processes
from beit.data.workers.protocol import WorkerBatch, deaths_in_words

COUNT = 7


@dataclass(frozen=True)
class Numbers:
    """A task of COUNT batches. `trouble` says what goes wrong, and in which batch."""

    trouble: tuple[str, int] = ("none", -1)

    def batches(self, worker: int, workers: int) -> Iterator[WorkerBatch]:
        for number in range(worker, COUNT, workers):
            kind, when = self.trouble
            if number == when and kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if number == when and kind == "fails":
                raise ZeroDivisionError("oh")
            if number == when and kind == "wrong":
                yield WorkerBatch(None, ["seen"], DataError("no more"))
                return
            rng = np.random.default_rng(number)
            arrays = {"x": rng.standard_normal((2, 3, 5)).astype("f4"), "mask": rng.random((2, 4)) < 0.5}
            yield WorkerBatch(
                {**arrays, "empty": np.zeros((2, 0), np.int64)}, [f"note {number}"], None, {"n": number}, number
            )


def all_of(pool: Any, workers: int, **trouble: Any) -> list[WorkerBatch]:
    return list(pool(Numbers(**trouble), workers))


@pytest.fixture(autouse=True)
def _no_block_is_left_behind(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Shared memory, where a system shows it as files; other processes may have blocks of their own there."""
    mark = f"{os.getpid():06x}{abs(hash(request.node.name)) % 0xFFFF:04x}"
    monkeypatch.setattr(processes.secrets, "token_hex", lambda _: mark)
    yield
    assert not list(Path("/dev/shm").glob(f"*{mark}*"))


@pytest.fixture(scope="module")
def wanted() -> list[WorkerBatch]:
    return list(Numbers().batches(0, 1))


def same(found: list[WorkerBatch], wanted: list[WorkerBatch]) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours._replace(batch=None) == theirs._replace(batch=None)
        assert list(ours.batch) == list(theirs.batch)
        for name, array in theirs.batch.items():
            mine = np.asarray(ours.batch[name])
            assert mine.dtype == array.dtype
            assert np.array_equal(mine, array)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_processes_make_the_same_batches_in_order(wanted: list[WorkerBatch], workers: int) -> None:
    same(all_of(in_processes, workers), wanted)


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_workers_make_the_same(wanted: list[WorkerBatch], workers: int) -> None:
    torch = pytest.importorskip("torch")
    from beit.data.workers.torch import in_torch_workers

    found = all_of(in_torch_workers, workers)
    assert all(isinstance(value, torch.Tensor) for batch in found for value in batch.batch.values())
    same(found, wanted)


def test_a_killed_worker_is_an_error_with_advice(wanted: list[WorkerBatch]) -> None:
    batches = in_processes(Numbers(("killed", 3)), 2)
    same([next(batches) for _ in range(3)], wanted[:3])
    with pytest.raises(TrainingError, match=r"Data worker 1 has ended by itself \(SIGKILL\).*--workers.*--resume"):
        next(batches)


def test_a_killed_worker_of_pytorch_is_said_in_the_same_words() -> None:
    pytest.importorskip("torch")
    from beit.data.workers.torch import in_torch_workers

    with pytest.raises(TrainingError, match=r"A data worker has ended by itself \(SIGKILL\).*--workers.*--resume"):
        all_of(in_torch_workers, 2, trouble=("killed", 3))
    # PyTorch raises it wherever the main process is; other errors of its kind pass.
    with pytest.raises(TrainingError, match="unknown reason"), deaths_in_words():
        raise RuntimeError("DataLoader worker (pid(s) 4, 5) exited unexpectedly")
    with pytest.raises(TrainingError, match="shm-size"), deaths_in_words():
        raise RuntimeError("DataLoader worker (pid 4) is killed by signal: Bus error. It is possible that …")
    with pytest.raises(RuntimeError, match="oh"), deaths_in_words():
        raise RuntimeError("oh")


def test_full_shared_memory_of_pytorch_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that sends batches would drop one silently, and the main process would wait for it for ever."""
    torch = pytest.importorskip("torch")
    from beit.data.workers.torch import in_torch_workers

    if "jax" in sys.modules:  # then workers are not forked, and have nothing of what is patched here
        alone = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist"]
        name = f"{__file__}::test_full_shared_memory_of_pytorch_is_an_error_with_advice"
        done = subprocess.run([*alone, name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        return

    def full(tensor: Any) -> None:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # forked workers have it too
    found = all_of(in_torch_workers, 2)[0]
    assert isinstance(found.error, TrainingError)
    assert "Data worker 0 could not hand over a batch: unable to allocate" in str(found.error)
    assert "Shared memory is too small (/dev/shm; in a container: --shm-size): try fewer --workers" in str(found.error)

    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("multiprocessing.context.BaseContext.Lock", no_room)
    with pytest.raises(TrainingError, match=r"workers cannot be started: No space left on device\. Shared memory is"):
        all_of(in_torch_workers, 2)
    assert all_of(in_torch_workers, 0)  # needs none


@pytest.mark.parametrize("kind", ["processes", "torch"])
def test_a_failure_of_ours_is_said_without_a_traceback(kind: str) -> None:
    pool: Any = in_processes
    if kind == "torch":
        pytest.importorskip("torch")
        from beit.data.workers.torch import in_torch_workers as pool
    (found,) = [batch for batch in all_of(pool, 2, trouble=("fails", 4)) if batch.error is not None]
    assert isinstance(found.error, TrainingError)
    assert "Data worker 0 failed: unexpected ZeroDivisionError: oh\n" in str(found.error)
    assert "Traceback" not in str(found.error)
    with pytest.raises(ZeroDivisionError):  # in this process, the error is at hand
        all_of(pool, 0, trouble=("fails", 4))


def test_what_cannot_go_on_is_handed_over_and_ends_all() -> None:
    found = all_of(in_processes, 2, trouble=("wrong", 3))
    assert [batch.batch is None for batch in found] == [False, False, False, True]
    assert type(found[-1].error) is DataError
    assert str(found[-1].error) == "no more"
    assert found[-1].skipped == ["seen"]


class Detailed(DataError):
    """An error that carries more than its text."""

    path = ""


@dataclass(frozen=True)
class Failing:
    """A task whose first batch is an error with a cause."""

    def batches(self, worker: int, workers: int) -> Iterator[WorkerBatch]:
        error = Detailed("no more")
        error.path = "x.png"
        yield WorkerBatch(None, [], error)


@pytest.mark.parametrize("kind", ["processes", "torch"])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_keeps_its_class_and_attributes(kind: str, workers: int) -> None:
    pool: Any = in_processes
    if kind == "torch":
        pytest.importorskip("torch")
        from beit.data.workers.torch import in_torch_workers as pool
    (found,) = list(pool(Failing(), workers))
    assert type(found.error) is Detailed
    assert (str(found.error), found.error.path) == ("no more", "x.png")


def test_leaving_early_leaves_nothing_behind() -> None:
    import multiprocessing

    batches = in_processes(Numbers(), 2)
    next(batches)
    workers = [process for process in multiprocessing.active_children() if process.name.startswith("beit-data")]
    assert len(workers) == 2
    batches.close()
    assert not any(process.is_alive() for process in workers)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="shows no shared memory as files")
def test_a_block_without_a_size_is_removed() -> None:
    """A worker may be killed between making a block and giving it its size."""
    block = Path(f"/dev/shm/beit-empty-{os.getpid()}")
    block.touch()
    processes._clear(block.name)
    assert not block.exists()
    processes._clear(block.name)


def test_workers_ignore_what_a_scheduler_sends(wanted: list[WorkerBatch]) -> None:
    import multiprocessing

    batches = in_processes(Numbers(), 2)
    found = [next(batches)]
    for process in multiprocessing.active_children():
        for number in (signal.SIGINT, signal.SIGTERM):
            assert process.pid is not None
            os.kill(process.pid, number)
    time.sleep(0.1)
    same([*found, *batches], wanted)

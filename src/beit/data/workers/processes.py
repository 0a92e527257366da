"""Workers that are processes of Python's own, for runs without PyTorch.

Each starts from nothing (spawn): a process with the threads of JAX must not be forked. A worker makes at most two batches
ahead. Their arrays travel through shared memory, one block a batch, named by the main process, so that it can remove the
block of a worker that was killed; all else goes through a pipe, at whose end a worker sees that the main process is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import multiprocessing
import pickle
import secrets
import signal
import traceback
from collections import deque
from collections.abc import Generator, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from beit.core.errors import TrainingError
from beit.data.transforms.views import Batch
from beit.data.workers.protocol import Made, Work, ignore_signals

_AHEAD = 2  # batches
_ALIGNED = 64  # bytes: where an array begins in its block
_SIGNALS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)}
_GONE = (
    EOFError,
    BrokenPipeError,
    ConnectionResetError,
)  # what a pipe says when the process at its other end has ended


def in_processes(work: Work, workers: int) -> Generator[Made, None, None]:
    """As `work.Pool`.

    Raises:
        TrainingError: a worker was killed.
        RuntimeError: a worker has failed as it should not; the message has its traceback.
    """
    if workers == 0:
        yield from work.batches(0, 1)
        return
    name = f"beit{secrets.token_hex(5)}"  # of the blocks; macOS allows 30 letters
    pool: list[_Worker] = []

    def end() -> None:
        for worker in pool:
            worker.end()

    # Python ends its processes by SIGTERM and waits for them; these ignore it. What is registered later runs earlier.
    atexit.register(end)
    try:
        for number in range(workers):
            pool.append(_Worker(work, number, workers, f"{name}-{number}"))
        for worker in itertools.cycle(pool):
            made = worker.next()
            if made is None:  # they take turns: who comes later has none left either
                return
            yield made
            if made.batch is None and made.error is not None:
                return
    finally:
        end()
        atexit.unregister(end)


class _Worker:
    """One process, seen from the main one."""

    def __init__(self, work: Work, number: int, workers: int, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.number, self.name, self.received = number, name, 0
        self.pipe, other = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(work, number, workers, name, other), name=f"beit-data-{number}", daemon=True
        )
        try:
            with _signals_later():
                self.process.start()
        finally:
            other.close()  # or the end of the process would not be the end of the pipe

    def next(self) -> Made | None:
        """Its next batch; None after the last."""
        try:
            made, layout, failure = pickle.loads(self.pipe.recv_bytes())
        except _GONE:
            raise TrainingError(self._ended()) from None
        if failure is not None:
            raise RuntimeError(f"Data worker {self.number} failed:\n{failure}")
        if made is None:
            return None
        if layout is not None:
            block = SharedMemory(self._block(self.received))
            try:
                batch = {name: array.copy() for name, array in _arrays(block, layout).items()}
            finally:
                block.close()
                block.unlink()
            made = made._replace(batch=batch)
        self.received += 1
        with contextlib.suppress(*_GONE):
            self.pipe.send_bytes(b"received")
        return made

    def _block(self, batch: int) -> str:
        return f"{self.name}-{batch % _AHEAD}"

    def _ended(self) -> str:
        self.process.join(5)
        code = self.process.exitcode
        how = f"exit status {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name
        advice = {
            "SIGKILL": "Perhaps memory was short: try fewer (--workers) or smaller batches.",
            "SIGBUS": "Shared memory is too small (/dev/shm; of a container: --shm-size): try fewer --workers, or 0.",
            "exit status 1": "Its message is above. A script that starts a run must do so below `if __name__ == "
            '"__main__":`, since each worker reads it too.',
        }.get(how, "Try --workers 0 to see what happens.")
        return f"Data worker {self.number} has ended by itself ({how}). {advice} Then go on with --resume."

    def end(self) -> None:
        """Kill it and remove what it has left behind."""
        if self.process.pid is not None:
            self.process.kill()  # it ignores signals, and may be waiting for a server
            self.process.join()
        self.pipe.close()
        for batch in range(_AHEAD):
            # A block that has no size yet cannot be opened, and takes no memory.
            with contextlib.suppress(FileNotFoundError, ValueError):
                _remove(SharedMemory(self._block(batch)))


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """A process that starts here holds signals back until it ignores them; its start takes a while."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its own start would let them through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- in the worker ---------------------------------------------------------------------------------------------------


def _work(work: Work, number: int, workers: int, name: str, pipe: Connection) -> None:
    ignore_signals()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    blocks: deque[SharedMemory | None] = deque()  # of batches that have not arrived yet

    def wait(most: int) -> None:
        while len(blocks) > most:
            pipe.recv_bytes()
            block = blocks.popleft()
            if block is not None:
                block.close()

    try:
        try:
            for batch, made in zip(itertools.count(), work.batches(number, workers)):
                block, layout = _fill(f"{name}-{batch % _AHEAD}", made.batch)
                blocks.append(block)
                pipe.send_bytes(pickle.dumps((made._replace(batch=None), layout, None)))
                wait(_AHEAD - 1)
            pipe.send_bytes(pickle.dumps((None, None, None)))
            wait(0)  # elsewhere than on Linux a block ends with the last process that has it open
        except _GONE:
            raise
        except Exception:
            pipe.send_bytes(pickle.dumps((None, None, traceback.format_exc())))
            wait(0)
    except _GONE:  # the main process
        for block in blocks:
            if block is not None:
                with contextlib.suppress(FileNotFoundError):
                    _remove(block)


def _fill(name: str, batch: Batch | None) -> tuple[SharedMemory | None, list[tuple[Any, ...]] | None]:
    """(a block with the arrays of a batch, and where in it they are)."""
    if batch is None:
        return None, None
    layout, size = [], 0
    for key, array in batch.items():
        layout.append((key, array.dtype.str, array.shape, size))
        size += -(-array.nbytes // _ALIGNED) * _ALIGNED
    block = SharedMemory(name, create=True, size=max(size, 1))
    for key, place in _arrays(block, layout).items():
        place[...] = batch[key]
    return block, layout


def _arrays(block: SharedMemory, layout: list[tuple[Any, ...]]) -> Batch:
    """Views into a block: let go of them before it is closed."""
    return {key: np.ndarray(shape, dtype, buffer=block.buf, offset=offset) for key, dtype, shape, offset in layout}


def _remove(block: SharedMemory) -> None:
    block.close()
    block.unlink()

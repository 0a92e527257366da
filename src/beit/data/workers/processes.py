"""Worker processes of Python's own, for runs without PyTorch.

Each starts from nothing (spawn), since a process with the threads of JAX must not be forked. A worker prepares at most two
batches ahead.

Arrays travel through shared memory, one block per batch. The main process names the blocks, so that it can remove those of
a worker that was killed. Everything else goes through a pipe, by whose end a worker notices that the main process is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import multiprocessing
import os
import pickle
import secrets
import signal
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
from beit.data.workers.protocol import WorkerBatch, WorkerTask, ended, failed, guarded, ignore_signals, no_shared_memory

_AHEAD = 2  # batches
_ALIGNMENT = 64  # bytes: where an array begins in its block
_SIGNALS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)}
# What a pipe raises when the process at its other end has ended.
_GONE = (EOFError, BrokenPipeError, ConnectionResetError)


def in_processes(task: WorkerTask, workers: int) -> Generator[WorkerBatch, None, None]:
    """As `protocol.Pool`.

    Raises:
        TrainingError: a worker was killed.
    """
    if workers == 0:
        yield from task.batches(0, 1)
        return
    name = f"beit{secrets.token_hex(5)}"  # of the blocks; macOS allows 30 letters
    pool: list[_Worker] = []

    def end() -> None:
        for worker in pool:
            worker.end()

    # At exit, multiprocessing ends its processes by SIGTERM, which these ignore, and then waits for them. Handlers run in
    # the reverse order of registration: this one comes first and kills them.
    atexit.register(end)
    try:
        for number in range(workers):
            pool.append(_Worker(task, number, workers, f"{name}-{number}"))
        for worker in itertools.cycle(pool):
            found = worker.next()
            if found is None:  # workers take turns, so the others have no batch left either
                return
            yield found
            if found.error is not None:
                return
    finally:
        end()
        atexit.unregister(end)


class _Worker:
    """One worker, as the main process sees it."""

    def __init__(self, task: WorkerTask, number: int, workers: int, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.number, self.name, self.received = number, name, 0
        self.pipe, other = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_run, args=(task, number, workers, name, other), name=f"beit-data-{number}", daemon=True
        )
        try:
            with _signals_blocked():
                self.process.start()
        finally:
            other.close()  # while it is open here too, the end of the worker would not close the pipe

    def next(self) -> WorkerBatch | None:
        """The worker's next batch; None after the last."""
        try:
            found, layout = pickle.loads(self.pipe.recv_bytes())
        except _GONE:
            raise TrainingError(self._ended()) from None
        if found is None:
            return None
        if layout is not None:
            block = SharedMemory(self._block(self.received))
            try:
                batch = {name: array.copy() for name, array in _arrays(block, layout).items()}
            finally:
                block.close()
                block.unlink()
            found = found._replace(batch=batch)
        self.received += 1
        with contextlib.suppress(*_GONE):
            self.pipe.send_bytes(b"received")
        return found

    def _block(self, batch: int) -> str:
        return f"{self.name}-{batch % _AHEAD}"

    def _ended(self) -> str:
        self.process.join(5)
        return ended(f"Data worker {self.number}", self.process.exitcode)

    def end(self) -> None:
        """Kill the worker and remove the blocks it left behind."""
        if self.process.pid is not None:
            self.process.kill()  # it ignores other signals, and may be waiting for a server
            self.process.join()
        self.pipe.close()
        for batch in range(_AHEAD):
            _clear(self._block(batch))


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process that starts here inherits blocked signals: Ctrl-C cannot end it before it ignores signals itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # multiprocessing starts its tracker with the first process, and lets signals through while it does.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- in the worker ---------------------------------------------------------------------------------------------------


def _run(task: WorkerTask, number: int, workers: int, name: str, pipe: Connection) -> None:
    """Send all batches of this worker through the pipe, at most `_AHEAD` before the main process has received them."""
    ignore_signals()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    blocks: deque[SharedMemory | None] = deque()  # of batches that the main process has not received yet

    def wait(most: int) -> None:
        while len(blocks) > most:
            pipe.recv_bytes()
            block = blocks.popleft()
            if block is not None:
                block.close()

    try:
        try:
            for count, found in enumerate(guarded(task, number, workers)):
                try:
                    block, layout = _fill(f"{name}-{count % _AHEAD}", found.batch)
                except OSError as error:
                    found, block, layout = no_shared_memory(number, error), None, None
                blocks.append(block)
                pipe.send_bytes(pickle.dumps((found._replace(batch=None), layout)))
                wait(_AHEAD - 1)
            pipe.send_bytes(pickle.dumps((None, None)))
            wait(0)  # outside Linux, a block may disappear with the last process that has it open
        except _GONE:
            raise
        except Exception as error:
            pipe.send_bytes(pickle.dumps((failed(number, error), None)))
            wait(0)
    except _GONE:  # the main process is gone, and nobody else will remove the blocks
        for block in blocks:
            if block is not None:
                with contextlib.suppress(FileNotFoundError):
                    _remove(block)


def _fill(name: str, batch: Batch | None) -> tuple[SharedMemory | None, list[tuple[Any, ...]] | None]:
    """(a block that holds the arrays of a batch, where each of them is in it)."""
    if batch is None:
        return None, None
    layout, size = [], 0
    for key, array in batch.items():
        layout.append((key, array.dtype.str, array.shape, size))
        size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    block = SharedMemory(name, create=True, size=max(size, 1))
    for key, target in _arrays(block, layout).items():
        target[...] = batch[key]
    return block, layout


def _arrays(block: SharedMemory, layout: list[tuple[Any, ...]]) -> Batch:
    """Views into a block. No reference to them may be left when the block is closed."""
    return {key: np.ndarray(shape, dtype, buffer=block.buf, offset=offset) for key, dtype, shape, offset in layout}


def _clear(name: str) -> None:
    """Remove a block of a worker that was killed, if there is one."""
    try:
        _remove(SharedMemory(name))
    except FileNotFoundError:
        pass
    except ValueError:  # killed between making it and giving it a size: it cannot be opened, and only its name is left
        with contextlib.suppress(OSError):
            os.unlink(os.path.join("/dev/shm", name))


def _remove(block: SharedMemory) -> None:
    block.close()
    block.unlink()

"""Workers of PyTorch's DataLoader: batches arrive as tensors, in pinned memory where there is a GPU."""

from __future__ import annotations

import errno
import multiprocessing
import sys
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from beit.core.errors import TrainingError
from beit.data.workers.protocol import (
    LITTLE_SHARED_MEMORY,
    WorkerBatch,
    WorkerTask,
    deaths_in_words,
    guarded,
    ignore_signals,
    no_shared_memory,
)


def in_torch_workers(task: WorkerTask, workers: int) -> Generator[WorkerBatch, None, None]:
    """As `protocol.Pool`, with a `torch.Tensor` in place of each array."""
    loader: DataLoader[Any] = DataLoader(
        _Batches(task),
        batch_size=None,  # the workers return whole batches
        num_workers=workers,
        multiprocessing_context=start_method(workers),
        collate_fn=_unchanged,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=ignore_signals,
    )
    _check_semaphores(workers)
    batches = iter(loader)
    try:
        with deaths_in_words(lambda: [worker.exitcode for worker in getattr(batches, "_workers", [])]):
            yield from batches
    finally:
        # Workers ignore signals. After an error, Python would wait for them at exit for ever.
        shutdown = getattr(batches, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()
        for worker in getattr(batches, "_workers", []):
            worker.kill()  # a worker that waits for a server does not see the shutdown


def _check_semaphores(workers: int) -> None:
    """Raises TrainingError where there is no room for the semaphores of the queues.

    They are in shared memory too. PyTorch would stop half-way, and print a traceback when its iterator is deleted.
    """
    try:
        context = multiprocessing.get_context(start_method(workers))
        _ = [context.Lock() for _ in range(8 + 8 * workers if workers else 0)]  # about as many as PyTorch makes
    except OSError as error:
        advice = LITTLE_SHARED_MEMORY if error.errno == errno.ENOSPC else "Try fewer --workers, or 0."
        raise TrainingError(f"Data workers cannot be started: {error.strerror or error}. {advice}") from error


def start_method(workers: int) -> str | None:
    """How workers start: as PyTorch likes; with JAX loaded by spawn, since a fork of its threads would hang."""
    return "spawn" if workers and "jax" in sys.modules else None


class _Batches(IterableDataset[WorkerBatch]):
    def __init__(self, task: WorkerTask) -> None:
        self.task = task

    def __iter__(self) -> Iterator[WorkerBatch]:
        info = get_worker_info()
        batches = self.task.batches(0, 1) if info is None else guarded(self.task, info.id, info.num_workers)
        for found in batches:
            if found.batch is None:
                yield found
            else:  # tensors are made here: they travel in shared memory, where arrays would be pickled
                tensors: Any = {name: torch.from_numpy(array) for name, array in found.batch.items()}
                if info is not None:
                    # Now and not by the thread that sends them: it would print an error and drop the batch, and the main
                    # process would wait for it for ever.
                    try:
                        for tensor in tensors.values():
                            tensor.share_memory_()
                    except RuntimeError as error:
                        yield no_shared_memory(info.id, error)
                        return
                yield found._replace(batch=tensors)


def _unchanged(found: Any) -> Any:
    return found

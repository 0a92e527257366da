"""Workers of PyTorch's DataLoader: batches arrive as tensors, in pinned memory where there is a GPU."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from beit.data.workers.protocol import WorkerBatch, WorkerTask, deaths_in_words, guarded, ignore_signals


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
                yield found._replace(batch=tensors)


def _unchanged(found: Any) -> Any:
    return found

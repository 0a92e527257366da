"""Workers of PyTorch's DataLoader, for runs with PyTorch: batches come as tensors, in pinned memory where there is a GPU."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from beit.data.workers.protocol import Made, Work, ignore_signals


def in_torch_workers(work: Work, workers: int) -> Generator[Made, None, None]:
    """As `work.Pool`, with `torch.Tensor` in the place of arrays."""
    loader: DataLoader[Any] = DataLoader(
        _Batches(work),
        batch_size=None,  # workers hand over whole batches, in turn
        num_workers=workers,
        multiprocessing_context=start_method(workers),
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=ignore_signals,
    )
    batches = iter(loader)
    try:
        yield from batches
    finally:
        # Workers ignore signals, so an error must not leave them to be ended by one when Python exits.
        end = getattr(batches, "_shutdown_workers", None)
        if end is not None:
            end()
        for worker in getattr(batches, "_workers", []):
            worker.kill()  # one that still waits for a server; Python would wait for it


def start_method(workers: int) -> str | None:
    """How workers start: PyTorch's way, but not as copies of a process with the threads of JAX, which would hang."""
    return "spawn" if workers and "jax" in sys.modules else None


class _Batches(IterableDataset[Made]):
    def __init__(self, work: Work) -> None:
        self.work = work

    def __iter__(self) -> Iterator[Made]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for made in self.work.batches(worker, workers):
            if made.batch is None:
                yield made
            else:  # tensors already here: between processes they travel in shared memory, arrays would be pickled
                tensors: Any = {name: torch.from_numpy(array) for name, array in made.batch.items()}
                yield made._replace(batch=tensors)


def _as_it_is(made: Any) -> Any:
    return made

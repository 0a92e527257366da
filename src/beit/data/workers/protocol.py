"""What workers have to do, in words that any kind of worker understands. Numpy only."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple, Protocol

from beit.data.transforms.views import Batch


class Made(NamedTuple):
    """A batch, or why there is none.

    Attributes:
        batch: arrays by name, or None.
        reasons: why images were passed over.
        error: (name of a class of `beit.core.errors`, message); after it nothing more comes from this worker.
        place: of a stream, where the lane stands now, for JSON.
        fresh: good images of the first pass over a stream.
    """

    batch: Batch | None
    reasons: list[str]
    error: tuple[str, str] | None = None
    place: dict[str, Any] | None = None
    fresh: int = 0


class Work(Protocol):
    """Batches to be made by any number of workers; can be pickled."""

    def batches(self, worker: int, workers: int) -> Iterator[Made]:
        """Batches number `worker`, `worker` + `workers`, `worker` + 2 `workers`, … of all, in this order."""
        ...


class Pool(Protocol):
    """Runs workers, and hands out what they have made."""

    def __call__(self, work: Work, workers: int) -> Generator[Made, None, None]:
        """All batches in their order, by so many workers, 0 for none beside this process; they end with the generator."""
        ...


def ignore_signals(worker: int = 0) -> None:
    """Ctrl-C, and what a scheduler sends to a whole job, reach every process; the main one must still save."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

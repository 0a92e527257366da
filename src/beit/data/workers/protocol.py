"""What passes between a run and its workers: tasks in, batches out. Any kind of worker pool understands it. Numpy only."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from beit.core.errors import BeitError, TrainingError
from beit.core.text import printable
from beit.data.transforms.views import Batch

LITTLE_SHARED_MEMORY = "Shared memory is too small (/dev/shm; in a container: --shm-size): try fewer --workers, or 0."


class WorkerBatch(NamedTuple):
    """A batch from a worker, or the error that ends the run.

    Attributes:
        batch: arrays by name; None if there is an error.
        skipped: one line per image that was skipped, with the reason.
        error: why the worker cannot go on; it sends nothing more after this.
        position: of a stream: where its reader stands after this batch, for JSON.
        first_pass_images: of a stream: images of this batch that belong to the first pass.
    """

    batch: Batch | None
    skipped: list[str]
    error: BeitError | None = None
    position: dict[str, Any] | None = None
    first_pass_images: int = 0


class WorkerTask(Protocol):
    """A series of batches that any number of workers can share. It is pickled and sent to each of them."""

    def batches(self, worker: int, workers: int) -> Iterator[WorkerBatch]:
        """The batches number `worker`, `worker + workers`, `worker + 2 * workers`, … of the series, in this order."""
        ...


class Pool(Protocol):
    """Runs workers and collects their batches."""

    def __call__(self, task: WorkerTask, workers: int) -> Generator[WorkerBatch, None, None]:
        """All batches of a task in their order. Closing the generator ends the workers.

        Args:
            task: what the workers do.
            workers: number of worker processes; 0 to work in this process.
        """
        ...


def guarded(task: WorkerTask, worker: int, workers: int) -> Iterator[WorkerBatch]:
    """The batches of a worker process. An error that is none of ours becomes one of ours, in the last batch."""
    try:
        yield from task.batches(worker, workers)
    except Exception as error:
        yield failed(worker, error)


def failed(worker: int, error: Exception) -> WorkerBatch:
    """What a worker sends that cannot go on because of an error that is none of ours.

    The traceback of another process would come as text. It belongs in no message, and `--workers 0 --debug` shows it.
    """
    text = (
        f"Data worker {worker} failed: unexpected {type(error).__name__}: {printable(error)}\nRun it again with --workers 0 "
        "--debug for a traceback, and please report it."
    )
    return WorkerBatch(None, [], TrainingError(text))


def no_shared_memory(worker: int, error: Exception) -> WorkerBatch:
    """What a worker sends that has no place for its batch in shared memory."""
    reason = getattr(error, "strerror", None) or error
    text = f"Data worker {worker} could not hand over a batch: {printable(reason)}. {LITTLE_SHARED_MEMORY}"
    return WorkerBatch(None, [], TrainingError(f"{text} Then go on with --resume."))


def ignore_signals(worker: int = 0) -> None:
    """Let a worker ignore Ctrl-C and a scheduler's signals.

    These reach every process of a job. The main process still needs its workers while it saves, and ends them itself.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@contextlib.contextmanager
def deaths_in_words(codes: Callable[[], Iterable[int | None]] = tuple) -> Iterator[None]:
    """Say in words that a worker of PyTorch's DataLoader was killed.

    PyTorch notices it by a signal, and raises a RuntimeError wherever the main process happens to be: the loop needs this as
    well as the pool.

    Args:
        codes: gives the exit status of each worker, where it is known.

    Raises:
        TrainingError: a worker was killed.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.match(
            r"DataLoader worker \(pid.*?\) (?:is killed by signal: ([^.]*)|exited unexpectedly)", str(error)
        )
        if found is None:
            raise
        named = [-signum for signum in signal.Signals if signal.strsignal(signum) == found.group(1)]
        code = next((code for code in (*named, *codes()) if code), None)
        raise TrainingError(ended("A data worker", code)) from error


def ended(worker: str, code: int | None) -> str:
    """What to say of a worker that has ended by itself.

    Args:
        worker: what to call it.
        code: its exit status as Python gives it: minus the number of the signal that killed it; None if unknown.
    """
    how = "for an unknown reason" if code is None else f"exit status {code}"
    if code is not None and code < 0:
        how = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    advice = {
        "SIGKILL": "Memory may have run out: try fewer (--workers) or smaller batches.",
        "SIGBUS": LITTLE_SHARED_MEMORY,
        "exit status 1": "Its message is above. A script that starts a run must do so under `if __name__ == "
        '"__main__":`, since each worker imports it too.',
    }.get(how, "Try --workers 0 to see what happens.")
    return f"{worker} has ended by itself ({how}). {advice} Then go on with --resume."

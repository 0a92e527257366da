"""The optimiser and the averaged weights in a checkpoint of a Flax run: a folder `flax_state/`, written by Orbax.

Each array is stored in the pieces in which it lies on the devices.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
import traceback
import warnings
from collections.abc import Callable, Coroutine
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from beit.core.errors import CheckpointError, require

STATE = "flax_state"


def write(folder: Path, state: Any) -> None:
    """Write a pytree of arrays into the folder of a checkpoint. Raises OSError when it cannot be written."""

    def save(checkpointer: Any) -> None:
        checkpointer.save((folder / STATE).absolute(), state)
        checkpointer.wait_until_finished()

    failure = _attempt(save, OSError, ValueError)[1]  # the second is how its storage reports a full disk
    if failure:
        raise OSError(errno.ENOSPC, failure.says)


def read(folder: Path, shapes: Any) -> Any:
    """Read the pytree from the folder of a checkpoint.

    Args:
        folder: the checkpoint.
        shapes: the same tree of `jax.ShapeDtypeStruct`s, which say on which devices the arrays go.

    Raises:
        CheckpointError: it is missing, damaged or of another model.
    """
    found, failure = _restored(folder, shapes)
    if failure:
        raise CheckpointError(
            f"{folder / STATE} is missing, damaged or does not fit this run: {failure.kind}: {failure.says[:200]}"
        )
    return found


def check(folder: Path) -> None:
    """Raises CheckpointError when the training state in a checkpoint cannot be read."""
    failure = _restored(folder)[1]
    if failure:
        raise CheckpointError(f"{folder / STATE} is missing or damaged ({failure.kind}: {failure.says[:200]}).")


class _Failure(NamedTuple):
    """An exception in words. The exception itself would keep local variables of Orbax alive."""

    kind: str
    says: str


def _restored(folder: Path, *shapes: Any) -> tuple[Any, _Failure | None]:
    """(the pytree, None), or (None, why there is none)."""
    # Orbax and its storage raise a different type for nearly every kind of damage.
    return _attempt(lambda checkpointer: checkpointer.restore((folder / STATE).absolute(), *shapes), Exception)


def _attempt(task: Callable[[Any], Any], *expected: type[Exception]) -> tuple[Any, _Failure | None]:
    """Run `task` with a checkpointer: (its result, None), or (None, what went wrong) for an exception of a type in `expected`.

    A failure becomes one sentence: tracebacks that Orbax logs and its remarks on shardings and threads are silenced.
    """
    orbax = require("orbax.checkpoint", "flax", "checkpoints of Flax runs")
    _let_tasks_finish()
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with orbax.StandardCheckpointer() as checkpointer:
            try:
                return task(checkpointer), None
            except expected as error:
                says = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
                failure = _Failure(type(error).__name__, says)
                _join_threads()
                _clear_frames(error)
        return None, failure


def _join_threads() -> None:
    """Wait for Orbax's threads: one writes shardings, one arrays, and a save has failed as soon as one of them has."""
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            threading.Thread.join(thread)  # Orbax's own `join` raises what the thread has raised


@cache
def _let_tasks_finish() -> None:
    """Make Orbax wait for all tasks that it starts, also after one of them has failed.

    Orbax writes each array in a task of its own. When one fails, it closes the event loop at once, while the others are
    pending. Some have not begun, and warn that they were "never awaited" whenever Python happens to destroy them; others
    still write, into a folder that the caller removes, and report to a closed loop from a thread of the storage. Every
    coroutine of Orbax runs through `run_sync`, so that is where we wait.
    """
    try:
        from orbax.checkpoint._src import asyncio_utils

        run_sync = asyncio_utils.run_sync
    except (ImportError, AttributeError):  # private, so another version may lack it; saves work without the wait, too
        return

    def run_to_the_end(coroutine: Coroutine[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        return run_sync(_with_its_tasks(coroutine), *args, **kwargs)

    asyncio_utils.run_sync = run_to_the_end


async def _with_its_tasks(coroutine: Coroutine[Any, Any, Any]) -> Any:
    before = asyncio.all_tasks()
    try:
        return await coroutine
    finally:
        while tasks := asyncio.all_tasks() - before:
            await asyncio.gather(*tasks, return_exceptions=True)


def _clear_frames(error: BaseException | None) -> None:
    """Let go of the local variables in an exception's traceback: lists of coroutines that were never passed to a task.

    They warn when they are destroyed. This way it happens now, while warnings are ignored.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__

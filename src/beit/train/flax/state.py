"""What a checkpoint of a Flax run keeps beside the weights, by Orbax: a folder `flax_state/`, each array in pieces as it lies
on the devices."""

from __future__ import annotations

import errno
import gc
import inspect
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import CoroutineType
from typing import Any, NamedTuple

from beit.core.errors import CheckpointError, require

STATE = "flax_state"


def write(folder: Path, state: Any) -> None:
    """A pytree of arrays into the folder of a checkpoint. Raises OSError when it cannot be written."""

    def save(checkpointer: Any) -> None:
        checkpointer.save((folder / STATE).absolute(), state)
        checkpointer.wait_until_finished()

    failure = _attempt(save, OSError, ValueError)[1]  # the second is how its storage reports a full disk
    if failure:
        raise OSError(errno.ENOSPC, failure.says)


def read(folder: Path, shapes: Any) -> Any:
    """The pytree from the folder of a checkpoint.

    Args:
        folder: the checkpoint.
        shapes: the tree with `jax.ShapeDtypeStruct`s, which say where arrays go.

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
    """Whether the training state in a checkpoint can be read. Raises CheckpointError."""
    failure = _restored(folder)[1]
    if failure:
        raise CheckpointError(f"{folder / STATE} is missing or damaged ({failure.kind}: {failure.says[:200]}).")


class _Failure(NamedTuple):
    """What is kept of an exception: words. The exception itself would keep frames of Orbax alive."""

    kind: str
    says: str


def _restored(folder: Path, *shapes: Any) -> tuple[Any, _Failure | None]:
    """(the pytree, None), or (None, why there is none)."""
    # Orbax and its storage raise a different type for nearly every kind of damage.
    return _attempt(lambda checkpointer: checkpointer.restore((folder / STATE).absolute(), *shapes), Exception)


def _attempt(task: Callable[[Any], Any], *expected: type[Exception]) -> tuple[Any, _Failure | None]:
    """What `task` makes of a checkpointer, without Orbax's remarks on shardings, threads and what it writes where.

    Of a failure we say one sentence. Orbax logs tracebacks, and leaves coroutines that complain, one for each array, when they
    are thrown away: that is to happen here, where nobody hears it, not at some later collection of garbage.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    heard = sys.unraisablehook
    sys.unraisablehook = lambda complaint: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, failure = _tried(task, expected)  # its frame, which held the checkpointer, is gone now
            if failure:
                _collect_coroutines()
    finally:
        sys.unraisablehook = heard
    return found, failure


def _tried(task: Callable[[Any], Any], expected: tuple[type[Exception], ...]) -> tuple[Any, _Failure | None]:
    orbax = require("orbax.checkpoint", "flax", "checkpoints of Flax runs")
    with orbax.StandardCheckpointer() as checkpointer:
        try:
            return task(checkpointer), None
        except expected as error:
            says = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
            return None, _Failure(type(error).__name__, says)


def _collect_coroutines(patience: float = 10.0) -> None:
    """Collect garbage until no coroutine of Orbax waits to be started; threads of its storage may let go of them late."""
    until = time.monotonic() + patience
    while True:
        time.sleep(0.1)
        gc.collect()
        waiting = any(type(thing) is CoroutineType and _complains(thing) for thing in gc.get_objects())
        if not waiting or time.monotonic() > until:
            return


def _complains(coroutine: CoroutineType[Any, Any, Any]) -> bool:
    return "orbax" in coroutine.cr_code.co_filename and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED

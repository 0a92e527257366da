"""What a checkpoint of a Flax run keeps beside the weights, by Orbax: a folder `flax_state/`, each array in pieces as it lies
on the devices."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beit.errors import CheckpointError, require

STATE = "flax_state"


def write(folder: Path, state: Any) -> None:
    """A pytree of arrays into the folder of a checkpoint. Raises OSError when it cannot be written."""
    failure = None
    with _orbax() as orbax, orbax.StandardCheckpointer() as checkpointer:
        try:
            checkpointer.save((folder / STATE).absolute(), state)
            checkpointer.wait_until_finished()
        except (OSError, ValueError) as error:  # the second is how its storage reports a full disk
            failure = OSError(errno.ENOSPC, getattr(error, "strerror", None) or str(error).splitlines()[0])
        if failure is not None:
            _let_it_end()
    if failure is not None:
        raise failure


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
        raise CheckpointError(f"{folder / STATE} is missing, damaged or does not fit this run: {failure}")
    return found


def check(folder: Path) -> None:
    """Whether the training state in a checkpoint can be read. Raises CheckpointError."""
    failure = _restored(folder)[1]
    if failure:
        raise CheckpointError(f"{folder / STATE} is missing or damaged ({failure}).")


def _restored(folder: Path, *shapes: Any) -> tuple[Any, str]:
    """(the pytree, ""), or (None, why there is none)."""
    found, failure = None, ""
    with _orbax() as orbax, orbax.StandardCheckpointer() as checkpointer:
        try:
            found = checkpointer.restore((folder / STATE).absolute(), *shapes)
        except Exception as error:  # orbax and its storage raise a different type for nearly every kind of damage
            lines = str(error).splitlines()
            failure = f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
        if failure:
            _let_it_end()
    return found, failure


def _let_it_end() -> None:
    """After a failure: garbage is collected, and threads of the storage report to an event loop that is gone."""
    gc.collect()
    time.sleep(0.5)


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """Orbax, without its remarks on shardings, threads and what it writes where.

    Of a failure we say one sentence; it logs tracebacks, and leaves coroutines that complain, one for each array, when they
    are thrown away. That is to happen here, where nobody hears it: let go of its exceptions, and collect the garbage.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    heard = sys.unraisablehook
    sys.unraisablehook = lambda complaint: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield require("orbax.checkpoint", "flax", "checkpoints of Flax runs")
    finally:
        sys.unraisablehook = heard

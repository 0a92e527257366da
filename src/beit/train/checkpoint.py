"""Checkpoints of a run: `checkpoint-000500/` is a model folder that also holds `state.json` and the engine's own files.

A checkpoint is written under a hidden name and renamed when it is complete. So a checkpoint that exists is whole, and a
full disk or a kill leaves the earlier ones. Everything random follows from the seed and the step; so step, weights,
optimiser, averaged weights and, for a stream, the position in it are all there is to save.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from beit.checkpoints import Checkpoint
from beit.core.errors import CheckpointError, TrainingError
from beit.core.files import read_json, sync_folder

_NAME = re.compile(r"checkpoint-(\d+)$")
STATE_FILE = "state.json"


class Saved(NamedTuple):
    """A checkpoint to continue from.

    Attributes:
        folder: of the checkpoint.
        state: what its state.json says.
        opened: its weights, read: a `Checkpoint`, or what another reader made of the folder.
    """

    folder: Path
    state: dict[str, Any]
    opened: Any


def list_checkpoints(output: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    found = [(int(m.group(1)), p) for p in output.glob("checkpoint-*") if (m := _NAME.match(p.name)) and p.is_dir()]
    return [path for _, path in sorted(found)]


def save(
    output: Path,
    step: int,
    write: Callable[[Path], None],
    keep: int,
    main: bool = True,
    wait: Callable[[], object] = lambda: None,
) -> Path:
    """Write a checkpoint, and remove all but the last `keep`.

    Args:
        output: the run's folder.
        step: how many steps are finished.
        write: writes everything into the folder that it is given; all processes call it.
        keep: how many checkpoints stay.
        main: whether this process makes and renames the folder.
        wait: waits for the other processes.

    Returns:
        The folder of the checkpoint.

    Raises:
        CheckpointError: it could not be written; earlier checkpoints are untouched.
    """
    final = output / f"checkpoint-{step:06}"
    unfinished = output / f".checkpoint-{step:06}.tmp"
    try:
        if main:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        wait()
        write(unfinished)
        wait()
        if main:
            shutil.rmtree(final, ignore_errors=True)  # the same step from before a resume
            os.replace(unfinished, final)  # atomic: from here on the checkpoint exists, and is complete
            sync_folder(output)
    except CheckpointError:  # has its reason already; it is an OSError too
        raise
    except OSError as error:
        raise CheckpointError(
            f"{final} could not be written: {error.strerror or error}. Earlier checkpoints are untouched; free some space "
            "and go on with --resume."
        ) from error
    finally:
        if main:
            shutil.rmtree(unfinished, ignore_errors=True)
    if main:
        for old in list_checkpoints(output)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    wait()
    return final


def read_model(folder: Path) -> Checkpoint:
    """The model in a checkpoint, opened, its weights read. Raises CheckpointError when they are damaged."""
    checkpoint = Checkpoint(folder)
    _ = checkpoint.state_dict  # reads the file now, while an older checkpoint can still take its place
    return checkpoint


def last(output: Path, check: Callable[[Path], None], read: Callable[[Path], Any] = read_model) -> Saved | None:
    """The newest checkpoint that can be read; None when there is none.

    Args:
        output: the run's folder.
        check: raises CheckpointError when the engine's own files in a checkpoint cannot be read.
        read: opens the weights in a checkpoint; raises CheckpointError when they cannot be read.

    Raises:
        TrainingError: there are checkpoints, but none can be read.
    """
    errors = []
    for folder in reversed(list_checkpoints(output)):
        try:
            state = read_json(folder / STATE_FILE)
            if not isinstance(state, dict) or not isinstance(state.get("step"), int):
                raise CheckpointError(f"{folder / STATE_FILE} does not say which step it is.")
            opened = read(folder)
            check(folder)
            return Saved(folder, state, opened)
        except CheckpointError as error:
            errors.append(str(error))
    if errors:
        raise TrainingError("No checkpoint can be read:\n" + "\n".join(errors))
    return None

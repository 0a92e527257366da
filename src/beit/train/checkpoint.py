"""Checkpoints of a run: `checkpoint-000500/` is a model folder with `state.json` beside the weights, and what else the
engine wants to go on: optimiser and averaged weights.

A checkpoint is written under a hidden name and renamed when it is whole, so that one which exists is complete, and a
full disk or a kill leaves the earlier ones. Everything random follows from seed and step, so step, weights, optimiser and,
of a stream, the position are all there is to save.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beit.checkpoints import hub
from beit.checkpoints.read_weights import read_files
from beit.core.errors import CheckpointError, TrainingError
from beit.core.files import read_json, sync_folder

_NAME = re.compile(r"checkpoint-(\d+)$")
STATE_FILE = "state.json"


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
    """Write the checkpoint of `step` finished steps and remove all but the last `keep`.

    Args:
        output: the run's folder.
        step: finished steps.
        write: writes everything into the folder it is given.
        keep: how many checkpoints stay.
        main: whether this process makes and renames the folder; `write` is called in all of them.
        wait: waits for the other processes.

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
            shutil.rmtree(final, ignore_errors=True)  # the same step, written before: after a resume
            os.replace(unfinished, final)
            sync_folder(output)
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


def last(output: Path, check: Callable[[Path], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, with its state; None when there is none.

    Args:
        output: the run's folder.
        check: raises CheckpointError when the engine's own files in a checkpoint cannot be read.

    Raises:
        TrainingError: there are checkpoints, but none can be read.
    """
    errors = []
    for folder in reversed(list_checkpoints(output)):
        try:
            state = read_json(folder / STATE_FILE)
            if not isinstance(state, dict) or not isinstance(state.get("step"), int):
                raise CheckpointError(f"{folder / STATE_FILE} does not say which step it is.")
            read_files(hub.resolve_weights(folder))
            check(folder)
            return folder, state
        except CheckpointError as error:
            errors.append(str(error))
    if errors:
        raise TrainingError("No checkpoint can be read:\n" + "\n".join(errors))
    return None

"""Checkpoints of a run: `checkpoint-000500/` is a model folder with `optimizer.pt` and `state.json` beside the weights.

A checkpoint is written under a hidden name and renamed when it is whole, so that one which exists is complete, and a
full disk or a kill leaves the earlier ones. Everything random follows from seed and step, so step, weights and
optimiser are all there is to save.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from beit import hub
from beit.errors import CheckpointError, TrainingError

_NAME = re.compile(r"checkpoint-(\d+)$")
STATE_FILE = "state.json"
OPTIMIZER_FILE = "optimizer.pt"


def list_checkpoints(output: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    found = [(int(m.group(1)), p) for p in output.glob("checkpoint-*") if (m := _NAME.match(p.name)) and p.is_dir()]
    return [path for _, path in sorted(found)]


def save(
    output: Path,
    step: int,
    save_model: Callable[[Path], None],
    optimizer: torch.optim.Optimizer,
    settings: dict[str, Any],
    keep: int,
    data: str = "",
) -> Path:
    """Write the checkpoint of `step` finished steps and remove all but the last `keep`.

    Raises:
        CheckpointError: it could not be written; earlier checkpoints are untouched.
    """
    final = output / f"checkpoint-{step:06}"
    unfinished = output / f".checkpoint-{step:06}.tmp"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        save_model(unfinished)
        with hub.atomic_path(unfinished / OPTIMIZER_FILE) as path:
            try:
                torch.save(optimizer.state_dict(), path)
            except RuntimeError as error:  # torch's writer reports a full disk so
                raise OSError(28, str(error)) from error
        hub.write_json(unfinished / STATE_FILE, {"step": step, "settings": settings, "data": data})
        shutil.rmtree(final, ignore_errors=True)  # the same step, written before: after a resume
        os.replace(unfinished, final)
        hub.sync_folder(output)
    except OSError as error:
        raise CheckpointError(
            f"{final} could not be written: {error.strerror or error}. Earlier checkpoints are untouched; free some space "
            "and go on with --resume."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for old in list_checkpoints(output)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def last(output: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, with its state; None when there is none.

    Raises:
        TrainingError: there are checkpoints, but none can be read.
    """
    errors = []
    for folder in reversed(list_checkpoints(output)):
        try:
            state = hub.read_json(folder / STATE_FILE)
            if not isinstance(state, dict) or not isinstance(state.get("step"), int):
                raise CheckpointError(f"{folder / STATE_FILE} does not say which step it is.")
            hub.read_weights(hub.resolve_weights(folder))
            read_optimizer(folder)
            return folder, state
        except CheckpointError as error:
            errors.append(str(error))
    if errors:
        raise TrainingError("No checkpoint can be read:\n" + "\n".join(errors))
    return None


def read_optimizer(folder: Path) -> dict[str, Any]:
    """The optimiser's state of a checkpoint. Raises CheckpointError when it is damaged."""
    path = folder / OPTIMIZER_FILE
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for nearly every kind of damage
        raise CheckpointError(f"{path} is missing or damaged ({type(error).__name__}).") from error

"""Checkpoints of a run: `checkpoint-000500/` is a model folder that also holds `state.json` and the engine's own files.

A checkpoint is written under a hidden name and renamed when it is complete. So a checkpoint that exists is whole, and a
full disk or a kill leaves the earlier ones. Everything random follows from the seed and the step; so step, weights,
optimiser, averaged weights and, for a stream, the position in it are all there is to save.

A disk or a person may still change it later. state.json therefore holds the size and the SHA-256 of every other file and a
checksum of itself (`seal`), and a checkpoint that does not agree with them is passed over for an older one. Checkpoints of
version 0.1 have no checksums; of them, what the files say is looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from beit.checkpoints import Checkpoint
from beit.config import BeitConfig
from beit.core.errors import BeitError, CheckpointError, MissingExtraError, TrainingError
from beit.core.files import read_json, sync_folder, write_json
from beit.data.processor import BeitImageProcessor
from beit.train.start import normalisation

logger = logging.getLogger("beit")

_NAME = re.compile(r"checkpoint-(\d+)$")
STATE_FILE = "state.json"
FILES, CHECKSUM = "files", "checksum"  # entries of state.json
CONFIG_FILE = "config.json"
_HIDDEN = re.compile(r"\.checkpoint-\d+(\.old)?\.tmp$")  # folders that a killed run leaves
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp$")  # files of `beit.core.files.atomic_path`


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


def folder_of(output: Path, step: int) -> Path:
    """Where the checkpoint of a step is, or would be."""
    return output / f"checkpoint-{step:06}"


def save(
    output: Path,
    step: int,
    write: Callable[[Path], None],
    keep: int,
    main: bool = True,
    wait: Callable[[], object] = lambda: None,
    best: int | None = None,
) -> Path:
    """Write a checkpoint, seal it, and remove all but the last `keep` and the best.

    Newer ones than this are removed too: the run passed over them, for they are damaged, and has come to repeat their steps.
    They never count among those that are kept.

    Args:
        output: the run's folder.
        step: how many steps are finished.
        write: writes everything into the folder that it is given; all processes call it.
        keep: how many checkpoints stay.
        main: whether this process makes and renames the folder.
        wait: waits for the other processes.
        best: the step whose checkpoint stays, beside those.

    Returns:
        The folder of the checkpoint.

    Raises:
        CheckpointError: it could not be written; earlier checkpoints are untouched.
    """
    final = folder_of(output, step)
    unfinished = output / f".checkpoint-{step:06}.tmp"
    try:
        if main:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        wait()
        write(unfinished)
        wait()
        if main:
            seal(unfinished)
            _remove(final)  # the same step from before a resume
            os.replace(unfinished, final)  # atomic: from here on the checkpoint exists, and is complete
            sync_folder(output)
    except CheckpointError as error:  # has its reason already; it is an OSError too
        raise CheckpointError(
            f"{error} Earlier checkpoints are untouched; free some space and go on with --resume."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{final} could not be written: {error.strerror or error}. Earlier checkpoints are untouched; free some space "
            "and go on with --resume."
        ) from error
    finally:
        if main:
            shutil.rmtree(unfinished, ignore_errors=True)
    if main:
        found = list_checkpoints(output)
        place = found.index(final)
        for old in found[: max(place + 1 - keep, 0)] + found[place + 1 :]:
            if best is None or old != folder_of(output, best):
                _remove(old)
    wait()
    return final


def _remove(folder: Path) -> None:
    """Remove a checkpoint. A kill in the middle leaves a hidden folder, and no checkpoint that lacks files."""
    hidden = folder.with_name(f".{folder.name}.old.tmp")
    shutil.rmtree(hidden, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rename(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # where it could not be renamed


def clear_unfinished(output: Path) -> None:
    """Remove what a killed run left half-written in its folder. Only a run that holds the folder's lock may call this."""
    with contextlib.suppress(OSError):
        for path in [*output.glob(".*.tmp"), *output.glob("ema/.*.tmp")]:
            if path.is_dir() and not path.is_symlink() and _HIDDEN.match(path.name):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file() and _TEMPORARY.match(path.name):
                path.unlink(missing_ok=True)


# --- checksums -------------------------------------------------------------------------------------------------------


def seal(folder: Path) -> None:
    """Write into a checkpoint's state.json the size and the SHA-256 of every other file, and a checksum of all entries.

    Raises:
        CheckpointError: state.json cannot be read or written.
        OSError: another file cannot be read.
    """
    state = read_json(folder / STATE_FILE)
    state[FILES] = {name: _digest(folder / name) for name in _files_of(folder)}
    write_json(folder / STATE_FILE, {**state, CHECKSUM: _checksum(state)})


def _files_of(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != STATE_FILE)


def _digest(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _checksum(state: Mapping[str, Any]) -> str:
    """Of all entries but the checksum, as JSON gives them back."""
    entries = {name: value for name, value in state.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _check_seal(folder: Path, state: Mapping[str, Any]) -> None:
    """Raises CheckpointError when a checkpoint is not what was written; those of version 0.1 have nothing to compare."""
    if CHECKSUM not in state and FILES not in state:
        return
    if state.get(CHECKSUM) != _checksum(state) or not isinstance(state.get(FILES), dict):
        raise CheckpointError(f"{folder / STATE_FILE} was changed after it was written: its checksum is another.")
    for name, wanted in state[FILES].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing.")
        if path.stat().st_size != wanted["bytes"]:
            raise CheckpointError(
                f"{path} is damaged: it has {path.stat().st_size} bytes, {wanted['bytes']} were written."
            )
        if _digest(path) != wanted:
            raise CheckpointError(f"{path} is damaged: its checksum is another than when it was written.")


# --- reading ---------------------------------------------------------------------------------------------------------


def read_model(folder: Path) -> Checkpoint:
    """The model in a checkpoint, opened: its config and image processor looked at, its weights read.

    Raises:
        BeitError: something is damaged, or a weight is not finite.
    """
    if not (folder / CONFIG_FILE).is_file():  # or its settings would be guessed from the weights
        raise CheckpointError(f"{folder / CONFIG_FILE} is missing.")
    checkpoint = Checkpoint(folder)
    # All of it now, while an older checkpoint can still take its place.
    BeitConfig.from_pretrained(checkpoint)
    processor = BeitImageProcessor.stored_in(checkpoint)
    if processor is None:
        raise CheckpointError(f"{folder} has no preprocessor_config.json.")
    normalisation(processor)
    check_finite(folder, checkpoint.state_dict)
    return checkpoint


def check_finite(folder: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Raises CheckpointError when a weight in a checkpoint is NaN or infinite: no run writes such a checkpoint."""
    for name, array in weights.items():
        if array.dtype.kind not in "biu" and not np.isfinite(array).all():
            raise CheckpointError(f"{folder} is damaged: {name} has NaN or infinite weights.")


def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint's state.json says.

    Raises:
        CheckpointError: it cannot be read, has entries of a wrong kind or another step than the folder's name, or does not
            agree with its checksum.
    """
    path = folder / STATE_FILE
    state = read_json(path)
    step = state.get("step") if isinstance(state, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise CheckpointError(f"{path} does not say which step it is.")
    name = _NAME.match(folder.name)
    if name is not None and step != int(name.group(1)):
        raise CheckpointError(f"{path} says that it is step {step}, the folder's name says {int(name.group(1))}.")
    kinds = {
        "settings": dict,
        "data": str,
        "streams": list,
        "scaler": dict,
        "steps": int,
        "processes": int,
        "measured": list,
        "model": list,
    }
    for key, kind in kinds.items():
        if key in state and not isinstance(state[key], kind):
            raise CheckpointError(f"{path}: {key} is a {type(state[key]).__name__}, wanted a {kind.__name__}.")
    return state


def last(
    output: Path,
    check: Callable[[Path], None],
    read: Callable[[Path], Any] = read_model,
    passed: Mapping[Path, str] = MappingProxyType({}),
) -> Saved | None:
    """The newest checkpoint that can be read; None when there is none. Those that are passed over are logged.

    Args:
        output: the run's folder.
        check: raises CheckpointError when the engine's own files in a checkpoint cannot be read.
        read: opens the weights in a checkpoint; raises BeitError when they cannot be read.
        passed: checkpoints that were found to be of no use, and why.

    Raises:
        TrainingError: there are checkpoints, but none can be read.
    """
    errors = []
    for folder in reversed(list_checkpoints(output)):
        try:
            if folder in passed:
                raise CheckpointError(passed[folder])
            state = read_state(folder)
            _check_seal(folder, state)
            opened = read(folder)
            check(folder)
        except MissingExtraError:  # says nothing about the checkpoint
            raise
        except Exception as error:  # damage has no end of kinds, and an older checkpoint helps against all of them
            says = str(error) if isinstance(error, BeitError) else f"{type(error).__name__}: {error}"
            errors.append(says if folder.name in says else f"{folder}: {says}")
            continue
        for reason in errors:
            logger.warning("A checkpoint is passed over for an older one, %s: %s", folder.name, reason)
        return Saved(folder, state, opened)
    if errors:
        raise TrainingError(
            "No checkpoint can be read:\n" + "\n".join(errors) + "\nStart anew in another output folder."
        )
    return None

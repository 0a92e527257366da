"""Named arrays → weight files: one safetensors file, or shards with an index. Each file is written atomically."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beit.checkpoints.hub import BIN, BIN_INDEX, MSGPACK, SAFETENSORS, SAFETENSORS_INDEX
from beit.core.errors import ConfigError
from beit.core.files import atomic_path, failed_write, write_json


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays as one safetensors file, atomically."""
    with atomic_path(path) as temporary:
        _save(temporary, tensors)


def _save(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    ordered = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        # "pt" is the marker that the transformers library looks for before it reads the file.
        save_file(ordered, path, metadata={"format": "pt"})
    except SafetensorError as error:  # it gives the operating system's error in words only
        raise failed_write(path, sum(array.nbytes for array in ordered.values()), error) from error


def write_weights(
    folder: Path,
    tensors: Mapping[str, Any],
    max_shard_bytes: int = 5_000_000_000,
    *,
    save: Callable[[Path, Mapping[str, Any]], None] = _save,
    filename: str = SAFETENSORS,
    variant: str | None = None,
) -> None:
    """Write one weight file, or shards with an index where it would be larger than `max_shard_bytes`.

    Weight files that an earlier save left under other names are removed afterwards, so that none of them is read by mistake;
    those of other variants stay.

    Args:
        folder: created if it does not exist.
        tensors: name → array, or a tensor of a framework that `save` knows.
        max_shard_bytes: the size of a file, unless a single tensor is larger.
        save: writes tensors to a path.
        filename: `model.safetensors` or `pytorch_model.bin`.
        variant: put before the ending of each name, as in `model.fp16.safetensors`.

    Raises:
        CheckpointError: it could not be written; what was there before is untouched.
    """
    shards: list[dict[str, Any]] = [{}]
    room = max_shard_bytes
    for name, array in tensors.items():
        if shards[-1] and array.nbytes > room:
            shards.append({})
            room = max_shard_bytes
        shards[-1][name] = array
        room -= array.nbytes
    whole = with_variant(filename, variant)
    if len(shards) == 1:
        names = [whole]
    else:
        stem, _, ending = whole.rpartition(".")
        names = [f"{stem}-{i + 1:05}-of-{len(shards):05}.{ending}" for i in range(len(shards))]
    with contextlib.ExitStack() as stack:  # shards get their names only when all of them are written
        for name, shard in zip(names, shards, strict=True):
            save(stack.enter_context(atomic_path(folder / name)), shard)
    if len(shards) > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(array.nbytes for array in tensors.values())
        index = with_variant(f"{filename}.index.json", variant)
        write_json(folder / index, {"metadata": {"total_size": total}, "weight_map": weight_map})
        names.append(index)
    remove_other_weights(folder, *names, variant=variant)


def with_variant(filename: str, variant: str | None) -> str:
    """`model.safetensors` → `model.fp16.safetensors`; `model.safetensors.index.json` → `model.safetensors.index.fp16.json`.

    Raises:
        ConfigError: a variant that would change the folder or the kind of the file.
    """
    if variant is None:
        return filename
    if not re.fullmatch(r"[A-Za-z0-9_-]+", variant):
        raise ConfigError(f"variant is {variant!r}; wanted letters and digits, such as fp16.")
    stem, _, ending = filename.rpartition(".")
    return f"{stem}.{variant}.{ending}"


def remove_other_weights(folder: Path, *names: str, variant: str | None = None) -> None:
    """Remove the weight files of this `variant` that an earlier save left under other names than `names`.

    Flax's file too: transformers' Flax models would prefer it to safetensors. A `pytorch_model.bin` is read only where there is
    nothing else, so it stays beside safetensors.
    """
    stale = [SAFETENSORS, SAFETENSORS_INDEX, MSGPACK]
    whole = [SAFETENSORS]
    if any(name.endswith(".bin") for name in names):
        stale += [BIN, BIN_INDEX]
        whole += [BIN]
    paths = [folder / with_variant(name, variant) for name in stale]
    for stem, _, ending in (with_variant(name, variant).rpartition(".") for name in whole):
        paths += folder.glob(f"{stem}-*-of-*.{ending}")
    for path in paths:
        if path.name not in names:
            path.unlink(missing_ok=True)


def as_bytes(size: int | str) -> int:
    """A size in bytes: `500MB` → 500,000,000. Raises ConfigError for anything else."""
    if isinstance(size, int):
        return size
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size.upper().endswith(unit):
            try:
                return int(float(size[:-2]) * factor)
            except ValueError:
                break
    raise ConfigError(f"max_shard_size is {size!r}; give bytes, or text like 500MB or 5GB.")

"""Named arrays → weight files: one safetensors file, or shards with an index. Each file is written atomically."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from beit.checkpoints.hub import MSGPACK, SAFETENSORS, SAFETENSORS_INDEX
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


def write_weights(folder: Path, tensors: Mapping[str, np.ndarray], max_shard_bytes: int = 5_000_000_000) -> None:
    """Write `model.safetensors`, or shards with an index where it would be larger than `max_shard_bytes`.

    Weight files that an earlier save left under other names are removed afterwards, so that none of them is read by mistake.
    """
    shards: list[dict[str, np.ndarray]] = [{}]
    room = max_shard_bytes
    for name, array in tensors.items():
        if shards[-1] and array.nbytes > room:
            shards.append({})
            room = max_shard_bytes
        shards[-1][name] = array
        room -= array.nbytes
    if len(shards) == 1:
        names = [SAFETENSORS]
    else:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    with contextlib.ExitStack() as stack:  # shards get their names only when all of them are written
        for filename, shard in zip(names, shards, strict=True):
            _save(stack.enter_context(atomic_path(folder / filename)), shard)
    if len(shards) > 1:
        weight_map = {tensor: filename for filename, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(array.nbytes for array in tensors.values())
        write_json(folder / SAFETENSORS_INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        names.append(SAFETENSORS_INDEX)
    remove_other_weights(folder, *names)


def remove_other_weights(folder: Path, *names: str) -> None:
    """Remove the weight files that an earlier save of ours left under other names than `names`.

    Flax's file too: transformers' Flax models would prefer it to safetensors.
    """
    single = [folder / name for name in (SAFETENSORS, SAFETENSORS_INDEX, MSGPACK)]
    for stale in [*single, *folder.glob("model-*-of-*.safetensors")]:
        if stale.name not in names:
            stale.unlink(missing_ok=True)


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

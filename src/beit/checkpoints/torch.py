"""Weights written by PyTorch, and what a run of ours saved with `torch.save`, read by `pickles.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from beit.checkpoints.pickles import BFLOAT16, Tensor, open_pickle, plain
from beit.core.errors import CheckpointError
from beit.core.files import atomic_path, failed_write


def read_saved(path: Path) -> Any:
    """What `torch.save` wrote, with tensors of its types on the CPU; nothing in the file is run.

    Raises:
        CheckpointError: the file is missing, damaged or forged.
    """
    opened = open_pickle(path)

    def as_tensor(tensor: Tensor) -> torch.Tensor:
        array = opened.array(tensor, order="A")
        if tensor.storage.code == BFLOAT16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    try:
        return plain(opened.content, as_tensor)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error


def write_pickle(path: Path, content: Mapping[str, Any]) -> None:
    """Write a dict with `torch.save`, atomically. Arrays in it, at any depth, become tensors.

    Raises:
        CheckpointError: it could not be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(_with_tensors(content), file)
        except RuntimeError as error:  # its zip writer hides the operating system's error
            raise failed_write(temporary, _bytes_in(content), error) from error


def save_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors of any type, bfloat16 too, to `path` as safetensors; not atomically.

    Raises:
        OSError: it could not be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        # "pt" is the marker that the transformers library looks for before it reads the file.
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:  # it gives the operating system's error in words only
        raise failed_write(path, sum(tensor.nbytes for tensor in tensors.values()), error) from error


def save_bin(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors to `path` by `torch.save`; not atomically.

    Raises:
        OSError: it could not be written.
    """
    try:
        torch.save(dict(tensors), path)
    except RuntimeError as error:  # its zip writer hides the operating system's error
        raise failed_write(path, sum(tensor.nbytes for tensor in tensors.values()), error) from error


def _with_tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_tensors(item) for name, item in value.items()}
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


def _bytes_in(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(_bytes_in(item) for item in value.values())
    return value.nbytes if isinstance(value, np.ndarray | torch.Tensor) else 0

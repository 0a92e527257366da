"""Files that `torch.save` writes: read without running code in them, and written."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from beit.checkpoints.pickle_scan import scan
from beit.core.errors import CheckpointError
from beit.core.files import atomic_path, failed_write

# Keys under which projects save the weights, in the order of preference. An average of weights beside them (EMA) is not among
# them: published accuracies are those of the weights, unless the publisher says otherwise.
_CONTAINERS = ("model", "module", "state_dict", "model_state_dict", "net", "teacher")
_READ = ("args", "meta")  # containers beside the weights that `infer` and the dialects look into

# What pickles of tensors ask for. `torch.load` has the last word; this list only finds the name for its refusal.
_OF_TENSORS = re.compile(
    r"torch\.\w+|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_\w+|torch\.(storage|nn\.parameter|serialization)\.\w+|"
    r"collections\.(OrderedDict|Counter)|argparse\.Namespace|(builtins|__builtin__)\.(set|complex|bytearray)|_codecs\.encode"
)


def read_pickle(path: Path) -> tuple[dict[str, np.ndarray], str, dict[str, Any]]:
    """Read the state dict in a file of `torch.save`.

    Returns:
        Name → array; the key under which the state dict stood, "" for none; plain values beside it (`args`, `epoch`, …), with
        None in place of other containers.

    Raises:
        CheckpointError: the file is damaged, asks for classes or functions that no weights need, or holds no state dict.
    """
    content = _unpickled(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; wanted named tensors (a state dict).")
    # The one with the most tensors: a single tensor, such as a counter or a decay, is not the model.
    key = max(_CONTAINERS, key=lambda key: len(_tensors(content.get(key))))
    if len(_tensors(content.get(key))) <= len(_tensors(content)):
        key = ""
    tensors = _tensors(content[key] if key else content)
    if not tensors:
        raise _no_state_dict(path, content)
    others = {name: value for name, value in content.items() if isinstance(name, str) and not _is_tensor(value)}
    more = {name: _plain(name, value) for name, value in others.items() if name != key}
    return _as_arrays(path, tensors), key, more


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
    return value.nbytes if isinstance(value, np.ndarray) else 0


def _unpickled(path: Path) -> Any:
    """What `torch.save` was given, read with `weights_only=True`: no code in the file is run.

    Allowed are tensors, plain values and containers, and `argparse.Namespace`, which the authors of BEiT save.
    """
    asked = scan(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of pickles of another protocol, which it then reads or refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for nearly every kind of damage
        strange = next((name for name in asked if not _OF_TENSORS.fullmatch(name)), None)
        if strange is not None:
            raise CheckpointError(
                f"{path} asks for {strange[:80]}, which no weights need, so it is refused; nothing in it was run. Ask for a "
                "safetensors file. Where you trust the sender, save the weights alone, by "
                "torch.save({'model': torch.load(file, weights_only=False)['model']}, new), on a machine you can spare."
            ) from error
        raise CheckpointError(
            f"{path} cannot be read safely ({type(error).__name__}). It is damaged, or a pickle that wants to run code, "
            "which is refused. Download it again, or use a safetensors file."
        ) from error


def _no_state_dict(path: Path, content: Mapping[Any, Any]) -> CheckpointError:
    keys = [str(key)[:40] for key in content if isinstance(key, str)]
    found = ", ".join(keys[:6]) or "nothing under a name"
    average = next((key for key in keys if "ema" in key.lower()), None)
    hint = f" There is an average of weights: save content[{average!r}] alone to use it." if average else ""
    return CheckpointError(
        f"{path} holds no dict of named tensors: it has {found}; wanted a state dict, or one under {', '.join(_CONTAINERS[:3])}."
        f"{hint}"
    )


def _tensors(table: Any) -> dict[str, torch.Tensor]:
    """The named tensors of a dict; none of anything else."""
    if not isinstance(table, dict):
        return {}
    return {name: value for name, value in table.items() if isinstance(name, str) and _is_tensor(value)}


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _plain(name: str, value: Any) -> Any:
    """A value beside the weights. An optimizer's state would keep twice the memory of the weights in use."""
    if isinstance(value, argparse.Namespace):
        return vars(value)
    return None if isinstance(value, dict | list | tuple) and name not in _READ else value


def _as_arrays(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays that share their memory; bfloat16, which numpy lacks, becomes float32, which is exact."""
    arrays = {}
    for name, value in tensors.items():
        size = value.numel() * value.element_size()
        if value.layout == torch.strided and size > value.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {name} is larger than what the file holds. It is damaged or forged.")
        try:
            value = value.float() if value.dtype == torch.bfloat16 else value
            arrays[name] = value.detach().contiguous().numpy()
        except (TypeError, RuntimeError) as error:  # sparse, quantised, eight-bit
            raise CheckpointError(f"{path} holds tensors of a kind that cannot be read here: {error}.") from error
    return arrays

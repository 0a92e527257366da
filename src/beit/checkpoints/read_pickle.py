"""Which tensors in a file of `torch.save` are the weights, and what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beit.checkpoints.pickles import BFLOAT16, Opened, Tensor, Thing, open_pickle, plain
from beit.core.errors import CheckpointError

# Keys under which projects save the weights, in the order of preference. An average of weights beside them (EMA) is not among
# them: published accuracies are those of the weights, unless the publisher says otherwise.
_CONTAINERS = ("model", "module", "state_dict", "model_state_dict", "net", "teacher")
_READ = ("args", "meta")  # containers beside the weights that `infer` and the dialects look into


def read_pickle(path: Path) -> tuple[dict[str, np.ndarray], str, dict[str, Any]]:
    """Read the state dict in a file of `torch.save`.

    Returns:
        Name → array, with bfloat16 as float32, which is exact; the key under which the state dict stood, "" for none; plain
        values beside it (`args`, `epoch`, …), with None in place of other containers.

    Raises:
        CheckpointError: the file is damaged, asks for classes or functions that no weights need, or holds no state dict.
    """
    opened = open_pickle(path)
    content = opened.content
    if not isinstance(content, dict):
        what = content.of.name if isinstance(content, Thing) else type(content).__name__.lower()
        raise CheckpointError(f"{path} holds a {what}; wanted named tensors (a state dict).")
    # The one with the most tensors: a single tensor, such as a counter or a decay, is not the model.
    key = max(_CONTAINERS, key=lambda key: len(_tensors(content.get(key))))
    if len(_tensors(content.get(key))) <= len(_tensors(content)):
        key = ""
    tensors = _tensors(content[key] if key else content)
    if not tensors:
        raise _no_state_dict(path, content)
    others = {name: value for name, value in content.items() if isinstance(name, str) and not isinstance(value, Tensor)}
    try:
        more = {name: _beside(name, value) for name, value in others.items() if name != key}
        opened.load(tensors.values())
        arrays = {name: as_array(opened, tensor) for name, tensor in tensors.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error
    return arrays, key, more


def as_array(opened: Opened, tensor: Tensor) -> np.ndarray:
    """A tensor's numbers; bfloat16, the upper half of a float32, as float32."""
    array = opened.array(tensor)
    return (array.astype(np.uint32) << 16).view(np.float32) if tensor.storage.code == BFLOAT16 else array


def _tensors(table: Any) -> dict[str, Tensor]:
    """The named tensors of a dict; none of anything else."""
    if not isinstance(table, dict):
        return {}
    return {name: value for name, value in table.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _beside(name: str, value: Any) -> Any:
    """A value beside the weights. An optimizer's state would keep twice the memory of the weights in use."""
    if isinstance(value, dict | list | tuple) and name not in _READ:
        return None
    return plain(value, lambda _: None)


def _no_state_dict(path: Path, content: Mapping[Any, Any]) -> CheckpointError:
    keys = [str(key)[:40] for key in content if isinstance(key, str)]
    found = ", ".join(keys[:6]) or "nothing under a name"
    average = next((key for key in keys if "ema" in key.lower()), None)
    hint = f" There is an average of weights: save content[{average!r}] alone to use it." if average else ""
    return CheckpointError(
        f"{path} holds no dict of named tensors: it has {found}; wanted a state dict, or one under {', '.join(_CONTAINERS[:3])}."
        f"{hint}"
    )

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
AVERAGES = "averaged weights"  # the key in `more` that lists them
_MOST_AVERAGES = 16  # in one file that are looked at
_READ = ("args", "meta")  # containers beside the weights that `infer` and the dialects look into


def read_pickle(path: Path, average: bool = False) -> tuple[dict[str, np.ndarray], str, dict[str, Any]]:
    """Read the state dict in a file of `torch.save`.

    Args:
        path: the file.
        average: read the averaged weights that stand beside the model's own, such as `model_ema`.

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
    choices = averages_in(content) if average else list(_CONTAINERS)
    if not choices:
        raise CheckpointError(f"{path} holds no averaged weights: it has {_keys(content)}. Leave weights='ema' out.")
    key = max(choices, key=lambda key: len(_tensors(content.get(key))))
    if not average and len(_tensors(content.get(key))) <= len(_tensors(content)):
        key = ""
    tensors = _tensors(content[key] if key else content)
    if not tensors:
        raise _no_state_dict(path, content)
    others = {name: value for name, value in content.items() if isinstance(name, str) and not isinstance(value, Tensor)}
    try:
        # In one call, which bounds the copies of all: many keys may refer to one large value.
        more = plain({name: _kept(name, value) for name, value in others.items() if name != key}, lambda _: None)
        if not average and (beside := averages_in(content)):
            more[AVERAGES] = beside
        opened.load(tensors.values())
        arrays = {name: as_array(opened, tensor) for name, tensor in tensors.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error
    return arrays, key, more


def averages_in(table: Mapping[Any, Any]) -> list[str]:
    """The keys of averaged weights in what a file holds, as in `{"model": …, "model_ema": …}`."""
    names = [key for key in table if isinstance(key, str) and "ema" in key[:80].lower().split("_")]
    return [name for name in names[:_MOST_AVERAGES] if len(_tensors(table[name])) > 1]


def as_array(opened: Opened, tensor: Tensor) -> np.ndarray:
    """A tensor's numbers; bfloat16, the upper half of a float32, as float32."""
    array = opened.array(tensor)
    return (array.astype(np.uint32) << 16).view(np.float32) if tensor.storage.code == BFLOAT16 else array


def _tensors(table: Any) -> dict[str, Tensor]:
    """The named tensors of a dict; none of anything else."""
    if not isinstance(table, dict):
        return {}
    return {name: value for name, value in table.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _kept(name: str, value: Any) -> Any:
    """A value beside the weights, or None. An optimizer's state would keep twice the memory of the weights in use."""
    return None if isinstance(value, dict | list | tuple) and name not in _READ else value


def _keys(content: Mapping[Any, Any]) -> str:
    return ", ".join([str(key)[:40] for key in content if isinstance(key, str)][:6]) or "nothing under a name"


def _no_state_dict(path: Path, content: Mapping[Any, Any]) -> CheckpointError:
    hint = " It has averaged weights: open them with weights='ema', or --weights ema." if averages_in(content) else ""
    return CheckpointError(
        f"{path} holds no dict of named tensors: it has {_keys(content)}; wanted a state dict, or one under {', '.join(_CONTAINERS[:3])}."
        f"{hint}"
    )

"""Checkpoints of runs that version 0.1 began: one matrix for query, key and value there is three parameters now."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from beit.checkpoints import names

_QUERY = "attention.attention.query.weight"
_MATRIX = ".attn.qkv.weight"


def average_of(saved: dict[str, Tensor]) -> dict[str, Tensor]:
    """The content of `ema.pt` by today's names; without change if it has them."""
    if not any(name.endswith(_MATRIX) for name in saved):
        return saved
    arrays = names.from_short({name: tensor.numpy() for name, tensor in saved.items()})
    # A copy: parts of one matrix would share their memory.
    return {name: torch.from_numpy(array).clone() for name, array in arrays.items()}


def optimizer_of(saved: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The content of `optimizer.pt` for today's parameters; without change if it belongs to them.

    Args:
        saved: the state dict of an optimiser, in which parameters have numbers.
        model: whose parameters the optimiser has.
        optimizer: with the same groups as in the run that was saved.
    """
    called = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [[called.get(id(parameter), "") for parameter in group["params"]] for group in optimizer.param_groups]
    old = saved["param_groups"]
    queries = [sum(name.endswith(_QUERY) for name in group) for group in groups]
    if [len(group["params"]) + 2 * more for group, more in zip(old, queries, strict=False)] != list(map(len, groups)):
        return saved  # of today, or of another model, which the optimiser will refuse
    if not any(queries):
        return saved
    state: dict[int, Any] = {}
    numbers: list[list[int]] = []
    for group, wanted in zip(old, groups, strict=True):
        numbers.append([])
        place = 0
        for number in group["params"]:
            count = 3 if wanted[place].endswith(_QUERY) else 1  # the order of the parameters is that of the run
            for part in range(count):
                new = sum(map(len, numbers))
                numbers[-1].append(new)
                if number in saved["state"]:
                    state[new] = {key: _part(value, part, count) for key, value in saved["state"][number].items()}
            place += count
    return {"state": state, "param_groups": [{**g, "params": n} for g, n in zip(old, numbers, strict=True)]}


def _part(value: Any, part: int, count: int) -> Any:
    """One of `count` parts of a matrix; a counter of steps is the same for all."""
    if count == 1 or not isinstance(value, Tensor) or value.ndim == 0:
        return value.clone() if isinstance(value, Tensor) else value
    return value.chunk(count)[part].clone()

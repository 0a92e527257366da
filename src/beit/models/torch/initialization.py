"""Initial numbers of PyTorch tensors, by the table in `models/parameters.py`."""

from __future__ import annotations

import math

from torch import Tensor, nn

from beit.models.parameters import Start


def initialize(tensor: Tensor, start: Start) -> None:
    """Fill `tensor` in place as `start` says, from PyTorch's global generator."""
    if start.kind == "constant":
        tensor.fill_(start.value)
    elif start.kind == "normal":
        nn.init.normal_(tensor, std=start.value)
    else:
        _normal_cut_at_one_std(tensor, start.value)
    if start.scale != 1:
        tensor.mul_(start.scale)


def _normal_cut_at_one_std(tensor: Tensor, std: float) -> None:
    """Fill with a normal of deviation `std`, cut at ±`std`, by the inverse of its distribution function.

    `nn.init.trunc_normal_` draws so tight a cut by rejection, which is 20 times slower: seconds for a large model.
    """
    inside = math.erf(1 / math.sqrt(2))  # the probability of ±1 std
    tensor.uniform_(-inside, inside).erfinv_().mul_(math.sqrt(2) * std).clamp_(-std, std)

"""AdamW over groups of parameters: which decay, and how fast each layer learns (`optim` has the rules)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from beit.train.schedule import decays, layer_number


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, depth: int = 0
) -> list[dict[str, Any]]:
    """Parameters grouped by decay and learning rate.

    Args:
        model: with in-memory names of `beit`; other modules work with `layer_decay=1`.
        weight_decay: of the parameters that `decays`.
        layer_decay: each group's `scale` is layer_decay^(depth + 1 - layer number).
        depth: number of layers of the model.

    Returns:
        Groups for an optimiser, each with a `scale` that multiplies the learning rate, and whether it `decays`.
    """
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = layer_decay ** (depth + 1 - layer_number(name, depth)) if layer_decay != 1 else 1.0
        decaying = decays(name, parameter.ndim)
        empty = {"params": [], "scale": scale, "weight_decay": weight_decay if decaying else 0.0, "decays": decaying}
        groups.setdefault((scale, decaying), empty)["params"].append(parameter)
    return list(groups.values())


def adamw(groups: list[dict[str, Any]], beta2: float = 0.999) -> torch.optim.AdamW:
    """AdamW with β₁ .9 and ε 1e-8, in one kernel for all parameters."""
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, beta2), eps=1e-8, fused=True)

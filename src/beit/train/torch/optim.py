"""AdamW over groups of parameters: which of them decay, and how fast each layer learns (the rules are in `schedule.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from beit.train.schedule import decays, layer_scale


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, depth: int = 0
) -> list[dict[str, Any]]:
    """Parameters grouped by weight decay and learning rate.

    Args:
        model: with the parameter names of this library's models; any other module works with `layer_decay=1`.
        weight_decay: of the parameters that decay (`schedule.decays`).
        layer_decay: what the rate of a layer is to that of the layer above: see `schedule.layer_scale`.
        depth: number of layers of the model.

    Returns:
        Groups for an optimiser. Each has a `scale`, which multiplies the learning rate, and says whether it `decays`.
    """
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = layer_scale(name, depth, layer_decay) if layer_decay != 1 else 1.0
        decaying = decays(name, parameter.ndim)
        empty = {"params": [], "scale": scale, "weight_decay": weight_decay if decaying else 0.0, "decays": decaying}
        groups.setdefault((scale, decaying), empty)["params"].append(parameter)
    return list(groups.values())


def adamw(groups: list[dict[str, Any]], beta2: float = 0.999) -> torch.optim.AdamW:
    """AdamW with β₁ 0.9 and ε 1e-8, fused into one kernel for all parameters. The engine sets the rate in each step."""
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, beta2), eps=1e-8, fused=True)

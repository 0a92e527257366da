"""AdamW, which parameters decay, layer-wise learning rates, and the schedule (microsoft/unilm, beit/optim_factory.py)."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

_LAYER = re.compile(r"\blayers\.(\d+)\.")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: not to vectors, biases, absolute positions and the cls token.

    It does apply to the mask token and to relative-position tables.
    """
    return parameter.ndim > 1 and not name.endswith(("cls_token", "embeddings.position", "bias"))


def layer_number(name: str, depth: int) -> int:
    """0 for the embeddings, i+1 for layer i, depth+1 for head, final norms and the shared relative-position table."""
    found = _LAYER.search(name)
    if found:
        return int(found.group(1)) + 1
    return 0 if "embeddings." in name else depth + 1


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
        decaying = decays(name, parameter)
        empty = {"params": [], "scale": scale, "weight_decay": weight_decay if decaying else 0.0, "decays": decaying}
        groups.setdefault((scale, decaying), empty)["params"].append(parameter)
    return list(groups.values())


def adamw(groups: list[dict[str, Any]], beta2: float = 0.999) -> torch.optim.AdamW:
    """AdamW with β₁ .9 and ε 1e-8, in one kernel for all parameters."""
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, beta2), eps=1e-8, fused=True)


def learning_rate(step: int, total: int, warmup: int, peak: float, floor: float, schedule: str = "cosine") -> float:
    """Rises linearly from 0 to `peak` over `warmup` steps, then falls to `floor`, along a cosine or a line; per step.

    It never rises again: a `floor` above the peak, as a small batch may bring about, counts as the peak.
    """
    floor = min(floor, peak)
    if step < warmup:
        return peak * step / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (peak - floor) * (1 - progress) if schedule == "linear" else cosine(progress, peak, floor)


def cosine(progress: float, start: float, end: float) -> float:
    """From `start` to `end` along half a cosine, at `progress` in [0, 1]."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))

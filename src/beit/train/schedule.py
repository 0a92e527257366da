"""Which parameters decay, layer-wise learning rates, and the schedule (microsoft/unilm, beit/optim_factory.py).

Names are the in-memory names of the PyTorch models. Loads no framework.
"""

from __future__ import annotations

import math
import re

_LAYER = re.compile(r"\blayers\.(\d+)\.")


def decays(name: str, ndim: int) -> bool:
    """Whether weight decay applies: not to vectors, biases, absolute positions and the cls token.

    It does apply to the mask token and to relative-position tables.
    """
    return ndim > 1 and not name.endswith(("cls_token", "embeddings.position", "bias"))


def layer_number(name: str, depth: int) -> int:
    """0 for the embeddings, i+1 for layer i, depth+1 for head, final norms and the shared relative-position table."""
    found = _LAYER.search(name)
    if found:
        return int(found.group(1)) + 1
    return 0 if "embeddings." in name else depth + 1


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

"""Which parameters decay, learning rates per layer, and the schedule (microsoft/unilm, beit/optim_factory.py).

Names are the parameter names of the PyTorch models. Loads no framework.
"""

from __future__ import annotations

import math
import re
from typing import Protocol

_LAYER = re.compile(r"\blayer\.(\d+)\.")


def decays(name: str, ndim: int) -> bool:
    """Whether weight decay applies to a parameter: not to vectors, biases, absolute positions and the cls token.

    It does apply to the mask token and to relative-position tables.

    Args:
        name: of the parameter.
        ndim: number of its axes.
    """
    # A cls token and absolute positions have more than one axis, but act like biases.
    return ndim > 1 and not name.endswith(("cls_token", "position_embeddings", "bias"))


def layer_number(name: str, depth: int) -> int:
    """0 for the embeddings, i+1 for layer i, depth+1 for the head, the final norms and the shared relative-position table."""
    found = _LAYER.search(name)
    if found:
        return int(found.group(1)) + 1
    return 0 if "embeddings." in name else depth + 1


def layer_scale(name: str, depth: int, layer_decay: float) -> float:
    """What a parameter's learning rate is multiplied by: layer_decay^(depth + 1 - layer number), so 1 for the head."""
    return layer_decay ** (depth + 1 - layer_number(name, depth))


def learning_rate(step: int, total: int, warmup: int, peak: float, floor: float, schedule: str = "cosine") -> float:
    """The learning rate of a step: rises linearly from 0 to `peak`, then falls to `floor` along a cosine or a line.

    A `floor` above the peak counts as the peak, so that the rate never rises again. (The peak shrinks with the batch, the floor
    does not.)

    Args:
        step: from 0.
        total: number of steps.
        warmup: steps in which the rate rises.
        peak: highest rate.
        floor: rate at the end.
        schedule: `cosine` or `linear`.
    """
    floor = min(floor, peak)
    if step < warmup:
        return peak * step / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (peak - floor) * (1 - progress) if schedule == "linear" else cosine(progress, peak, floor)


class Schedule(Protocol):
    """The settings of a run that decide its learning rates; see `beit.train.settings.RunSettings`."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def min_learning_rate(self) -> float: ...

    @property
    def schedule(self) -> str: ...

    @property
    def warmup(self) -> float: ...


def rate_of(settings: Schedule, step: int, total: int) -> float:
    """The learning rate of a step, counted from 0, of a run with these settings and `total` steps."""
    warmup = round(settings.warmup * total)
    return learning_rate(step, total, warmup, settings.learning_rate, settings.min_learning_rate, settings.schedule)


def cosine(progress: float, start: float, end: float) -> float:
    """From `start` to `end` along half a cosine, at `progress` in [0, 1]."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))

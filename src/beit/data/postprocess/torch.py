"""The best class of each pixel, from torch scores. The twin of `numpy.py`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1 << 24  # resized scores that are in memory at once, at most (64 MiB of float32)


def best_class(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Equal to `interpolate(scores).argmax(0)`, a few classes at a time.

    Args:
        scores: `(labels, h, w)`, of any floating dtype, on any device.
        size: (height, width) of the result in pixels.

    Returns:
        int64 `(height, width)` on the same device. Of equal scores the first class wins.
    """
    chunk = max(1, CHUNK // (size[0] * size[1]))
    best = torch.full(size, -torch.inf, dtype=scores.dtype, device=scores.device)
    index = torch.zeros(size, dtype=torch.int64, device=scores.device)
    for start in range(0, len(scores), chunk):
        part = F.interpolate(
            scores[None, start : start + chunk].detach(), size=size, mode="bilinear", align_corners=False
        )
        value, winner = part[0].max(dim=0)
        better = value > best  # strictly greater: the first of equals wins, as in argmax
        best, index = torch.where(better, value, best), torch.where(better, winner + start, index)
    return index

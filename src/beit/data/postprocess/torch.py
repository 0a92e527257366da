"""The best class of each pixel, of torch scores."""

from __future__ import annotations

from typing import Any

import torch

CHUNK = 1 << 24  # at most so many scores at full size are held at once (64 MiB of float32)


def best_class(scores: Any, size: tuple[int, int]) -> Any:
    """(labels, h, w) scores → (height, width) int64, equal to interpolate(scores).argmax(0), a few classes at a time."""
    chunk = max(1, CHUNK // (size[0] * size[1]))
    best = torch.full(size, -torch.inf, dtype=scores.dtype, device=scores.device)
    index = torch.zeros(size, dtype=torch.int64, device=scores.device)
    for start in range(0, len(scores), chunk):
        part = scores[None, start : start + chunk].detach()
        part = torch.nn.functional.interpolate(part, size=size, mode="bilinear", align_corners=False)
        value, winner = part[0].max(dim=0)
        better = value > best  # strictly: the first of equals wins, as in argmax
        best, index = torch.where(better, value, best), torch.where(better, winner + start, index)
    return index

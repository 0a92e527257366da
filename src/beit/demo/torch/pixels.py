"""Images in memory ↔ tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from beit.data.sources.images import ArrayImages


def pixels_of(images: ArrayImages) -> Tensor:
    """float32 `(n, 3, H, W)` in [0, 1]."""
    return torch.from_numpy(images.array).permute(0, 3, 1, 2).float().div(255)


def as_pictures(images: Tensor) -> np.ndarray:
    """The inverse for plots: `(n, H, W, 3)` in [0, 1]."""
    return images.clamp(0, 1).permute(0, 2, 3, 1).numpy()

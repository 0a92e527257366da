"""Tokens for a cache, in PyTorch (`beit.train.framework.Tokenizing`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from beit.train.torch.common import pool, processes
from beit.train.torch.distributed import Accelerated

__all__ = ["on_device", "pool", "processes"]


def on_device(tokenizer: Any, processes: Accelerated) -> Callable[[Any], np.ndarray]:
    """Moves a tokenizer to the device of this process; the function computes tokens there."""
    tokenizer.to(processes.device)

    def tokens_of(images: Any) -> np.ndarray:
        pixels = torch.as_tensor(images).to(processes.device)
        return tokenizer.tokens(pixels).flatten(1).cpu().numpy()

    return tokens_of

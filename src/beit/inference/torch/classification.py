"""One batch through a PyTorch classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from beit.data.processor import BeitImageProcessor
from beit.models.torch.beit import BeitForImageClassification


@torch.inference_mode()
def logits(
    model: BeitForImageClassification,
    processor: BeitImageProcessor,
    pictures: Sequence[Any],
    device: torch.device | str | None = None,
) -> np.ndarray:
    """float32 `(n, classes)`; the model is moved to `device`, if given, and put into evaluation mode."""
    model = model.to(device or model.device).eval()
    pixels = processor(pictures, return_tensors="pt")["pixel_values"].to(model.device)
    return model(pixels).logits.float().cpu().numpy()

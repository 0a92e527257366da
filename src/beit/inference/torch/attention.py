"""Attention of the last layer of a PyTorch classifier."""

from __future__ import annotations

import numpy as np
import torch

from beit.models.torch.beit import BeitForImageClassification


@torch.inference_mode()
def last_attention(model: BeitForImageClassification, pixels: np.ndarray) -> np.ndarray:
    """Attention weights of the last layer, mean of its heads, float32 `(B, 1 + N, 1 + N)`, for pixel values `(B, C, H, W)`."""
    output = model.eval()(torch.from_numpy(pixels).to(model.device, model.dtype), output_attentions=True)
    return output.attentions[-1].float().mean(1).cpu().numpy()

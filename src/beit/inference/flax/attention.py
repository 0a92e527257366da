"""Attention of the last layer of a Flax classifier."""

from __future__ import annotations

import numpy as np

from beit.models.flax.beit import FlaxBeitForImageClassification


def last_attention(model: FlaxBeitForImageClassification, pixels: np.ndarray) -> np.ndarray:
    """Attention weights of the last layer, mean of its heads, float32 `(B, 1 + N, 1 + N)`, for pixel values `(B, C, H, W)`."""
    output = model(pixels, output_attentions=True)
    return np.asarray(output.attentions[-1], np.float32).mean(1)

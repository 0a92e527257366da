"""The pixels of masked patches as target, in JAX: the twin of `targets/torch/pixels.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp

from beit.config import BeitConfig
from beit.models.flax.losses import masked_first
from beit.train.targets.base import TargetSettings, patch_width
from beit.train.targets.flax import FlaxTarget, Loss, Predict


class PixelTarget(FlaxTarget):
    """Predicts the pixels of each masked patch, normalised to mean 0 and variance 1; mean squared error.

    Args:
        width: numbers per patch.
    """

    def __init__(self, width: int) -> None:
        self.width = width

    @classmethod
    def of(cls, settings: TargetSettings, config: BeitConfig) -> Self:
        """As `Target.of`."""
        return cls(patch_width(config))

    def loss(self, predict: Predict, batch: Any, most: int, constants: Any) -> Loss:
        """(mean squared error, (`explained`: fraction of the pixels' variance that is predicted, nothing to count))."""
        pixels, mask = batch["pixel_values"], batch["mask"]
        at, counted = masked_first(mask, most)
        labels = jnp.take_along_axis(patch_pixels(pixels, self.width), at[..., None], axis=1)
        logits = predict(pixels, mask, at).astype(jnp.float32)
        weight, count = counted[..., None], counted.sum() * self.width
        loss = jnp.sum((logits - labels) ** 2, where=weight) / count
        mean = jnp.sum(labels, where=weight) / count
        variance = jnp.sum((labels - mean) ** 2, where=weight) / (count - 1)  # as torch's `var`
        return loss, ({"explained": 1 - jax.lax.stop_gradient(loss) / jnp.maximum(variance, 1e-6)}, None)

    @staticmethod
    def summary(output: Path, last: dict[str, float]) -> str:
        """As `Target.summary`."""
        return f"Saved {output}: {last['explained']:.1%} of the variance within masked patches predicted."


def patch_pixels(pixels: jax.Array, width: int) -> jax.Array:
    """The pixels of each square patch, row by row, normalised to mean 0 and variance 1 within the patch.

    Args:
        pixels: `(B, 3, H, W)`.
        width: numbers per patch, from which the patch's side follows.

    Returns:
        `(B, N, width)`.
    """
    batch, channels, height, columns = pixels.shape
    side = round((width / channels) ** 0.5)
    split = pixels.reshape(batch, channels, height // side, side, columns // side, side)
    patches = split.transpose(0, 2, 4, 1, 3, 5).reshape(batch, -1, width)
    mean, variance = patches.mean(-1, keepdims=True), patches.var(-1, keepdims=True, ddof=1)
    return (patches - mean) / jnp.sqrt(variance + 1e-6)

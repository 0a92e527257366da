"""Layers on maps `(B, h, w, C)` that Flax has not, or not as PyTorch has them."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from beit.models.flax.kernels.layers import zeros

Array = jax.Array


class BatchNorm(nn.Module):
    """Batch norm as PyTorch has it: statistics move a tenth of the way to those of the batch, with the unbiased variance.

    Flax's own takes the biased variance, which for two images after pooling to 1x1 is half as large.
    """

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`(B, h, w, C)` → the same shape."""
        channels = x.shape[-1]
        scale, bias = self.param("scale", zeros, (channels,)), self.param("bias", zeros, (channels,))
        kept = {name: self.variable("batch_stats", name, jnp.zeros, (channels,)) for name in ("mean", "var")}
        values = x.astype(jnp.float32)
        mean, var = kept["mean"].value, kept["var"].value
        if train:
            mean, var = values.mean((0, 1, 2)), values.var((0, 1, 2))
            count = values.size // channels
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                kept["mean"].value += 0.1 * (mean - kept["mean"].value)
                kept["var"].value += 0.1 * (unbiased - kept["var"].value)
        return ((values - mean) * (jax.lax.rsqrt(var + 1e-5) * scale) + bias).astype(x.dtype)


class Upsample(nn.Module):
    """Transposed convolution of size and stride 2: one product makes 2x2 pixels of each pixel."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`(B, h, w, C)` → `(B, 2h, 2w, C)`."""
        batch, height, width, channels = x.shape
        kernel = self.param("kernel", zeros, (2, 2, channels, channels))
        bias = self.param("bias", zeros, (channels,))
        y = jnp.einsum("bhwi,pqio->bhpwqo", x, kernel.astype(self.dtype))
        return y.reshape(batch, 2 * height, 2 * width, channels) + bias.astype(self.dtype)


class AdaptivePool(nn.Module):
    """Adaptive average pooling to `scale` x `scale`: each number is the mean over the pixels that its part touches."""

    scale: int

    def __call__(self, x: Array, train: bool) -> Array:
        rows, columns = (jnp.asarray(_parts(side, self.scale), x.dtype) for side in x.shape[1:3])
        return jnp.einsum("yh,xw,bhwc->byxc", rows, columns, x)


@functools.lru_cache(maxsize=64)
def _parts(side: int, count: int) -> np.ndarray:
    """Weights `(count, side)` of the mean over each of `count` parts of a row."""
    weights = np.zeros((count, side), np.float32)
    for part in range(count):
        first, last = part * side // count, -(-(part + 1) * side // count)
        weights[part, first:last] = 1 / (last - first)
    return weights

"""Layers whose parameters or arithmetic differ from PyTorch's: the patch projection, linear layers, layer norm.

Parameters are made as zeros, for their shapes: `init_weights` fills them by the table in `models/parameters.py`. Names and
layouts are those of `checkpoints/flax_layout.py`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from beit.config import BeitConfig
from beit.core import geometry

Array = jax.Array
zeros = nn.initializers.zeros


def dense(features: int, dtype: Any) -> nn.Dense:
    """A linear layer with bias."""
    return nn.Dense(features, dtype=dtype, kernel_init=zeros)


def layer_norm(config: BeitConfig, dtype: Any) -> nn.LayerNorm:
    """Layer norm by the plain formula: ε is too small for the variance as a difference of two means."""
    return nn.LayerNorm(config.layer_norm_eps, dtype=dtype, use_fast_variance=False)


class Patches(nn.Module):
    """The patch projection: a convolution whose stride is its size is one matrix product."""

    config: BeitConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixel_values: Array) -> Array:
        """`(B, channels, H, W)` → `(B, N, C)`."""
        height, width = geometry.pair(self.config.patch_size)
        batch, channels, rows, columns = pixel_values.shape
        kernel = self.param("kernel", zeros, (height, width, channels, self.config.hidden_size))
        bias = self.param("bias", zeros, (self.config.hidden_size,))
        x = pixel_values.reshape(batch, channels, rows // height, height, columns // width, width)
        x = jnp.einsum("bchpwq,pqcd->bhwd", x.astype(self.dtype), kernel.astype(self.dtype))
        return x.reshape(batch, -1, self.config.hidden_size) + bias.astype(self.dtype)


class QKV(nn.Module):
    """Query, key and value by one matrix without bias, `(C, 3, C)`, so that its last axis can be split by heads."""

    config: BeitConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`(B, T, C)` → `(B, T, 3, C)`."""
        width = self.config.hidden_size
        kernel = self.param("kernel", zeros, (width, 3, width))
        return jnp.tensordot(x.astype(self.dtype), kernel.astype(self.dtype), axes=1)

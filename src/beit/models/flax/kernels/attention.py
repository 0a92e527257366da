"""Attention without its weights, by JAX's fused kernel: softmax(q·kᵀ/√D + bias)·v as `attention` in `beit.py` has it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from beit.models.flax.kernels.position_bias import PositionBias

Array = jax.Array


def fuses(qkv: Array, dropout: float) -> bool:
    """Whether the fused kernel applies: it drops no weights, and on a CPU it does not exist in float16."""
    return not dropout and not (qkv.dtype == jnp.float16 and jax.default_backend() == "cpu")


def fused_attention(qkv: Array, bias: PositionBias) -> Array:
    """`qkv (B, T, 3, heads, D)` → `(B, T, heads·D)`."""
    q, k, v = jnp.moveaxis(qkv, 2, 0)  # each (B, T, heads, D)
    y = jax.nn.dot_product_attention(q, k, v, bias=bias.dense(q.dtype))
    return y.reshape(*y.shape[:2], -1)

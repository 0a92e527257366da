"""Losses that the Flax models and their training share, without a shape that depends on numbers, so that `jit` compiles once."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def cross_entropy(logits: Array, labels: Array) -> Array:
    """`logits (…, classes)`, class numbers `labels (…)` → the cross-entropy of each, `(…)` float32."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def masked_first(mask: Array, most: int) -> tuple[Array, Array]:
    """The masked patches of each image first, in reading order.

    Args:
        mask: `(B, N)` bool.
        most: M, at least the number of masked patches of any image.

    Returns:
        Numbers of patches `(B, M)`, and which of them are masked, `(B, M)` bool.
    """
    numbers = jnp.argsort(~mask, axis=1, stable=True)[:, :most]
    return numbers, jnp.take_along_axis(mask, numbers, axis=1)

"""What JAX computes with."""

from __future__ import annotations

import jax

from beit.train.flax import engine


def arithmetic(choice: str) -> str:
    """Version, device and type of a run with this `precision`, such as `jax 0.8.0 on cpu, float32`."""
    return f"jax {jax.__version__} on {jax.default_backend()}, {engine.arithmetic(choice).__name__}"

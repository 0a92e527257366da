"""What commands need of JAX alone."""

from __future__ import annotations

import jax

from beit.models.flax.device import chosen_devices


def choose_device(name: str | None) -> None:
    """Have this process compute on the (first) device of this name; JAX's own choice for None. Raises ConfigError."""
    jax.config.update("jax_default_device", None if name is None else chosen_devices(name)[0])

"""Devices of JAX by the names that PyTorch's have."""

from __future__ import annotations

from typing import Any

import jax

from beit.core.errors import ConfigError
from beit.core.text import printable


def devices_here() -> dict[str, list[Any]]:
    """Kind (`cpu`, `cuda`, `tpu`, …) → devices. A GPU's kind is that of its maker, `cuda` or `rocm`."""
    found: dict[str, list[Any]] = {}
    for kind in ("cpu", "cuda", "rocm", "tpu", "METAL"):
        try:
            devices = jax.devices(kind)
        except RuntimeError:  # JAX has no such backend here
            continue
        found[kind.lower()] = list(devices)
    return found


def chosen_devices(name: str | None) -> list[Any]:
    """The devices that `name` names: all of a kind (`cpu`, `cuda`, `gpu`, `tpu`), or one (`cuda:1`); all that JAX sees for None.

    Raises:
        ConfigError: it is no name of a device, or there is none; the message says which there are.
    """
    if name is None:
        return list(jax.devices())
    kinds = devices_here()
    kind, colon, index = name.lower().partition(":")
    if kind == "gpu":
        kind = next((other for other in ("cuda", "rocm", "metal") if other in kinds), kind)
    devices = kinds.get(kind, [])
    if colon:
        devices = [device for number, device in enumerate(devices) if str(number) == index]
    if not devices:
        here = [
            f"{kind}:{number}" if len(found) > 1 else kind
            for kind, found in kinds.items()
            for number in range(len(found))
        ]
        raise ConfigError(f"There is no device {printable(name, 40)} for JAX here. There are: {', '.join(here)}.")
    return devices

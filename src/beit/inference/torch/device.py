"""Which device computes: the one that the user names, or a GPU where there is one."""

from __future__ import annotations

import torch

from beit.core.errors import ConfigError
from beit.core.text import printable

_KINDS = ("cuda", "xpu", "npu", "mlu", "hpu")  # of which a machine may have several


def default_device() -> str:
    """`cuda` where there is a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def devices_here() -> list[str]:
    """Names of the devices of this machine: `cpu`, `cuda:0`, `cuda:1`, `mps`, …."""
    found = ["cpu"]
    for kind in _KINDS:
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            found += [f"{kind}:{number}" for number in range(module.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def chosen_device(name: str | None) -> torch.device:
    """The device that `name` names (`cpu`, `cuda`, `cuda:1`, `mps`, …); the default one for None.

    Raises:
        ConfigError: it is no name of a device, or this machine has no such device; the message says which it has.
    """
    if name is None:
        return torch.device(default_device())
    here = devices_here()
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"device is {printable(repr(name), 40)}; wanted a name such as cpu, cuda, cuda:1 or mps. Here there are: "
            f"{', '.join(here)}."
        ) from error
    if device.type == "cpu" and not device.index:
        return torch.device("cpu")
    if device.index is None and any(other.partition(":")[0] == device.type for other in here):
        return device
    if str(device) not in here:
        raise ConfigError(f"There is no device {device} here. There are: {', '.join(here)}.")
    return device

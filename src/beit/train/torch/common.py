"""What every kind of run has in common in PyTorch (`beit.train.framework.Framework`)."""

from __future__ import annotations

from beit.data.workers.torch import in_torch_workers
from beit.train.torch.distributed import Accelerated
from beit.train.torch.engine import check

__all__ = ["check", "pool", "processes"]

pool = in_torch_workers


def processes(settings: object) -> Accelerated:
    """The processes that torchrun or Accelerate has started; only this one if there are no others.

    Raises:
        ConfigError: the device that the settings name is not there.
    """
    return Accelerated(getattr(settings, "device", None))

"""Processes of PyTorch, by Accelerate, which finds out what torchrun, `accelerate launch` or a cluster has started."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from beit.core.errors import require


class Accelerated:
    """`beit.train.distributed.Processes` over torch.distributed; a single process where no others were started.

    Attributes:
        accelerator: Accelerate's.
        device: where this process computes.

    Raises:
        MissingExtraError: accelerate is not installed.
    """

    def __init__(self) -> None:
        accelerate = require("accelerate", "train", "training")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kernels and drivers; nothing that a user could act on
            self.accelerator = accelerate.Accelerator()
        self.device: torch.device = self.accelerator.device

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return bool(self.accelerator.is_main_process)

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.accelerator.wait_for_everyone()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device)) > 0)

    def mean(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The mean of each tensor `()` over all processes."""
        return values if self.world == 1 else self.accelerator.reduce(dict(values), reduction="mean")

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.world == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

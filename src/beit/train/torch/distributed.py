"""Processes of PyTorch, by Accelerate: what torchrun, `accelerate launch` or a cluster's environment says of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from beit.core.errors import require


class Accelerated:
    """`processes.Processes` over torch.distributed; one process alone, where nobody launched more.

    Attributes:
        accelerator: Accelerate's.
        device: where this process computes.

    Raises:
        MissingExtraError: accelerate is not installed.
    """

    def __init__(self) -> None:
        accelerate = require("accelerate", "train", "training")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of kernels and drivers; nothing here that a user can act on
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
        """Whether this is the one that writes."""
        return bool(self.accelerator.is_main_process)

    def wait(self) -> None:
        """Until all processes have come here."""
        self.accelerator.wait_for_everyone()

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.world == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device)) > 0)

    def mean(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The mean of each tensor `()` over the processes."""
        return values if self.world == 1 else self.accelerator.reduce(dict(values), reduction="mean")

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, by rank."""
        if self.world == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

"""Processes of PyTorch, by Accelerate, which finds out what torchrun, `accelerate launch` or a cluster has started."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from beit.core.errors import ConfigError, require
from beit.inference.torch.device import chosen_device


def launched() -> int:
    """How many processes the launcher says that it has started; 1 without one. Raises ConfigError for no number."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"WORLD_SIZE is {text!r}; wanted the number of processes, as torchrun sets it.")
    return int(text)


def _accelerators() -> Any:
    return getattr(torch, "accelerator", torch.cuda)  # PyTorch 2.5 has only the latter


def _on(device: torch.device, accelerate: Any) -> Any:
    """An Accelerator of this device. Raises ConfigError where several processes are told one GPU."""
    if launched() > 1:
        if device.index is not None:
            raise ConfigError(
                f"device is {device}, but {launched()} processes were launched, each of which takes the one of its own number. Give "
                f"--device {device.type}, or choose by CUDA_VISIBLE_DEVICES."
            )
        return accelerate.Accelerator(cpu=device.type == "cpu")
    state = accelerate.state.PartialState
    if state._shared_state and state().device != device:  # an earlier run of this process was elsewhere
        _forget(accelerate)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # for what does not say where: compiled kernels, figures of memory
    with accelerate.utils.patch_environment(accelerate_torch_device=str(device)):
        return accelerate.Accelerator(cpu=device.type == "cpu")


def _forget(accelerate: Any) -> None:
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


class Accelerated:
    """`beit.train.distributed.Processes` over torch.distributed; a single process where no others were started.

    Attributes:
        accelerator: Accelerate's.
        device: where this process computes.

    Raises:
        MissingExtraError: accelerate is not installed.
        ConfigError: a launcher says that there are other processes, but they cannot be reached; or there is no such device.
    """

    _placed: ClassVar[bool] = False  # whether Accelerate, whose state is one per process, was told a device

    def __init__(self, device: str | None = None) -> None:
        """`device` as `beit.inference.torch.device.chosen_device` takes it; Accelerate's choice for None."""
        accelerate = require("accelerate", "train", "training")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kernels and drivers; nothing that a user could act on
            if device is not None:
                self.accelerator = _on(chosen_device(device), accelerate)
                Accelerated._placed = launched() == 1
            else:
                if Accelerated._placed:
                    _forget(accelerate)
                    Accelerated._placed = False
                # Accelerate joins processes on CPUs only where it is told that CPUs are meant; else each would train alone.
                on_cpus = launched() > 1 and not _accelerators().is_available()
                self.accelerator = accelerate.Accelerator(cpu=True) if on_cpus else accelerate.Accelerator()
        if int(self.accelerator.num_processes) != launched():
            raise ConfigError(
                f"The launcher has started {launched()} processes (WORLD_SIZE), but this one sees "
                f"{self.accelerator.num_processes}: each would train by itself in the same folder. Start them all by torchrun or "
                "accelerate launch, or unset WORLD_SIZE for a single process."
            )
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

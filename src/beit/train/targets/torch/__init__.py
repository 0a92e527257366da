"""Targets in PyTorch: labels and losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beit.train.targets.base import Target

Batch = dict[str, Tensor]  # on the device
Metrics = dict[str, Tensor]


class TorchTarget(Target):
    """A target with its loss in PyTorch."""

    def to(self, device: torch.device) -> None:
        """Compute on `device` from now on."""
        return

    @abstractmethod
    def labels(self, batch: Batch) -> Tensor:
        """What is to be predicted at every patch, masked or not: `(B, N, …)`.

        Args:
            batch: `pixel_values (B, 3, H, W)`, and `token_pixels (B, 3, h, w)` or `tokens (B, N)` where the target has them.
        """

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """The loss of a batch, and metrics; both are means over the masked patches.

        Args:
            module: a `BeitForMaskedImageModeling` whose head has the target's width, or its data-parallel wrapper.
            batch: as of `labels`, and `mask (B, N)` bool.
            step: number of the step, from 0.
        """


def predictions(model: Any, batch: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """(`pixel_values (B, 3, H, W)`, predictions float32 of every patch `(B, N, width)`), on the model's device, in evaluation."""
    model.eval()
    pixels, mask = (torch.as_tensor(batch[name]).to(model.device) for name in ("pixel_values", "mask"))
    with torch.no_grad():
        return pixels, model(pixels, mask).logits.float()

"""The pixels of masked patches as target, in PyTorch.

BEiT is compared with it (table 4, "recovering pixels"). Each patch is normalised, as in He et al. 2021 (arXiv 2111.06377).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from beit.config import BeitConfig
from beit.train.targets.base import TargetSettings, patch_width
from beit.train.targets.torch import Batch, Metrics, TorchTarget, predictions


class PixelTarget(TorchTarget):
    """Predicts the pixels of each masked patch, normalised to mean 0 and variance 1; mean squared error.

    Args:
        width: numbers per patch.
    """

    predicts_normalised = True

    def __init__(self, width: int) -> None:
        self.width = width

    @classmethod
    def of(cls, settings: TargetSettings, config: BeitConfig) -> Self:
        """As `Target.of`."""
        return cls(patch_width(config))

    def labels(self, batch: Batch) -> Tensor:
        """Normalised pixels `(B, N, width)`."""
        return patch_pixels(batch["pixel_values"], self.width)

    def loss(self, module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """(mean squared error, `explained`: fraction of the pixels' variance that is predicted)."""
        mask = batch["mask"]
        labels = self.labels(batch)[mask]
        # float(): under autocast the head computes in bfloat16, whose squares would be coarse.
        logits = module(batch["pixel_values"], mask, masked_logits_only=True).logits.float()
        loss = F.mse_loss(logits, labels)
        return loss, {"explained": 1 - loss.detach() / labels.var().clamp(min=1e-6)}

    def predicted_pixels(self, model: Any, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """As `Target.predicted_pixels`: each patch with the mean and the variance that it has in the image."""
        pixels, logits = predictions(model, batch)
        side = round((self.width / pixels.shape[1]) ** 0.5)
        patches = F.unfold(pixels, side, stride=side).transpose(1, 2)
        mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
        found = logits * (variance + 1e-6).sqrt() + mean
        return F.fold(found.transpose(1, 2), tuple(pixels.shape[2:]), side, stride=side).cpu().numpy()

    @staticmethod
    def summary(output: Path, last: dict[str, float]) -> str:
        """As `Target.summary`."""
        return f"Saved {output}: {last['explained']:.1%} of the variance within masked patches predicted."


def patch_pixels(pixels: Tensor, width: int) -> Tensor:
    """The pixels of each square patch, row by row, normalised to mean 0 and variance 1 within the patch.

    Args:
        pixels: `(B, 3, H, W)`.
        width: numbers per patch, from which the patch's side follows.

    Returns:
        `(B, N, width)`.
    """
    side = round((width / pixels.shape[1]) ** 0.5)
    patches = F.unfold(pixels, side, stride=side).transpose(1, 2)
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()

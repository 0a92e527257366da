"""What PyTorch models predict at the masked patches, and its loss (`targets` has what both frameworks share)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit.data.token_cache import TokenCache
from beit.train.targets import Pixels, Tokens
from beit.train.torch.engine import Batch, Metrics


class PixelTarget(Pixels):
    """Predicts the pixels of masked patches, each patch normalised to mean 0 and variance 1; mean squared error."""

    def to(self, device: torch.device) -> None:
        """Nothing to move."""

    def loss(self, module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """(mean squared error, metrics) of a batch."""
        pixels, mask = batch["pixel_values"], batch["mask"]
        labels = patch_pixels(pixels, self.width)[mask]
        logits = module(pixels, mask, masked_logits_only=True).logits.float()
        loss = F.mse_loss(logits, labels)
        return loss, {"explained": 1 - loss.detach() / labels.var().clamp(min=1e-6)}


def patch_pixels(pixels: Tensor, width: int) -> Tensor:
    """`(B, 3, H, W)` → `(B, N, width)`: the pixels of each square patch, row by row, mean 0 and variance 1 in each patch."""
    side = round((width / pixels.shape[1]) ** 0.5)
    patches = F.unfold(pixels, side, stride=side).transpose(1, 2)
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


class TokenTarget(Tokens):
    """Predicts visual tokens: cross-entropy over the codebook. Args as of `Tokens`."""

    def __init__(self, tokenizer: Any, cache: TokenCache | None) -> None:
        super().__init__(tokenizer, cache)
        self.wanted = self.guessed = torch.zeros(self.width, dtype=torch.long)

    def to(self, device: torch.device) -> None:
        """Compute there."""
        if self.tokenizer is not None and self.cache is None:
            self.tokenizer.to(device)
        self.wanted, self.guessed = (torch.zeros(self.width, dtype=torch.long, device=device) for _ in range(2))

    def loss(self, module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """(cross-entropy, metrics) of a batch."""
        mask = batch["mask"]
        if "tokens" in batch:
            labels = batch["tokens"][mask].long()
        else:
            with torch.autocast(mask.device.type, enabled=False):  # the same targets whatever the precision
                labels = self.tokenizer.tokens(batch["token_pixels"])[mask]
        output = module(batch["pixel_values"], mask, labels=labels, masked_logits_only=True)
        guesses = output.logits.argmax(-1)
        self.wanted += torch.bincount(labels, minlength=self.width)
        self.guessed += torch.bincount(guesses, minlength=self.width)
        return output.loss, {"masked_accuracy": (guesses == labels).float().mean()}

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How often each token was to be guessed, and was guessed, since the last call."""
        found = self.wanted.cpu().numpy().copy(), self.guessed.cpu().numpy().copy()
        self.wanted.zero_()
        self.guessed.zero_()
        return found

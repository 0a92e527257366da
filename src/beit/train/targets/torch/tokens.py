"""Visual tokens as target, in PyTorch: cross-entropy over the codebook (BEiT, section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beit.data.token_cache import TokenCache
from beit.train.targets.tokens import Tokens
from beit.train.targets.torch import Batch, Metrics, TorchTarget, predictions


class TokenTarget(Tokens, TorchTarget):
    """Predicts visual tokens. Arguments as of `Tokens`."""

    framework = "torch"

    def __init__(self, tokenizer: Any, cache: TokenCache | None) -> None:
        super().__init__(tokenizer, cache)
        self.wanted = self.guessed = torch.zeros(self.width, dtype=torch.long)

    def to(self, device: torch.device) -> None:
        """Compute tokens, and count them, on `device`."""
        if self.tokenizer is not None and self.cache is None:
            self.tokenizer.to(device)
        self.wanted, self.guessed = (torch.zeros(self.width, dtype=torch.long, device=device) for _ in range(2))

    def labels(self, batch: Batch) -> Tensor:
        """Tokens `(B, N)` int64."""
        if "tokens" in batch:
            return batch["tokens"].long()
        pixels = batch["token_pixels"]
        with torch.autocast(pixels.device.type, enabled=False):  # the same targets whatever the run's precision
            return self.tokenizer.tokens(pixels)

    def loss(self, module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """(cross-entropy, `masked_accuracy`); the tokens are counted for the log.

        The model computes the cross-entropy, as the API promises: `BeitForMaskedImageModeling` in models/torch/beit.py.
        """
        mask = batch["mask"]
        labels = self.labels(batch)[mask]
        output = module(batch["pixel_values"], mask, labels=labels, masked_logits_only=True)
        guesses = output.logits.argmax(-1)
        # Added up on the device: the log fetches them once per line, so that no step waits.
        self.wanted += torch.bincount(labels, minlength=self.width)
        self.guessed += torch.bincount(guesses, minlength=self.width)
        return output.loss, {"masked_accuracy": (guesses == labels).float().mean()}

    def predicted_pixels(self, model: Any, batch: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """As `Target.predicted_pixels`: the guesses, decoded with the right tokens of what is not masked."""
        if self.tokenizer is None:
            return None
        pixels, logits = predictions(model, batch)
        with torch.no_grad():
            own = {name: torch.as_tensor(value).to(pixels.device) for name, value in batch.items()}
            tokens = torch.where(own["mask"], logits.argmax(-1), self.labels(own))
            where = next(iter(self.tokenizer.parameters())).device  # with a cache it stays on the CPU
            return self.tokenizer.decode(tokens.to(where), model.config.grid).float().cpu().numpy()

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """As `Tokens.counts`."""
        found = self.wanted.cpu().numpy().copy(), self.guessed.cpu().numpy().copy()
        self.wanted.zero_()
        self.guessed.zero_()
        return found

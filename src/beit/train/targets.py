"""What is predicted at the masked patches: visual tokens (computed, or read from a cache), or the patches' own pixels.

Tokens are BEiT's (section 2.3); pixels are what it is compared with (table 4, "recovering pixels", and He et al. 2021,
arXiv 2111.06377, whose normalisation of each patch is taken here).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit import geometry
from beit.config import BeitConfig
from beit.data.images import Images
from beit.data.loader import Batch
from beit.data.streams import Stream
from beit.data.token_cache import TokenCache
from beit.errors import ConfigError
from beit.tokenizers import load_tokenizer
from beit.train.log import Metrics
from beit.train.run import Run
from beit.train.settings import PretrainSettings


class PixelTarget:
    """Predicts the pixels of masked patches, each patch normalised to mean 0 and variance 1; mean squared error."""

    cache = None

    def __init__(self, width: int) -> None:
        self.width = width  # numbers a patch

    def view_size(self, grid: tuple[int, int]) -> None:
        """No tokenizer looks."""
        return

    def check(self, settings: PretrainSettings, images: Images | Stream) -> None:
        """Nothing can be wrong."""

    def to(self, device: torch.device) -> None:
        """Nothing to move."""

    def loss(self, module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """(mean squared error, metrics) of a batch."""
        pixels, mask = batch["pixel_values"], batch["mask"]
        labels = patch_pixels(pixels, self.width)[mask]
        logits = module(pixels, mask, masked_logits_only=True).logits.float()
        loss = F.mse_loss(logits, labels)
        return loss, {"explained": 1 - loss.detach() / labels.var().clamp(min=1e-6)}

    def line(self, run: Run) -> dict[str, float]:
        """Nothing more for a line of the log."""
        return {}


def patch_pixels(pixels: Tensor, width: int) -> Tensor:
    """`(B, 3, H, W)` → `(B, N, width)`: the pixels of each square patch, row by row, mean 0 and variance 1 in each patch."""
    side = round((width / pixels.shape[1]) ** 0.5)
    patches = F.unfold(pixels, side, stride=side).transpose(1, 2)
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


class TokenTarget:
    """Predicts visual tokens: cross-entropy over the codebook.

    Args:
        tokenizer: any tokenizer, or None.
        cache: tokens computed before, or None; one of both is needed.
    """

    def __init__(self, tokenizer: Any, cache: TokenCache | None) -> None:
        self.tokenizer, self.cache = tokenizer, cache
        self.width = cache.vocab_size if cache is not None else int(tokenizer.vocab_size)
        self.wanted = self.guessed = torch.zeros(self.width, dtype=torch.long)

    def view_size(self, grid: tuple[int, int]) -> tuple[int, int] | None:
        """Height and width in pixels of the tokenizer's view; None when tokens come from a cache."""
        if self.cache is not None:
            self.cache.check_grid(grid)
            return None
        return token_view_size(self.tokenizer, grid)

    def check(self, settings: PretrainSettings, images: Images | Stream) -> None:
        """Raises ConfigError when the cache is of other crops, images or another tokenizer."""
        if self.cache is not None:
            self.cache.check(settings, images, self.tokenizer)

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

    def line(self, run: Run) -> dict[str, float]:
        """What is counted over all processes since the last line of the log."""
        wanted, guessed = (run.accelerator.reduce(counts, reduction="sum") for counts in (self.wanted, self.guessed))
        self.wanted.zero_()
        self.guessed.zero_()
        return {
            "commonest_token": float(wanted.max() / wanted.sum()),
            "token_entropy": entropy(wanted),
            "prediction_entropy": entropy(guessed),
            "codes_used": float((wanted > 0).double().mean()),
        }


def entropy(counts: Tensor) -> float:
    """Of frequencies `(V,)`, in nats: 0 (one value only) … log V (all alike)."""
    p = counts.double() / counts.sum().clamp(min=1)
    return max(-float(torch.xlogy(p, p).sum()), 0.0)


def patch_width(config: BeitConfig) -> int:
    """Numbers in a patch: channels · height · width."""
    height, width = geometry.pair(config.patch_size)
    return config.num_channels * height * width


def token_view_size(tokenizer: Any, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of the tokenizer's view, so that it gives one token a patch.

    Raises:
        ConfigError: no size does.
    """
    for factor in (2**i for i in range(8)):
        size = grid[0] * factor, grid[1] * factor
        try:
            found = tuple(tokenizer.grid(size))
        except ValueError:
            continue
        if found == grid:
            return size
    raise ConfigError(
        f"The tokenizer gives no grid of {grid[0]}x{grid[1]} tokens, one a patch, at any size of its view."
    )


def make_target(settings: PretrainSettings, config: BeitConfig) -> PixelTarget | TokenTarget:
    """What the settings say, for a model with the patches of `config`.

    Raises:
        ConfigError: tokens are wanted and nothing gives them, or pixels and something does.
        CheckpointError: there is no such tokenizer.
        DataError: there is no such cache.
    """
    given = [name for name in ("tokenizer", "token_cache") if getattr(settings, name) is not None]
    if settings.target == "pixels":
        if given:
            raise ConfigError(f"target is pixels, which needs no {given[0]}. Leave it out, or choose --target tokens.")
        return PixelTarget(patch_width(config))
    if not given:
        raise ConfigError(
            "Tokens are to be predicted, and nothing gives them. Give --tokenizer (beit tokenizer train makes one), or "
            "--token-cache, or --target pixels."
        )
    cache = None if settings.token_cache is None else TokenCache(settings.token_cache)
    return TokenTarget(None if settings.tokenizer is None else load_tokenizer(settings.tokenizer), cache)

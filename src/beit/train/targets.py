"""What is predicted at the masked patches: visual tokens (computed, or read from a cache), or the patches' own pixels.

Tokens are BEiT's (section 2.3); pixels are what it is compared with (table 4, "recovering pixels", and He et al. 2021,
arXiv 2111.06377, whose normalisation of each patch is taken here). The losses are in `torch_targets` and `flax_targets`;
what does not depend on the framework is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from beit.config import BeitConfig
from beit.core import geometry
from beit.core.errors import ConfigError
from beit.data.sources.images import Images
from beit.data.sources.stream import Stream
from beit.data.token_cache import TokenCache
from beit.tokenizers import load_tokenizer
from beit.train.distributed import Processes
from beit.train.settings import PretrainSettings


class Pixels:
    """The pixels of masked patches.

    Args:
        width: numbers a patch.
    """

    cache = None

    def __init__(self, width: int) -> None:
        self.width = width

    def view_size(self, grid: tuple[int, int]) -> tuple[int, int] | None:
        """No tokenizer looks."""
        return None

    def check(self, settings: PretrainSettings, images: Images | Stream) -> None:
        """Nothing can be wrong."""

    def line(self, processes: Processes) -> dict[str, float]:
        """Nothing more for a line of the log."""
        return {}


class Tokens(ABC):
    """Visual tokens.

    Args:
        tokenizer: any tokenizer, or None.
        cache: tokens computed before, or None; one of both is needed.

    Attributes:
        width: size of the codebook.
    """

    def __init__(self, tokenizer: Any, cache: TokenCache | None) -> None:
        self.tokenizer, self.cache = tokenizer, cache
        self.width = codebook_size(tokenizer, cache)

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

    @abstractmethod
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How often this process had to guess each token, and has guessed it, `(width,)` each, since the last call."""

    def line(self, processes: Processes) -> dict[str, float]:
        """What is counted over all processes since the last line of the log."""
        both = sum(processes.gather(np.stack(self.counts())))
        return token_metrics(both[0], both[1])


def token_metrics(wanted: np.ndarray, guessed: np.ndarray) -> dict[str, float]:
    """Of counts `(V,)` of the tokens to guess and of the guesses: how many of them there are, and how evenly."""
    return {
        "commonest_token": float(wanted.max() / wanted.sum()),
        "token_entropy": entropy(wanted),
        "prediction_entropy": entropy(guessed),
        "codes_used": float((wanted > 0).mean()),
    }


def entropy(counts: np.ndarray) -> float:
    """Of frequencies `(V,)`, in nats: 0 (one value only) … log V (all alike)."""
    share = counts[counts > 0] / max(counts.sum(), 1)
    return max(0.0, -float((share * np.log(share)).sum()))


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


def codebook_size(tokenizer: Any, cache: TokenCache | None) -> int:
    """Number of tokens that there are."""
    return cache.vocab_size if cache is not None else int(tokenizer.vocab_size)


def make_target(
    settings: PretrainSettings,
    config: BeitConfig,
    pixels: Callable[[int], Any],
    tokens: Callable[[Any, TokenCache | None], Any],
) -> Any:
    """What the settings say, for a model with the patches of `config`.

    Args:
        settings: target, tokenizer, cache.
        config: of the model.
        pixels: a framework's class of `Pixels`.
        tokens: a framework's class of `Tokens`.

    Raises:
        As `source_of`.
    """
    source = source_of(settings)
    return pixels(patch_width(config)) if source is None else tokens(*source)


def target_width(settings: PretrainSettings, config: BeitConfig) -> int:
    """How many numbers a model with the patches of `config` answers for each: pixels, or tokens. Raises as `source_of`."""
    source = source_of(settings)
    return patch_width(config) if source is None else codebook_size(*source)


def source_of(settings: PretrainSettings) -> tuple[Any, TokenCache | None] | None:
    """(tokenizer, cache) that the settings name; None where pixels are predicted.

    Raises:
        ConfigError: tokens are wanted and nothing gives them, or pixels and something does.
        CheckpointError: there is no such tokenizer.
        DataError: there is no such cache.
    """
    given = [name for name in ("tokenizer", "token_cache") if getattr(settings, name) is not None]
    if settings.target == "pixels":
        if given:
            raise ConfigError(f"target is pixels, which needs no {given[0]}. Leave it out, or choose --target tokens.")
        return None
    if not given:
        raise ConfigError(
            "Tokens are to be predicted, and nothing gives them. Give --tokenizer (beit tokenizer train makes one), or "
            "--token-cache, or --target pixels."
        )
    cache = None if settings.token_cache is None else TokenCache(settings.token_cache)
    tokenizer = None if settings.tokenizer is None else load_tokenizer(settings.tokenizer, settings.framework)
    return tokenizer, cache

"""Visual tokens as target: what does not depend on the framework (BEiT, section 2.3)."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from beit.config import BeitConfig
from beit.core.errors import ConfigError
from beit.data.sources.images import Images
from beit.data.sources.stream import Stream
from beit.data.token_cache import TokenCache
from beit.tokenizers import load_tokenizer
from beit.train.distributed import Processes
from beit.train.targets.base import Target, TargetSettings


class Tokens(Target):
    """Visual tokens, computed by a tokenizer in each step or read from a cache.

    Args:
        tokenizer: any tokenizer; may be None if there is a cache.
        cache: tokens that were computed before; may be None if there is a tokenizer.

    Attributes:
        width: size of the codebook.
        framework: whose tokenizers the subclass uses.
    """

    takes_tokenizer = True
    framework: ClassVar[Literal["torch", "flax"]]

    def __init__(self, tokenizer: Any, cache: TokenCache | None) -> None:
        self.tokenizer, self.cache = tokenizer, cache
        self.width = cache.vocab_size if cache is not None else int(tokenizer.vocab_size)

    @classmethod
    def of(cls, settings: TargetSettings, config: BeitConfig) -> Self:
        """As `Target.of`.

        Raises:
            ConfigError: the settings name neither a tokenizer nor a cache.
            CheckpointError: there is no such tokenizer.
            DataError: there is no such cache.
        """
        if settings.tokenizer is None and settings.token_cache is None:
            raise ConfigError(
                "target is tokens, and nothing provides them. Give --tokenizer (beit tokenizer train makes one), or "
                "--token-cache (beit tokenize), or choose --target pixels."
            )
        cache = None if settings.token_cache is None else TokenCache(settings.token_cache)
        tokenizer = None if settings.tokenizer is None else load_tokenizer(settings.tokenizer, cls.framework)
        return cls(tokenizer, cache)

    def view_size(self, grid: tuple[int, int]) -> tuple[int, int] | None:
        """Height and width in pixels of the tokenizer's view; None when tokens come from a cache."""
        if self.cache is not None:
            self.cache.check_grid(grid)
            return None
        return token_view_size(self.tokenizer, grid)

    def check(self, settings: TargetSettings, images: Images | Stream) -> None:
        """Raises ConfigError when the cache is of other crops or images, or of another tokenizer."""
        if self.cache is not None:
            self.cache.check(settings, images, self.tokenizer)

    @abstractmethod
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How often each token was to be guessed, and was guessed, in this process since the last call; `(width,)` int64."""

    def log_metrics(self, processes: Processes) -> dict[str, float]:
        """Frequencies of the tokens to guess and of the guesses: see `token_metrics`."""
        # Counts are added up and not metrics averaged: the entropy of all processes' tokens is not the mean of their entropies.
        both = sum(processes.gather(np.stack(self.counts())))
        return token_metrics(both[0], both[1])

    @staticmethod
    def summary(output: Path, last: dict[str, float]) -> str:
        """As `Target.summary`; says so when the model does no better than the commonest token."""
        text = (
            f"Saved {output}: masked tokens guessed {last['masked_accuracy']:.1%} (the commonest token alone: "
            f"{last['commonest_token']:.1%}), loss {last['loss']:.3f}."
        )
        if last["masked_accuracy"] > last["commonest_token"]:
            return text
        warning = "Nothing was learned yet: guessing the commonest token is as good. "
        return f"{warning}Train for more steps, or check the tokenizer (beit tokenizer evaluate).\n{text}"


def token_metrics(wanted: np.ndarray, guessed: np.ndarray) -> dict[str, float]:
    """What the log says of a codebook.

    Args:
        wanted: how often each token was to be guessed, `(V,)`.
        guessed: how often each was guessed, `(V,)`.

    Returns:
        `commonest_token`: accuracy of always guessing the commonest token, the baseline; `token_entropy` and
        `prediction_entropy` in nats; `codes_used`: fraction of the codebook among the tokens to guess.
    """
    return {
        "commonest_token": float(wanted.max() / wanted.sum()),
        "token_entropy": entropy(wanted),
        "prediction_entropy": entropy(guessed),
        "codes_used": float((wanted > 0).mean()),
    }


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of frequencies `(V,)`: 0 (one value only) … log V (all alike)."""
    share = counts[counts > 0] / max(counts.sum(), 1)
    return max(0.0, -float((share * np.log(share)).sum()))


def token_view_size(tokenizer: Any, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of the view for which a tokenizer gives one token per patch.

    Raises:
        ConfigError: no size does.
    """
    for factor in (2**i for i in range(8)):  # a token covers 1, 2, 4, … pixels per side
        size = grid[0] * factor, grid[1] * factor
        try:
            found = tuple(tokenizer.grid(size))
        except ValueError:  # InputError: the tokenizer does not take this size
            continue
        if found == grid:
            return size
    raise ConfigError(
        f"The tokenizer gives no grid of {grid[0]}x{grid[1]} tokens, one per patch, at any size of its view."
    )

"""What Flax models predict at the masked patches, and its loss (`targets` has what both frameworks share).

Under a compiled step no shape may follow from the number of masked patches: logits are of as many patches of each image as
the mask's budget allows, and those that are not masked weigh nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from beit.data.token_cache import TokenCache
from beit.models.flax.losses import cross_entropy, masked_first
from beit.train.engine import Metrics
from beit.train.targets import Pixels, Tokens

# (images (B, 3, H, W), mask (B, N), numbers of patches (B, M)) → logits (B, M, width)
Predict = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class PixelTarget(Pixels):
    """Predicts the pixels of masked patches, each patch normalised to mean 0 and variance 1; mean squared error."""

    constants = None

    def loss(self, predict: Predict, batch: Any, most: int, constants: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """(mean squared error, (metrics, nothing to count)) of a batch with at most `most` masked patches an image."""
        pixels, mask = batch["pixel_values"], batch["mask"]
        at, counted = masked_first(mask, most)
        labels = jnp.take_along_axis(patch_pixels(pixels, self.width), at[..., None], axis=1)
        logits = predict(pixels, mask, at).astype(jnp.float32)
        weight, count = counted[..., None], counted.sum() * self.width
        loss = jnp.sum((logits - labels) ** 2, where=weight) / count
        mean = jnp.sum(labels, where=weight) / count
        variance = jnp.sum((labels - mean) ** 2, where=weight) / (count - 1)
        return loss, ({"explained": 1 - jax.lax.stop_gradient(loss) / jnp.maximum(variance, 1e-6)}, None)

    def count(self, counts: Any) -> None:
        """Nothing."""


def patch_pixels(pixels: jax.Array, width: int) -> jax.Array:
    """`(B, 3, H, W)` → `(B, N, width)`: the pixels of each square patch, row by row, mean 0 and variance 1 in each patch."""
    batch, channels, height, columns = pixels.shape
    side = round((width / channels) ** 0.5)
    split = pixels.reshape(batch, channels, height // side, side, columns // side, side)
    patches = split.transpose(0, 2, 4, 1, 3, 5).reshape(batch, -1, width)
    mean, variance = patches.mean(-1, keepdims=True), patches.var(-1, keepdims=True, ddof=1)
    return (patches - mean) / jnp.sqrt(variance + 1e-6)


class TokenTarget(Tokens):
    """Predicts visual tokens: cross-entropy over the codebook. Args as of `Tokens`."""

    def __init__(self, tokenizer: Any, cache: TokenCache | None) -> None:
        super().__init__(tokenizer, cache)
        self.constants = None if cache is not None else tokenizer
        self.waiting: list[jax.Array] = []  # counts of steps that nobody has waited for

    def loss(self, predict: Predict, batch: Any, most: int, constants: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """(cross-entropy, (metrics, counts of tokens and of guesses `(2, width)`)); `most` as of `PixelTarget`."""
        mask = batch["mask"]
        if "tokens" in batch:
            tokens = batch["tokens"].astype(jnp.int32)
        else:
            with jax.default_matmul_precision("highest"):  # the same targets whatever the precision
                tokens = constants.tokens(batch["token_pixels"])
        at, counted = masked_first(mask, most)
        labels = jnp.take_along_axis(tokens, at, axis=1)
        logits = predict(batch["pixel_values"], mask, at)
        loss = jnp.sum(cross_entropy(logits, labels), where=counted) / counted.sum()
        guesses = logits.argmax(-1)
        counts = [jnp.zeros(self.width, jnp.int32).at[found].add(counted) for found in (labels, guesses)]
        right = jnp.sum(guesses == labels, where=counted) / counted.sum()
        return loss, ({"masked_accuracy": right}, jnp.stack(counts))

    def count(self, counts: Any) -> None:
        """Take note of a step's counts."""
        self.waiting.append(counts)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How often each token was to be guessed, and was guessed, since the last call."""
        wanted, guessed = sum(
            (np.asarray(counts, np.int64) for counts in self.waiting), np.zeros((2, self.width), np.int64)
        )
        self.waiting.clear()
        return wanted, guessed

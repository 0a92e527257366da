"""Visual tokens as target, in JAX: cross-entropy over the codebook (BEiT, section 2.3)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from beit.data.token_cache import TokenCache
from beit.models.flax.losses import cross_entropy, masked_first
from beit.train.targets.flax import FlaxTarget, Loss, Predict
from beit.train.targets.tokens import Tokens


class TokenTarget(Tokens, FlaxTarget):
    """Predicts visual tokens. Arguments as of `Tokens`."""

    framework = "flax"

    def __init__(self, tokenizer: Any, cache: TokenCache | None) -> None:
        super().__init__(tokenizer, cache)
        self.constants = None if cache is not None else tokenizer
        self.waiting: list[jax.Array] = []  # counts of steps that may still be computing

    def loss(self, predict: Predict, batch: Any, most: int, constants: Any) -> Loss:
        """(cross-entropy, (`masked_accuracy`, counts of the tokens to guess and of the guesses `(2, width)`))."""
        mask = batch["mask"]
        if "tokens" in batch:
            tokens = batch["tokens"].astype(jnp.int32)
        else:
            with jax.default_matmul_precision("highest"):  # the same targets whatever the run's precision
                tokens = constants.tokens(batch["token_pixels"])
        at, counted = masked_first(mask, most)
        labels = jnp.take_along_axis(tokens, at, axis=1)
        logits = predict(batch["pixel_values"], mask, at)
        loss = jnp.sum(cross_entropy(logits, labels), where=counted) / counted.sum()
        guesses = logits.argmax(-1)
        # Some of the fixed number of patches are not masked; `counted` adds 0 for them.
        counts = [jnp.zeros(self.width, jnp.int32).at[found].add(counted) for found in (labels, guesses)]
        right = jnp.sum(guesses == labels, where=counted) / counted.sum()
        return loss, ({"masked_accuracy": right}, jnp.stack(counts))

    def count(self, counts: Any) -> None:
        """As `FlaxTarget.count`."""
        self.waiting.append(counts)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """As `Tokens.counts`."""
        wanted, guessed = sum(
            (np.asarray(counts, np.int64) for counts in self.waiting), np.zeros((2, self.width), np.int64)
        )
        self.waiting.clear()
        return wanted, guessed

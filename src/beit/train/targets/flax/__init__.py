"""Targets in JAX: labels and losses.

In a compiled step no shape may depend on how many patches are masked. So logits are computed of a fixed number of patches
of each image, the mask's budget; those among them that are not masked have the weight 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import jax

from beit.train.targets.base import Target

# (images (B, 3, H, W), mask (B, N), numbers of patches (B, M)) → logits (B, M, width)
Predict = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# (loss, (metrics, counts that are added up over the parts of a batch)); loss and metrics are means over masked patches.
Loss = tuple[jax.Array, tuple[dict[str, Any], Any]]


class FlaxTarget(Target):
    """A target with its loss in JAX.

    Attributes:
        constants: a pytree of arrays that the loss reads, such as a tokenizer's weights. It is passed to the compiled step:
            arrays that a step only refers to would be compiled into it.
    """

    constants: Any = None

    @abstractmethod
    def loss(self, predict: Predict, batch: Any, most: int, constants: Any) -> Loss:
        """The loss of a batch, within a compiled step.

        Args:
            predict: the model.
            batch: `pixel_values (B, 3, H, W)`, `mask (B, N)`, and `token_pixels (B, 3, h, w)` or `tokens (B, N)` where the
                target has them.
            most: the highest number of masked patches in an image.
            constants: the attribute of this name.
        """

    def count(self, counts: Any) -> None:
        """Take note of the counts of a step, which may not be computed yet."""
        return

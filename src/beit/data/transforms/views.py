"""What a transform offers to the loader: it turns images into the arrays that a model takes."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from PIL import Image

from beit.data.transforms.sample_seed import SampleSeed

Batch = dict[str, np.ndarray]


class Views(Protocol):
    """Turns images into model inputs, one at a time."""

    def one(self, image: Image.Image, target: Any, seed: SampleSeed) -> Batch:
        """The inputs made of one image and its target (`Images.target`), without the batch dimension."""
        ...


class BatchViews(Views, Protocol):
    """Also turns a whole batch of small images into model inputs at once. `ArrayImages` need it."""

    def batch(self, images: np.ndarray, labels: np.ndarray, seeds: list[SampleSeed]) -> Batch:
        """The inputs made of a batch.

        Args:
            images: float32 `(B, 3, H, W)` in [0, 1].
            labels: the targets, `(B,)` or `(B, classes)`.
            seeds: one per image.
        """
        ...

"""What a transform offers to the loader: images → the arrays that a model takes."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from PIL import Image

from beit.data.transforms.sample_seed import Draw

Batch = dict[str, np.ndarray]


class Views(Protocol):
    """Turns images into model inputs, one by one."""

    def one(self, image: Image.Image, target: Any, draw: Draw) -> Batch:
        """Inputs of one image and its target (`Images.target`), without the batch dimension."""
        ...


class BatchViews(Views, Protocol):
    """Turns a whole batch of small images into model inputs at once, too; `ArrayImages` need it."""

    def batch(self, images: np.ndarray, labels: np.ndarray, draws: list[Draw]) -> Batch:
        """Inputs of a batch: `images` float32 `(B, 3, H, W)` in [0, 1], `labels` int64 `(B,)`, a draw for each."""
        ...

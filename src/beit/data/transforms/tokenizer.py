"""What training a tokenizer does to images: one random crop."""

from __future__ import annotations

import numpy as np
from PIL import Image

from beit.data.transforms.crops import batch_view, crop_box, view
from beit.data.transforms.sample_seed import SampleSeed
from beit.data.transforms.views import Batch

_RATIO = (3 / 4, 4 / 3)  # aspect ratios of a crop
_FLIP = 0.5  # probability of a horizontal flip


class TokenizerViews:
    """A random crop, flipped in one case of two.

    Args:
        size: side of the square crop in pixels.
        scale: smallest and largest fraction of the image's area.
    """

    def __init__(self, size: int, scale: tuple[float, float]) -> None:
        self.size, self.scale = size, scale

    def one(self, image: Image.Image, target: int, seed: SampleSeed) -> Batch:
        """`images`: float32 `(3, H, W)` in [0, 1]."""
        rng = seed.rng()
        box = crop_box(rng, image.size, self.scale, _RATIO)
        flip = bool(rng.random() < _FLIP)
        return {"images": view(image, box, (self.size, self.size), Image.Resampling.LANCZOS, flip)}

    def batch(self, images: np.ndarray, labels: np.ndarray, seeds: list[SampleSeed]) -> Batch:
        """`images`: float32 `(B, 3, H, W)` in [0, 1]."""
        size, rngs = (images.shape[3], images.shape[2]), [seed.rng() for seed in seeds]
        boxes = np.array([crop_box(rng, size, self.scale, _RATIO) for rng in rngs])
        flips = np.array([rng.random() for rng in rngs]) < _FLIP
        return {"images": batch_view(images, boxes, flips, (self.size, self.size))}

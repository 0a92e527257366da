"""Random erasing: a rectangle of noise (Zhong et al. 2017, arXiv 1708.04896). Numpy only."""

from __future__ import annotations

import numpy as np

from beit.data.transforms.crops import random_box


def erase_rectangle(image: np.ndarray, rng: np.random.Generator) -> None:
    """Fill a random rectangle with normal noise, in place (timm's pixel mode).

    It covers 2 % to a third of the image and is smaller than the image on both sides. If ten tries give no such rectangle,
    nothing is erased.

    Args:
        image: float32 `(3, H, W)`, normalised.
        rng: source of randomness.
    """
    _, height, width = image.shape
    box = random_box(rng, (width, height), (width - 1, height - 1), (0.02, 1 / 3), (0.3, 1 / 0.3))
    if box is None:
        return
    left, top, right, bottom = box
    image[:, top:bottom, left:right] = rng.standard_normal((3, bottom - top, right - left), dtype=np.float32)

"""Random erasing: a rectangle of noise. Numpy only."""

from __future__ import annotations

import numpy as np

from beit.data.transforms.crops import random_box


def erase_rectangle(image: np.ndarray, rng: np.random.Generator) -> None:
    """Fill a random rectangle of `image (3, H, W)` with normal noise, in place (Zhong et al. 2017, arXiv 1708.04896).

    It is smaller than the image on both sides; when ten tries give none, nothing is erased (timm's pixel mode).
    """
    _, height, width = image.shape
    box = random_box(rng, (width, height), (width - 1, height - 1), (0.02, 1 / 3), (0.3, 1 / 0.3))
    if box is None:
        return
    left, top, right, bottom = box
    image[:, top:bottom, left:right] = rng.standard_normal((3, bottom - top, right - left), dtype=np.float32)

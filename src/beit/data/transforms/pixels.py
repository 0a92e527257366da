"""From PIL images to arrays, channels first, normalised. Pillow + numpy."""

from __future__ import annotations

import numpy as np
from PIL import Image


def mirror(image: Image.Image) -> Image.Image:
    """The image flipped horizontally."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def pixels_of(image: Image.Image) -> np.ndarray:
    """An RGB image → float32 `(3, H, W)` in [0, 1]."""
    return planes(np.asarray(image))


def planes(pixels: np.ndarray) -> np.ndarray:
    """uint8 `(…, H, W, 3)` → float32 `(…, 3, H, W)` in [0, 1]."""
    # The axes are moved while a pixel has three bytes: a quarter of the memory traffic.
    values = np.ascontiguousarray(np.moveaxis(pixels, -1, -3)).astype(np.float32)
    values /= 255
    return values


def normalise(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """float32 `(…, 3, H, W)` in [0, 1] → minus `mean`, divided by `std`, per channel."""
    means, stds = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (mean, std))
    values: np.ndarray = images - means
    values /= stds
    return values

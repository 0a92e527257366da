"""Random changes of colour: jitter, and the photometric distortion of segmentation. Pillow + numpy."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance


def jitter_colours(image: Image.Image, amount: float, rng: np.random.Generator) -> Image.Image:
    """Change brightness, contrast and saturation, in random order, as torchvision's ColorJitter does.

    Args:
        image: RGB.
        amount: the factors are uniform between 1 - `amount` (at least 0) and 1 + `amount`.
        rng: source of randomness.
    """
    changes = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for i in rng.permutation(3):
        image = changes[i](image).enhance(rng.uniform(max(0.0, 1 - amount), 1 + amount))
    return image


def jitter_factors(amount: float, rng: np.random.Generator) -> np.ndarray:
    """Random factors `(3,)` for the brightness, contrast and saturation of one image, for `batch_jitter`."""
    return rng.uniform(max(0.0, 1 - amount), 1 + amount, 3)


def batch_jitter(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Change brightness, then contrast, then saturation of a batch. The order is fixed, so that the batch stays together.

    Args:
        images: float32 `(B, 3, H, W)` in [0, 1].
        factors: `(B, 3)`, those of `jitter_factors` for each image.

    Returns:
        float32 `(B, 3, H, W)` in [0, 1].
    """
    brightness, contrast, saturation = factors.astype(np.float32).T.reshape(3, -1, 1, 1, 1)  # each (B, 1, 1, 1)
    found: np.ndarray = images * brightness
    np.clip(found, 0, 1, out=found)
    _blend(found, _grey(found).mean((2, 3), keepdims=True), contrast)  # away from, or towards, the mean grey
    _blend(found, _grey(found), saturation)  # … and each pixel's own grey
    return found


def _blend(images: np.ndarray, base: np.ndarray, factor: np.ndarray) -> None:
    """base + factor * (images - base), clipped to [0, 1]; in place, which is twice as fast."""
    images -= base
    images *= factor
    images += base
    np.clip(images, 0, 1, out=images)


def _grey(images: np.ndarray) -> np.ndarray:
    """`(B, 3, H, W)` → `(B, 1, H, W)` with the weights of ITU-R 601, by which Pillow turns RGB to grey."""
    red, green, blue = (images[:, i : i + 1] for i in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def distort_colours(image: Image.Image, probability: float, rng: np.random.Generator) -> Image.Image:
    """Photometric distortion, as in mmsegmentation: each change happens with `probability`.

    Brightness ±32 of 255; contrast and saturation times 0.5 to 1.5; hue ±18 of 180 degrees. Contrast changes either before
    saturation and hue or after them, with equal chance. Each step rounds to 8 bits.
    """

    def happens() -> bool:
        return bool(rng.random() < probability)

    def contrast(image: Image.Image) -> Image.Image:
        factor = rng.uniform(0.5, 1.5)
        return image.point([round(min(value * factor, 255)) for value in range(256)] * 3)

    if happens():
        shift = rng.uniform(-32, 32)
        image = image.point([round(min(max(value + shift, 0), 255)) for value in range(256)] * 3)
    contrast_first = bool(rng.random() < 0.5)
    if contrast_first and happens():
        image = contrast(image)
    saturates, turns = happens(), happens()
    if saturates or turns:
        hue, saturation, value = image.convert("HSV").split()
        if saturates:
            factor = rng.uniform(0.5, 1.5)
            saturation = saturation.point([round(min(level * factor, 255)) for level in range(256)])
        if turns:
            # mmsegmentation's hues go from 0 to 180 (OpenCV), Pillow's from 0 to 256.
            angle = round(rng.uniform(-18, 18) / 180 * 256)
            hue = hue.point([(level + angle) % 256 for level in range(256)])
        image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    return contrast(image) if not contrast_first and happens() else image

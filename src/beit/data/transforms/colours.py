"""Random changes of colour: jitter, and the photometric distortion of segmentation. Pillow + numpy."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance


def jitter_colours(image: Image.Image, amount: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation by random factors, in random order, as torchvision's ColorJitter does it."""
    changes = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for i in rng.permutation(3):
        image = changes[i](image).enhance(rng.uniform(max(0.0, 1 - amount), 1 + amount))
    return image


def jitter_factors(amount: float, rng: np.random.Generator) -> np.ndarray:
    """Factors `(3,)` of one image's brightness, contrast and saturation, for `batch_jitter`."""
    return rng.uniform(max(0.0, 1 - amount), 1 + amount, 3)


def batch_jitter(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Brightness, contrast and saturation of `(B, 3, H, W)` by each image's `factors (B, 3)`, in this order."""
    brightness, contrast, saturation = factors.astype(np.float32).T.reshape(3, -1, 1, 1, 1)
    found: np.ndarray = images * brightness
    np.clip(found, 0, 1, out=found)
    _blend(found, _grey(found).mean((2, 3), keepdims=True), contrast)
    _blend(found, _grey(found), saturation)
    return found


def _blend(images: np.ndarray, base: np.ndarray, factor: np.ndarray) -> None:
    """base + factor·(images - base), in [0, 1]; in place, which is twice as fast."""
    images -= base
    images *= factor
    images += base
    np.clip(images, 0, 1, out=images)


def _grey(images: np.ndarray) -> np.ndarray:
    """`(B, 3, H, W)` → `(B, 1, H, W)` with the weights of ITU-R 601, as Pillow turns RGB grey."""
    red, green, blue = (images[:, i : i + 1] for i in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def distort_colours(image: Image.Image, probability: float, rng: np.random.Generator) -> Image.Image:
    """Brightness ±32 of 255, contrast and saturation .5 to 1.5, hue ±18 of 180 degrees, each with `probability`.

    Contrast changes before saturation and hue, or after them, by even chance; 8 bits after each step.
    """

    def happens() -> bool:
        return bool(rng.random() < probability)

    def contrast(image: Image.Image) -> Image.Image:
        factor = rng.uniform(0.5, 1.5)
        return image.point([round(min(value * factor, 255)) for value in range(256)] * 3)

    if happens():
        shift = rng.uniform(-32, 32)
        image = image.point([round(min(max(value + shift, 0), 255)) for value in range(256)] * 3)
    first = bool(rng.random() < 0.5)
    if first and happens():
        image = contrast(image)
    saturates, turns = happens(), happens()
    if saturates or turns:
        hue, saturation, value = image.convert("HSV").split()
        if saturates:
            factor = rng.uniform(0.5, 1.5)
            saturation = saturation.point([round(min(level * factor, 255)) for level in range(256)])
        if turns:
            angle = round(rng.uniform(-18, 18) / 180 * 256)  # the whole circle is 180 there, 256 in Pillow
            hue = hue.point([(level + angle) % 256 for level in range(256)])
        image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    return contrast(image) if not first and happens() else image

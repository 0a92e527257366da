"""RandAugment and 3-Augment: what fine-tuning does to the colours and the geometry of one picture, after its crop.

Every random choice comes from the numpy Generator of the caller, never from global state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from beit.data.transforms.colours import jitter_colours

Colour = tuple[int, int, int]  # 0 … 255 each


# --- RandAugment ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """One change of a picture that grows with a magnitude from 0 to 10.

    Attributes:
        apply: `(picture, amount, fill)` → picture of the same size. An amount of 0 changes nothing, or least.
        most: amount at magnitude 10; at others in proportion.
        signed: the amount is negative in one case of two.
    """

    apply: Callable[[Image.Image, float, Colour], Image.Image]
    most: float = 0.0
    signed: bool = False


def _rotate(image: Image.Image, degrees: float, fill: Colour) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=fill)


def _affine(image: Image.Image, fill: Colour, matrix: tuple[float, ...]) -> Image.Image:
    """Each pixel comes from `matrix (2, 3)` times its own place (x, y, 1)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=fill)


def _posterise(image: Image.Image, bits: float, fill: Colour) -> Image.Image:
    """Keep 4 bits a channel less the whole ones of `bits`: from magnitude 10 on none, which Pillow refuses since 13."""
    kept = 4 - int(bits)
    return ImageOps.posterize(image, kept) if kept else Image.new("RGB", image.size)


def _solarise(image: Image.Image, depth: float, fill: Colour) -> Image.Image:
    """Turn over what is at least 256 - `depth`."""
    return ImageOps.solarize(image, 256 - int(depth))


def _solarise_add(image: Image.Image, added: float, fill: Colour) -> Image.Image:
    """Add to what is below 128."""
    return image.point([min(value + int(added), 255) if value < 128 else value for value in range(256)] * 3)


def _enhance(
    kind: Callable[[Image.Image], ImageEnhance._Enhance],
) -> Callable[[Image.Image, float, Colour], Image.Image]:
    """Away from a factor of 1, which changes nothing, down to .1 or up to 1.9."""
    return lambda image, amount, fill: kind(image).enhance(max(0.1, 1 + amount))


# timm's fifteen "increasing" operations with their ranges (timm/data/auto_augment.py): names are ours.
OPERATIONS: dict[str, Operation] = {
    "autocontrast": Operation(lambda image, amount, fill: ImageOps.autocontrast(image)),
    "equalise": Operation(lambda image, amount, fill: ImageOps.equalize(image)),
    "invert": Operation(lambda image, amount, fill: ImageOps.invert(image)),
    "rotate": Operation(_rotate, 30, signed=True),
    "posterise": Operation(_posterise, 4),
    "solarise": Operation(_solarise, 256),
    "solarise_add": Operation(_solarise_add, 110),
    "saturation": Operation(_enhance(ImageEnhance.Color), 0.9, signed=True),
    "contrast": Operation(_enhance(ImageEnhance.Contrast), 0.9, signed=True),
    "brightness": Operation(_enhance(ImageEnhance.Brightness), 0.9, signed=True),
    "sharpness": Operation(_enhance(ImageEnhance.Sharpness), 0.9, signed=True),
    "shear_x": Operation(lambda image, part, fill: _affine(image, fill, (1, part, 0, 0, 1, 0)), 0.3, signed=True),
    "shear_y": Operation(lambda image, part, fill: _affine(image, fill, (1, 0, 0, part, 1, 0)), 0.3, signed=True),
    "shift_x": Operation(
        lambda image, part, fill: _affine(image, fill, (1, 0, part * image.width, 0, 1, 0)), 0.45, signed=True
    ),
    "shift_y": Operation(
        lambda image, part, fill: _affine(image, fill, (1, 0, 0, 0, 1, part * image.height)), 0.45, signed=True
    ),
}


def draw_operations(rng: np.random.Generator) -> list[tuple[str, float]]:
    """Which operations a picture meets, in order, by name and amount: two draws with replacement, each kept by even chance.

    The magnitude is normal around 9 with a standard deviation of .5, cut to 0 … 10 ("rand-m9-mstd0.5-inc1" in timm's
    words, what BEiT fine-tunes with).
    """
    drawn = []
    names = list(OPERATIONS)
    for index in rng.integers(len(names), size=2):
        if rng.random() < 0.5:
            operation = OPERATIONS[names[index]]
            amount = min(max(rng.normal(9, 0.5), 0.0), 10.0) / 10 * operation.most
            negative = operation.signed and rng.random() < 0.5
            drawn.append((names[index], -amount if negative else amount))
    return drawn


def rand_augment(image: Image.Image, rng: np.random.Generator, mean: tuple[float, ...]) -> Image.Image:
    """RandAugment (arXiv 1909.13719) as BEiT fine-tunes with it, `draw_operations`.

    Args:
        image: RGB, or a mode that becomes RGB.
        rng: source of randomness.
        mean: colour that fills what geometric operations lay bare, in [0, 1]; they resample bicubically.

    Returns:
        RGB, of the same size.
    """
    image = image.convert("RGB")
    red, green, blue = (min(round(255 * value), 255) for value in mean)
    for name, amount in draw_operations(rng):
        image = OPERATIONS[name].apply(image, amount, (red, green, blue))
    return image


# --- 3-Augment -----------------------------------------------------------------------------------------------------


THREE_JITTER = 0.3


def three_augment(image: Image.Image, rng: np.random.Generator, jitter: float = THREE_JITTER) -> Image.Image:
    """One of grey, solarised and blurred, then colour jitter: 3-Augment (DeiT III, arXiv 2204.07118, section 3.2).

    Args:
        image: RGB, or a mode that becomes RGB.
        rng: source of randomness.
        jitter: the most by which brightness, contrast and saturation change.

    Returns:
        RGB, of the same size.
    """
    image = image.convert("RGB")
    kind = int(rng.integers(3))
    if kind == 0:
        image = ImageOps.grayscale(image).convert("RGB")
    elif kind == 1:
        image = ImageOps.solarize(image, 128)
    else:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
    return jitter_colours(image, jitter, rng)

"""RandAugment and 3-Augment: random changes of an image's colours and geometry in fine-tuning, after its crop. Pillow + numpy."""

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
    """A change of an image whose amount grows with a magnitude from 0 to 10.

    Attributes:
        apply: `(image, amount, fill)` → image of the same size. An amount of 0 changes the image not at all or least.
        most: amount at magnitude 10; at other magnitudes in proportion.
        signed: the amount is negative in one case of two.
    """

    apply: Callable[[Image.Image, float, Colour], Image.Image]
    most: float = 0.0
    signed: bool = False


def _rotate(image: Image.Image, degrees: float, fill: Colour) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=fill)


def _affine(image: Image.Image, fill: Colour, matrix: tuple[float, ...]) -> Image.Image:
    """Each pixel of the result comes from the place `matrix` (2 x 3, row by row) times (x, y, 1)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=fill)


def _posterise(image: Image.Image, bits: float, fill: Colour) -> Image.Image:
    """Keep 4 - `bits` bits per channel, rounded up. At magnitude 10 none are left: black, which Pillow 13 refuses to make."""
    kept = 4 - int(bits)
    return ImageOps.posterize(image, kept) if kept else Image.new("RGB", image.size)


def _solarise(image: Image.Image, depth: float, fill: Colour) -> Image.Image:
    """Invert values from 256 - `depth` on."""
    return ImageOps.solarize(image, 256 - int(depth))


def _solarise_add(image: Image.Image, added: float, fill: Colour) -> Image.Image:
    """Add to values below 128."""
    return image.point([min(value + int(added), 255) if value < 128 else value for value in range(256)] * 3)


def _enhance(
    kind: Callable[[Image.Image], ImageEnhance._Enhance],
) -> Callable[[Image.Image, float, Colour], Image.Image]:
    """Pillow's enhancer with a factor of 1 + amount, at least 0.1; a factor of 1 changes nothing."""
    return lambda image, amount, fill: kind(image).enhance(max(0.1, 1 + amount))


# timm's fifteen "increasing" operations with their ranges (timm/data/auto_augment.py), under names of our own. Their order
# is part of the recipe: operations are drawn by number.
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
    """The operations for one image, in order, as (name, amount): two are drawn with replacement, each is kept in one case of two.

    The magnitude is normal with mean 9 and standard deviation 0.5, clipped to 0 … 10: timm's "rand-m9-mstd0.5-inc1", with
    which BEiT is fine-tuned.
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
    """RandAugment (arXiv 1909.13719) with which BEiT is fine-tuned; see `draw_operations`.

    Args:
        image: RGB, or a mode that can be converted to RGB.
        rng: source of randomness.
        mean: the colour, in [0, 1], that fills the areas which geometric operations leave empty. They resample bicubically.

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
    """3-Augment (DeiT III, arXiv 2204.07118, section 3.2): grey, solarised or blurred, with equal chance; then colour jitter.

    Args:
        image: RGB, or a mode that can be converted to RGB.
        rng: source of randomness.
        jitter: largest change of brightness, contrast and saturation.

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

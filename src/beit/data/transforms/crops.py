"""Where crops are made: random and centred ones, resized; of one PIL image, or of a batch of small ones. Pillow + numpy."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from beit.core import geometry
from beit.data.transforms.pixels import mirror, pixels_of

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def crop_box(
    rng: np.random.Generator, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """A random crop: its area is uniform in `scale`, the log of its aspect ratio uniform in `ratio`.

    As in microsoft/unilm, beit/transforms.py: ten tries; if none lies inside the image, the largest centred crop whose
    aspect ratio is within `ratio`.

    Args:
        rng: source of randomness.
        size: (width, height) of the image in pixels.
        scale: smallest and largest fraction of the image's area.
        ratio: smallest and largest aspect ratio, width / height.
    """
    box = random_box(rng, size, size, scale, ratio)
    if box is not None:
        return box
    width, height = size
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(round(height * aspect), 1)), min(height, max(round(width / aspect), 1))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_box(
    rng: np.random.Generator,
    size: tuple[int, int],
    most: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box | None:
    """A random box inside `size` (width, height), at most `most` (width, height) large; None if ten tries fail."""
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= most[0] and 0 < h <= most[1]:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    return None


def resized_crop(image: Image.Image, box: Box, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """One crop, resized to `size` (height, width)."""
    # Crop first, then resize: with `box=`, Pillow would mix pixels from outside the crop into its border.
    return image.crop(box).resize((size[1], size[0]), resample)


def view(image: Image.Image, box: Box, size: tuple[int, int], resample: Image.Resampling, flip: bool) -> np.ndarray:
    """One crop, resized to `size` (height, width), perhaps flipped: float32 `(3, H, W)` in [0, 1]."""
    cropped = resized_crop(image, box, size, resample)
    return pixels_of(mirror(cropped) if flip else cropped)


# --- DeiT III's crop and the centre crop, which keep the image's proportions -----------------------------------------


def simple_crop(image: Image.Image, size: tuple[int, int], rng: np.random.Generator, margin: int = 4) -> Image.Image:
    """DeiT III's simple random crop (arXiv 2204.07118, section 3.2), which keeps nearly the whole image.

    The image is resized until it just covers `size` (height, width), padded with `margin` pixels by reflection, and cropped
    at a random place.
    """
    width, height = _covering(image.size, size)
    left = int(rng.integers(-margin, width - size[1] + margin + 1))
    top = int(rng.integers(-margin, height - size[0] + margin + 1))
    return _resized_part(image, (width, height), (left, top), size)


def centre_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The central 224/256 of the image, at `size` (height, width), as in the authors' evaluation at 224 pixels."""
    width, height = _covering(image.size, (int(size[0] / (224 / 256)), int(size[1] / (224 / 256))))
    corner = (round((width - size[1]) / 2), round((height - size[0]) / 2))
    return _resized_part(image, (width, height), corner, size)


def _covering(own: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Smallest (width, height) in the proportions of `own` (width, height) that covers `size` (height, width)."""
    width, height = own
    if width * size[0] <= height * size[1]:
        return size[1], max(size[1] * height // width, size[0])
    return max(size[0] * width // height, size[1]), size[0]


def _resized_part(
    image: Image.Image, resized: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]
) -> Image.Image:
    """A window of the resized image, without resizing the rest: an image of 1 x 10,000 pixels would become huge.

    Args:
        image: the image at its own size.
        resized: (width, height) to which it is resized in theory.
        corner: (left, top) of the window in the resized image; outside of the image, its reflection continues it.
        size: (height, width) of the window.
    """
    columns, rows = _reflected(corner[0], size[1], resized[0]), _reflected(corner[1], size[0], resized[1])
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    across, down = image.width / resized[0], image.height / resized[1]
    # With `box=`, pixels around the window take part in its border: the same result as if all were resized.
    box = left * across, top * down, min(right * across, image.width), min(bottom * down, image.height)
    part = image.resize((int(right - left), int(bottom - top)), Image.Resampling.BICUBIC, box=box)
    return Image.fromarray(np.asarray(part)[rows - top][:, columns - left])


def _reflected(first: int, count: int, length: int) -> np.ndarray:
    """Indices of pixels `first` … `first + count - 1` of a row of `length`, which its reflections continue at both ends."""
    period = max(2 * (length - 1), 1)  # there and back again; the pixels at both ends come once
    indices = np.arange(first, first + count) % period
    return np.minimum(indices, period - indices)


# --- a batch of small images in memory: one call instead of one per image --------------------------------------------


def batch_view(images: np.ndarray, boxes: np.ndarray, flips: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crops of a batch, resized to `size` (height, width), perhaps flipped.

    Bicubic, as torch's `grid_sample`: pixels beside the crop take part, and the border pixels continue the image. There is
    no filter against aliasing, so a crop should not be much larger than `size`; those of small images are not.

    Args:
        images: float32 `(B, 3, H, W)` in [0, 1].
        boxes: `(B, 4)`: left, top, right, bottom in pixels.
        flips: `(B,)` bool.

    Returns:
        float32 `(B, 3, h, w)` in [0, 1].
    """
    count, channels, height, width = images.shape
    left, top, right, bottom = boxes.T
    columns, rows = _bicubic(left, right, width, size[1]), _bicubic(top, bottom, height, size[0])
    columns[flips] = columns[flips, ::-1]
    # Boxes are upright, so a pixel's weight is that of its column times that of its row: two matrix products per image.
    across = images.reshape(count, channels * height, width) @ columns.transpose(0, 2, 1)
    found: np.ndarray = rows[:, None] @ across.reshape(count, channels, height, size[1])
    return np.clip(found, 0, 1, out=found)  # cubic weights are negative in places, so values may leave [0, 1]


def _bicubic(first: np.ndarray, last: np.ndarray, length: int, count: int) -> np.ndarray:
    """Weights by which `length` pixels in a line become `count` new ones between `first (B,)` and `last (B,)`.

    Returns:
        float32 `(B, count, length)`; each row adds up to 1.
    """
    centres = first[:, None] + (np.arange(count) + 0.5) * ((last - first) / count)[:, None] - 0.5  # (B, count)
    return geometry.cubic_weights(centres, length)

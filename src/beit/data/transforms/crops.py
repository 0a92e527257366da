"""Random and centred crops of an image, resized; on one PIL image or on a batch of small ones. Pillow + numpy."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from beit.core import geometry
from beit.data.transforms.pixels import mirror, pixels_of

Box = tuple[int, int, int, int]  # left, top, right, bottom


def crop_box(
    rng: np.random.Generator, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """A random crop of an image of `size` (width, height): ten tries, then the largest centred one within `ratio`.

    Area uniform in `scale`, log aspect uniform in `ratio` (microsoft/unilm, beit/transforms.py).
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
    """A random box in `size` (width, height) whose own width and height are at most `most`; None after ten tries."""
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
    """One crop resized to `size` (height, width)."""
    # Crop first, then resize: with `box=` Pillow would let pixels outside the crop leak into its border.
    return image.crop(box).resize((size[1], size[0]), resample)


def simple_crop(image: Image.Image, size: tuple[int, int], rng: np.random.Generator, margin: int = 4) -> Image.Image:
    """DeiT III's simple random crop (arXiv 2204.07118, section 3.2): nearly all of the picture, nearly its own shape.

    The picture is made just large enough to cover `size` (height, width), continued by `margin` pixels of its mirror
    image, and cut out at random.
    """
    width, height = _covering(image.size, size)
    left = int(rng.integers(-margin, width - size[1] + margin + 1))
    top = int(rng.integers(-margin, height - size[0] + margin + 1))
    return _cut_out(image, (width, height), (left, top), size)


def centre_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle 224/256 of what covers `size` (height, width), as in the authors' evaluation at 224 pixels."""
    width, height = _covering(image.size, (int(size[0] / (224 / 256)), int(size[1] / (224 / 256))))
    return _cut_out(image, (width, height), (round((width - size[1]) / 2), round((height - size[0]) / 2)), size)


def _covering(own: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Smallest (width, height) in the proportions of `own` (width, height) that covers `size` (height, width)."""
    width, height = own
    if width * size[0] <= height * size[1]:
        return size[1], max(size[1] * height // width, size[0])
    return max(size[0] * width // height, size[1]), size[0]


def _cut_out(
    image: Image.Image, resized: tuple[int, int], place: tuple[int, int], size: tuple[int, int]
) -> Image.Image:
    """What lies at `place` (left, top) of `image` at `resized` (width, height): `size` (height, width), mirrored outside.

    Only the part that is seen is resized: a picture of 1 x 10,000 pixels would be made millions of pixels long. Here
    pixels outside of the part shall leak in, as they do when all of it is resized.
    """
    columns, rows = _mirrored(place[0], size[1], resized[0]), _mirrored(place[1], size[0], resized[1])
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    across, down = image.width / resized[0], image.height / resized[1]
    box = left * across, top * down, min(right * across, image.width), min(bottom * down, image.height)
    part = image.resize((int(right - left), int(bottom - top)), Image.Resampling.BICUBIC, box=box)
    return Image.fromarray(np.asarray(part)[rows - top][:, columns - left])


def _mirrored(first: int, count: int, length: int) -> np.ndarray:
    """Places `first` … `first + count - 1` in a row of `length` pixels that goes on as its mirror image at both ends."""
    period = max(2 * (length - 1), 1)
    places = np.arange(first, first + count) % period
    return np.minimum(places, period - places)


def view(image: Image.Image, box: Box, size: tuple[int, int], resample: Image.Resampling, flip: bool) -> np.ndarray:
    """One crop resized to `size` (height, width): float32 `(3, H, W)` in [0, 1]."""
    cropped = resized_crop(image, box, size, resample)
    return pixels_of(mirror(cropped) if flip else cropped)


def batch_view(images: np.ndarray, boxes: np.ndarray, flips: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crops of a batch, resized to `size` (height, width).

    Args:
        images: float32 `(B, 3, H, W)` in [0, 1].
        boxes: `(B, 4)` left, top, right, bottom in pixels.
        flips: `(B,)` bool.

    Returns:
        float32 `(B, 3, h, w)` in [0, 1], bicubic, as torch's `grid_sample` has it: pixels beside the crop take part, and
        the border goes on outside of the image. There is no filter against aliasing: for crops about as large as `size`,
        as small images have them.
    """
    count, channels, height, width = images.shape
    left, top, right, bottom = boxes.T
    columns, rows = _bicubic(left, right, width, size[1]), _bicubic(top, bottom, height, size[0])
    columns[flips] = columns[flips, ::-1]
    # A box is upright, so the weight of a pixel is that of its column times that of its row: two matrix products an image.
    across = images.reshape(count, channels * height, width) @ columns.transpose(0, 2, 1)
    found: np.ndarray = rows[:, None] @ across.reshape(count, channels, height, size[1])
    return np.clip(found, 0, 1, out=found)


def _bicubic(first: np.ndarray, last: np.ndarray, length: int, count: int) -> np.ndarray:
    """Weights of the `length` pixels of a line in each of `count` new ones that cover `first (B,)` … `last (B,)`.

    Returns:
        float32 `(B, count, length)`; each row adds up to 1.
    """
    places = first[:, None] + (np.arange(count) + 0.5) * ((last - first) / count)[:, None] - 0.5  # (B, count)
    return geometry.cubic_weights(places, length)

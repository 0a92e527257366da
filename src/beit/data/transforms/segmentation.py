"""What training segmentation does to an image and its label map: random scale, crop, flip, distortion of colours, padding.

As the authors train on ADE20K, with mmsegmentation's transforms (microsoft/unilm, beit/semantic_segmentation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from beit.data.transforms.colours import distort_colours
from beit.data.transforms.crops import Box
from beit.data.transforms.pixels import normalise, pixels_of
from beit.data.transforms.sample_seed import SampleSeed
from beit.data.transforms.views import Batch

_TRIES = 10  # for a crop in which no class fills too much
_LONGEST = 4  # the long side is at most 4 times `short_side`


@dataclass(frozen=True)
class SegmentViews:
    """Random scale → crop → flip → distortion of colours → normalisation → padding.

    The image is padded after it is normalised, with 0: the mean colour. Its map is padded with `ignore_index`.

    Attributes:
        size: (height, width) of the crops in pixels.
        mean: of the channels.
        std: standard deviation of the channels.
        short_side: shorter side of the images in pixels, before the random scale.
        scale: smallest and largest random scale.
        cat_max: largest fraction of the labelled pixels that one class may fill; other crops are drawn again, up to ten
            times.
        flip: probability of a horizontal flip.
        distortion: probability of each change of colour.
        ignore_index: the number for "no label".
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    short_side: int
    scale: tuple[float, float] = (0.5, 2.0)
    cat_max: float = 0.75
    flip: float = 0.5
    distortion: float = 0.5
    ignore_index: int = 255

    def one(self, image: Image.Image, target: np.ndarray, seed: SampleSeed) -> Batch:
        """An image and its label map `(H', W')` → `pixel_values` float32 `(3, H, W)`, `labels` int64 `(H, W)`."""
        rng = seed.rng()  # scale, crop, flip and colours draw from it in this order
        scaled = fitted_size(image.size, self.short_side * rng.uniform(*self.scale))
        box = self._crop(target, scaled, rng)  # of the scaled image, which is never made as a whole
        found, pixels = label_crop(target, scaled, box), image_crop(image, scaled, box)
        if rng.random() < self.flip:
            found, pixels = found[:, ::-1], pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = distort_colours(pixels, self.distortion, rng)
        height, width = found.shape
        values, labels = np.zeros((3, *self.size), np.float32), np.full(self.size, self.ignore_index, np.int64)
        values[:, :height, :width] = normalise(pixels_of(pixels), self.mean, self.std)
        labels[:height, :width] = found
        return {"pixel_values": values, "labels": labels}

    def _crop(self, label: np.ndarray, scaled: tuple[int, int], rng: np.random.Generator) -> Box:
        """A random crop of the scaled image; the first of ten in which no class fills more than `cat_max`, or the tenth."""
        width, height = min(scaled[0], self.size[1]), min(scaled[1], self.size[0])
        for _ in range(_TRIES):
            left = int(rng.integers(0, scaled[0] - width + 1))
            top = int(rng.integers(0, scaled[1] - height + 1))
            box = (left, top, left + width, top + height)
            if largest_class_fraction(label_crop(label, scaled, box), self.ignore_index) <= self.cat_max:
                break
        return box


def fitted_size(size: tuple[int, int], short_side: float, multiple: int = 1) -> tuple[int, int]:
    """(width, height) scaled so that the short side is `short_side`, or less where the long one would exceed four times that.

    Args:
        size: (width, height) in pixels.
        short_side: wanted length of the short side in pixels.
        multiple: both sides are rounded to whole multiples of this.
    """
    factor = min(short_side / min(size), _LONGEST * short_side / max(size))
    width, height = (max(round(side * factor / multiple), 1) * multiple for side in size)
    return width, height


def image_crop(image: Image.Image, scaled: tuple[int, int], box: Box) -> Image.Image:
    """The crop `box` of the image resized to `scaled` (width, height), bilinear; without resizing the rest of it."""
    x, y = image.width / scaled[0], image.height / scaled[1]
    left, top, right, bottom = box
    source = (left * x, top * y, min(right * x, image.width), min(bottom * y, image.height))
    return image.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=source)


def label_crop(label: np.ndarray, scaled: tuple[int, int], box: Box) -> np.ndarray:
    """The crop `box` of the label map resized to `scaled` (width, height), nearest neighbour: maps must not be blended."""
    left, top, right, bottom = box
    # The centre of each pixel of the crop, in pixels of the map.
    columns = ((np.arange(left, right) + 0.5) * (label.shape[1] / scaled[0])).astype(np.int64)
    rows = ((np.arange(top, bottom) + 0.5) * (label.shape[0] / scaled[1])).astype(np.int64)
    return label[rows[:, None], columns]


def largest_class_fraction(labels: np.ndarray, ignore_index: int) -> float:
    """The fraction of the labelled pixels that the most frequent class fills; 1 if no pixel is labelled."""
    counted = labels[labels != ignore_index]
    return float(np.bincount(counted).max() / counted.size) if counted.size else 1.0

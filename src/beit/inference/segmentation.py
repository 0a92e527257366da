"""From a picture of any size to a label map of that size, by a model of one size: sliding windows, scales, flips.

image → for each scale and flip: resized, cut into windows → logits of windows, averaged where they overlap (a quarter
of the size or so, all classes) → a band of rows at a time: enlarged to the image's size, softmax, sum → best class
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from beit.core import geometry
from beit.core.errors import CheckpointError, ConfigError
from beit.data.processor import BeitImageProcessor
from beit.data.transforms.segmentation import fitted_size
from beit.models.torch.segmentation import BeitForSemanticSegmentation

_BAND = 1 << 21  # about so many scores at full size are held at once: 8 MiB of float32, which a processor's cache holds


@dataclass(frozen=True)
class Way:
    """How a picture is brought to the model.

    Attributes:
        mode: `slide`: windows of the model's size, at two thirds of it from one to the next, over the picture resized to
            `short_side`, with its proportions. `whole`: the whole picture resized to the model's size.
        short_side: in pixels; the model's image size if None.
        scales: the picture is taken at each of these factors, and the probabilities are averaged.
        flip: average with those of the mirrored picture.
        batch_size: windows at a time.

    Raises:
        ConfigError: an impossible value.
    """

    mode: str = "slide"
    short_side: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.mode not in ("slide", "whole"):
            raise ConfigError(f"mode is {self.mode!r}; choose slide or whole.")
        if not self.scales or not all(0 < scale <= 16 for scale in self.scales):
            raise ConfigError(f"scales is {self.scales}; wanted factors above 0, such as 0.75 1 1.25.")
        if self.mode == "whole" and tuple(self.scales) != (1.0,):
            raise ConfigError("scales are for --mode slide: the whole picture is always of the model's size.")
        for name in ("short_side", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")


WINDOWS = Way()


def stride_of(size: int, unit: int) -> int:
    """From one window to the next: two thirds of their size, rounded down to the logits' grid (341 → 340 at 512)."""
    return max(size * 2 // 3 // unit, 1) * unit


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin that cover `length`, the last moved back to end with it."""
    count = max(math.ceil((length - window) / stride), 0) + 1
    return [max(min(i * stride, length - window), 0) for i in range(count)]


class Segmenter:
    """Segments pictures of any size.

    Args:
        model: put into evaluation mode; stays on its device.
        processor: gives filter, scale, mean and standard deviation of the pixels.
        way: how.
    """

    def __init__(self, model: BeitForSemanticSegmentation, processor: BeitImageProcessor, way: Way = WINDOWS) -> None:
        self.model, self.processor, self.way = model.eval(), processor, way
        self.window = geometry.pair(model.config.image_size)
        # Four logits a patch, per side. Windows begin at multiples of these pixels, so that their logits lie on one grid.
        patch_height, patch_width = geometry.pair(model.config.patch_size)
        self.unit = (patch_height // math.gcd(patch_height, 4), patch_width // math.gcd(patch_width, 4))

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image → class numbers `(H, W)`, int64 on the CPU.

        Raises:
            CheckpointError: the model answers NaN.
        """
        views = [(self._scores(image, scale), False) for scale in self.way.scales]
        if self.way.flip:
            mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            views += [(self._scores(mirrored, scale), True) for scale in self.way.scales]
        if not all(bool(torch.isfinite(scores).all()) for scores, _ in views):
            raise CheckpointError(
                "The model answers NaN or infinity: its weights are damaged, or its training went wrong."
            )
        return best_classes([scores.flip(2) if flipped else scores for scores, flipped in views], image.size[::-1])

    def _scores(self, image: Image.Image, scale: float) -> Tensor:
        """Averaged logits of all windows: `(classes, h, w)`, a grid that covers the image exactly."""
        size = self._size(image, scale)
        resample: Any = self.processor.resample  # nearest is 0
        resample = Image.Resampling.BILINEAR if resample is None else resample
        resized = image if image.size == size else image.resize(size, resample)
        features = self.processor(resized, do_resize=False, do_center_crop=False, return_tensors="pt")
        pixels: Tensor = features["pixel_values"][0]
        (height, width), (rows, columns) = self.window, self.unit
        bottom, right = max(height - pixels.shape[1], 0), max(width - pixels.shape[2], 0)
        pixels = F.pad(pixels, (0, right, 0, bottom))  # with the mean colour, as in training
        corners = [
            (top, left)
            for top in window_starts(pixels.shape[1], height, stride_of(height, rows))
            for left in window_starts(pixels.shape[2], width, stride_of(width, columns))
        ]
        total = count = torch.zeros(0)
        for first in range(0, len(corners), self.way.batch_size):
            some = corners[first : first + self.way.batch_size]
            windows = torch.stack([pixels[:, top : top + height, left : left + width] for top, left in some])
            logits = self.model(windows.to(self.model.device)).logits.float()
            h, w = logits.shape[2:]
            if first == 0:
                shape = pixels.shape[1] * h // height, pixels.shape[2] * w // width
                total, count = logits.new_zeros(logits.shape[1], *shape), logits.new_zeros(shape)
            for (top, left), scores in zip(some, logits, strict=True):
                here = slice(top * h // height, top * h // height + h), slice(left * w // width, left * w // width + w)
                total[:, *here] += scores
                count[here] += 1
        total /= count
        used = size[1] * total.shape[1] // pixels.shape[1], size[0] * total.shape[2] // pixels.shape[2]
        return total[:, : used[0], : used[1]]

    def _size(self, image: Image.Image, scale: float) -> tuple[int, int]:
        """(width, height) in whole units, to which the image is resized."""
        height, width = self.window
        if self.way.mode == "whole":
            return width, height
        short_side = (self.way.short_side or min(self.window)) * scale
        return fitted_size(image.size, short_side, math.lcm(*self.unit))


def best_classes(views: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Scores of one picture at several sizes `(classes, h, w)` → the class of the highest mean probability.

    Each is enlarged to `size` (height, width), bilinear, corners not aligned; a band of rows at a time, since all classes of
    a photograph would need gigabytes.

    Returns:
        int64 `size`, on the CPU.
    """
    height, width = size
    rows = max(_BAND // (len(views[0]) * width), 1)
    best = torch.empty(size, dtype=torch.int64)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        total: Tensor | None = None
        for scores in views:
            band = enlarged_rows(scores, height, top, bottom)
            band = F.interpolate(band[None], size=(bottom - top, width), mode="bilinear", align_corners=False)[0]
            if len(views) > 1:
                band = band.softmax(0)
            total = band if total is None else total.add_(band)
        assert total is not None
        best[top:bottom] = total.max(0).indices  # faster than argmax
    return best


def enlarged_rows(scores: Tensor, height: int, top: int, bottom: int) -> Tensor:
    """Rows `top` to `bottom` of `(classes, h, w)` enlarged to `(classes, height, w)`, bilinear along this one axis."""
    have = scores.shape[1]
    place = (torch.arange(top, bottom, device=scores.device, dtype=torch.float64) + 0.5) * (have / height) - 0.5
    place = place.clamp(0, have - 1)
    low = place.long()
    part = (place - low).to(scores.dtype)[:, None]
    high = (low + 1).clamp(max=have - 1)
    return scores[:, low] * (1 - part) + scores[:, high] * part

"""From an image of any size to a label map of that size, by a PyTorch model of one size.

image → for each scale and flip: resized, cut into windows → logits of the windows, averaged where they overlap (for all
classes, about a quarter of the image's size) → in bands of rows: enlarged to the image's size, softmax, sum → best class
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from beit.core import geometry
from beit.core.errors import InputError
from beit.data.processor import BeitImageProcessor
from beit.data.transforms.segmentation import fitted_size
from beit.inference.checks import require_finite
from beit.inference.sliding_window import DEFAULT_WINDOW, SlidingWindow, stride_of, window_starts
from beit.models.torch.segmentation import BeitForSemanticSegmentation

# Scores at full size that are held at once, about: 8 MiB of float32, which fit into a processor's cache.
_BAND = 1 << 21


class Segmenter:
    """Segments images of any size.

    Args:
        model: put into evaluation mode; it stays on its device.
        processor: gives the resampling filter, scale, mean and standard deviation of the pixels.
        sliding_window: how images are brought to the model.
    """

    def __init__(
        self,
        model: BeitForSemanticSegmentation,
        processor: BeitImageProcessor,
        sliding_window: SlidingWindow = DEFAULT_WINDOW,
    ) -> None:
        self.model, self.processor, self.sliding_window = model.eval(), processor, sliding_window
        self.window = geometry.pair(model.config.image_size)
        # There are four logits per patch and side. Windows begin at multiples of `unit` pixels, where a logit begins too:
        # the logits of all windows then lie on one grid and can be averaged without resampling.
        patch_height, patch_width = geometry.pair(model.config.patch_size)
        self.unit = (patch_height // math.gcd(patch_height, 4), patch_width // math.gcd(patch_width, 4))

    @torch.inference_mode()
    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        """The class number of each pixel.

        Args:
            image: a PIL image, or an array uint8 `(H, W)` or `(H, W, 3)`.

        Returns:
            int64 `(H, W)` on the CPU.

        Raises:
            InputError: an array of another type or shape.
            CheckpointError: the model answers NaN or infinity.
        """
        image = _as_rgb(image)
        scales = self.sliding_window.scales
        views = [(self._scores(image, scale), False) for scale in scales]
        if self.sliding_window.flip:
            mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            views += [(self._scores(mirrored, scale), True) for scale in scales]
        require_finite(all(bool(torch.isfinite(scores).all()) for scores, _ in views))
        return best_classes([scores.flip(2) if flipped else scores for scores, flipped in views], image.size[::-1])

    def _scores(self, image: Image.Image, scale: float) -> Tensor:
        """Logits averaged over all windows: `(classes, h, w)`, a grid that covers the image exactly."""
        size = self._size(image, scale)
        resample: Any = self.processor.resample
        resample = Image.Resampling.BILINEAR if resample is None else resample  # not `or`: 0 is the nearest neighbour
        resized = image if image.size == size else image.resize(size, resample)
        features = self.processor(resized, do_resize=False, do_center_crop=False, return_tensors="pt")
        pixels: Tensor = features["pixel_values"][0]
        (height, width), (rows, columns) = self.window, self.unit
        # An image smaller than the window is padded with 0, the mean colour, as in training.
        bottom, right = max(height - pixels.shape[1], 0), max(width - pixels.shape[2], 0)
        pixels = F.pad(pixels, (0, right, 0, bottom))
        corners = [
            (top, left)
            for top in window_starts(pixels.shape[1], height, stride_of(height, rows))
            for left in window_starts(pixels.shape[2], width, stride_of(width, columns))
        ]
        total = count = torch.zeros(0)
        for first in range(0, len(corners), self.sliding_window.batch_size):
            some = corners[first : first + self.sliding_window.batch_size]
            windows = torch.stack([pixels[:, top : top + height, left : left + width] for top, left in some])
            logits = self.model(windows.to(self.model.device)).logits.float()
            h, w = logits.shape[2:]
            if first == 0:  # only now the size of the logits is known
                shape = pixels.shape[1] * h // height, pixels.shape[2] * w // width
                total, count = logits.new_zeros(logits.shape[1], *shape), logits.new_zeros(shape)
            for (top, left), scores in zip(some, logits, strict=True):
                here = slice(top * h // height, top * h // height + h), slice(left * w // width, left * w // width + w)
                total[:, *here] += scores
                count[here] += 1
        total /= count
        used = size[1] * total.shape[1] // pixels.shape[1], size[0] * total.shape[2] // pixels.shape[2]
        return total[:, : used[0], : used[1]]  # without the padding

    def _size(self, image: Image.Image, scale: float) -> tuple[int, int]:
        """(width, height) to which the image is resized, in multiples of `unit`."""
        height, width = self.window
        if self.sliding_window.mode == "whole":
            return width, height
        short_side = (self.sliding_window.short_side or min(self.window)) * scale
        return fitted_size(image.size, short_side, math.lcm(*self.unit))


def _as_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)) or image.ndim < 2:
        raise InputError(
            f"Got an image {image.shape} of {image.dtype}; wanted uint8 (height, width) or (height, width, 3)."
        )
    return Image.fromarray(image).convert("RGB")


def best_classes(views: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The class with the highest mean probability over several views of one image.

    Each view is enlarged to `size`, bilinear, corners not aligned, in bands of rows: the scores of all classes of a photograph
    would take gigabytes.

    Args:
        views: logits `(classes, h, w)`, each at its own size.
        size: (height, width).

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
            if len(views) > 1:  # softmax does not change which class of one view is best
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
    weight = (place - low).to(scores.dtype)[:, None]
    high = (low + 1).clamp(max=have - 1)
    return scores[:, low] * (1 - weight) + scores[:, high] * weight

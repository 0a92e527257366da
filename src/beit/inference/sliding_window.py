"""How an image of any size is brought to a model of one size: by sliding windows, at several scales, mirrored."""

from __future__ import annotations

import math
from dataclasses import dataclass

from beit.core.errors import ConfigError


@dataclass(frozen=True)
class SlidingWindow:
    """How an image is brought to a segmentation model.

    Attributes:
        mode: `slide`: the image is resized to `short_side`, keeping its proportions, and windows of the model's size slide
            over it, two thirds of their size at a time. `whole`: the whole image is resized to the model's size.
        short_side: shorter side of the resized image in pixels; the model's image size if None.
        scales: the image is segmented at each of these factors, and the probabilities are averaged.
        flip: average with the probabilities of the mirrored image too.
        batch_size: windows per forward pass.

    Raises:
        ConfigError: a value is impossible.
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
            raise ConfigError("scales are for --mode slide: the whole image is always resized to the model's size.")
        for name in ("short_side", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")


DEFAULT_WINDOW = SlidingWindow()


def stride_of(size: int, unit: int) -> int:
    """Pixels from one window to the next: two thirds of their size, rounded down to whole logits (at 512: 341 → 340)."""
    return max(size * 2 // 3 // unit, 1) * unit


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows that cover `length` pixels; the last window is moved back to end with the image."""
    count = max(math.ceil((length - window) / stride), 0) + 1
    return [max(min(i * stride, length - window), 0) for i in range(count)]

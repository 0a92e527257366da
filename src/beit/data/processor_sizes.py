"""The sizes and filters that the image processor accepts, and which part of an image a resize and a crop keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from beit.core.errors import ConfigError, InputError

MAX_SIDE = 50_000  # pixels; an image of this side squared would take 30 GB
MAX_CHANNELS = 1024
_MOST_PIXELS = 1 << 26  # of an image that keeps its proportions: a strip of one pixel's width would have billions


def size_dict(size: Any, name: str) -> dict[str, int]:
    """A size in any accepted form → {"height", "width"}, {"shortest_edge"} or {"shortest_edge", "longest_edge"}.

    Args:
        size: one length for a square, a pair (height, width), or a dict with these keys; in pixels.
        name: of the setting, for messages.

    Raises:
        ConfigError: it is none of these, or not in whole pixels above 0.
    """
    if isinstance(size, Mapping):
        sizes = {key: value for key, value in size.items() if value is not None}
    else:
        pair = size if isinstance(size, (list, tuple)) else (size, size)
        sizes = {"height": pair[0], "width": pair[1]} if len(pair) == 2 else {}
    known = set(sizes) in ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})
    if not known or not all(_is_side(value) for value in sizes.values()):
        wanted = f'a dict {{"height": …, "width": …}} or {{"shortest_edge": …}}, in whole pixels below {MAX_SIDE:,}'
        raise ConfigError(f"{name} is {size!r:.100}; give one length for a square, (height, width), or {wanted}")
    return {key: int(value) for key, value in sizes.items()}


def _is_side(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(0 < value < MAX_SIDE)


def number(value: Any, name: str) -> float:
    """A setting that is a number. Raises ConfigError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r:.60}; wanted a number")
    return float(value)


def channel_values(value: Any, name: str) -> float | list[float]:
    """A number, or a list with one for each channel. Raises ConfigError for anything else."""
    values = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(values, Sequence) and not isinstance(values, str):
        if not 0 < len(values) <= MAX_CHANNELS:
            raise ConfigError(f"{name} has {len(values)} values; wanted one for each channel, {MAX_CHANNELS} at most")
        return [number(one, name) for one in values]
    return number(values, name)


def resampling_filter(value: Any) -> Image.Resampling | None:
    """A Pillow filter, given as enum member, number or name; None stays None. Raises InputError for others."""
    known: dict[Any, Image.Resampling] = {key: f for f in Image.Resampling for key in (f.name, f.value)}
    value = getattr(value, "value", value)
    key = value.upper() if isinstance(value, str) else value
    if key is not None and (not isinstance(key, str | int) or isinstance(key, bool) or key not in known):
        raise InputError(f"resample is {value!r:.60}; use one of {', '.join(map(str, known))}")
    return known.get(key)


def target_size(size: dict[str, int], width: int, height: int) -> tuple[int, int]:
    """(width, height) to which an image of this width and height is resized; `size` as `size_dict` returns it.

    Raises:
        InputError: the image is so long and thin that it would become an image of too many pixels.
    """
    if "height" in size:
        return size["width"], size["height"]
    edge = size["shortest_edge"]
    other = int(edge * max(width, height) / min(width, height))
    limit = size.get("longest_edge", other)
    if other > limit:
        edge, other = max(1, int(limit * edge / other)), limit
    if edge * other > max(_MOST_PIXELS, width * height):
        raise InputError(
            f"an image of {width:,} x {height:,} pixels would have {edge * other:,} pixels where its shorter side has {edge}; "
            f"wanted at most {_MOST_PIXELS:,}. Crop it, or resize it to a height and a width"
        )
    return (edge, other) if width <= height else (other, edge)


def centred_window(size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """(left, top) of a centred window (width, height) in an image of `size` (width, height); negative where it is larger.

    Where the difference is odd, the reference rounds both halves down and loses a row; here the window keeps its size.
    """
    left, top = ((h - w) // 2 if w <= h else -((w - h) // 2) for h, w in zip(size, window, strict=True))
    return left, top


@lru_cache(maxsize=512)
def box_of_crop(
    source: tuple[int, int], size: tuple[int, int], corner: tuple[int, int], window: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """The part of an image that a crop of the resized image shows, if resizing this part alone gives the same bits.

    That saves the work on what the crop cuts off: a fifth at 256 → 224.

    Two things must agree. Pillow's filter weights follow from (left + i + ½)·scale in floating point; they are the same
    where these products are exact, as with any whole size over 256. And Pillow's two passes, over rows and over columns, must
    come in the same order, which Pillow ≥ 13 chooses by the sizes (src/libImaging/Resample.c).

    Args:
        source: (width, height) of the image.
        size: (width, height) after the resize.
        corner: (left, top) of the crop in the resized image.
        window: (width, height) of the crop.

    Returns:
        left, top, right, bottom in pixels of the source; None where the whole image must be resized.
    """
    scales = [old / new for old, new in zip(source, size, strict=True)]
    # A multiple of 1/4096 times a place below 4096 is exact in float64. Where a side keeps its length, Pillow leaves out its
    # pass for the whole image, but perhaps not for a part of it.
    exact = all(
        old <= 4096 and old != new and (scale * 4096).is_integer()
        for old, new, scale in zip(source, size, scales, strict=True)
    )
    inside = all(c >= 0 and c + w <= n for c, w, n in zip(corner, window, size, strict=True))

    # Values are rounded to 8 bits between the passes, so their order counts. Pillow 13 goes along the columns first where that
    # removes more than twice as many pixels.
    def rows_first(to: tuple[int, int]) -> bool:
        fewer = source[1] - to[1]
        return not (fewer > 0 and fewer > 2 * (source[0] - to[0]))

    if not exact or not inside or rows_first(size) != rows_first(window):
        return None
    (left, top), (width, height), (x, y) = corner, window, scales
    return left * x, top * y, (left + width) * x, (top + height) * y

"""The sizes and filters that a processor accepts, and which part of an image a resize and a crop keep."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from beit.core.errors import ConfigError, InputError


def size_dict(size: Any, name: str) -> dict[str, int]:
    """A size in any of the accepted forms → {"height", "width"}, {"shortest_edge"} or that with {"longest_edge"}."""
    if isinstance(size, Mapping):
        sizes = {key: value for key, value in size.items() if value is not None}
    else:
        pair = size if isinstance(size, (list, tuple)) else (size, size)
        sizes = {"height": pair[0], "width": pair[1]} if len(pair) == 2 else {}
    known = set(sizes) in ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})
    if not known or not all(isinstance(v, (int, np.integer)) and v is not True and v > 0 for v in sizes.values()):
        wanted = 'a dict {"height": …, "width": …} or {"shortest_edge": …}, in whole pixels'
        raise ConfigError(f"{name} is {size!r}; give one length for a square, (height, width), or {wanted}")
    return {key: int(value) for key, value in sizes.items()}


def target_size(size: dict[str, int], width: int, height: int) -> tuple[int, int]:
    """(width, height) after the resize of a picture of this width and height."""
    if "height" in size:
        return size["width"], size["height"]
    edge = size["shortest_edge"]
    other = int(edge * max(width, height) / min(width, height))
    limit = size.get("longest_edge", other)
    if other > limit:
        edge, other = max(1, int(limit * edge / other)), limit
    return (edge, other) if width <= height else (other, edge)


@lru_cache(maxsize=512)
def box_of_crop(
    source: tuple[int, int], size: tuple[int, int], corner: tuple[int, int], window: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """The part of `source` that a crop of the resized picture comes from, when resizing it alone gives the same bits.

    That saves the work on what is cut off, a fifth at 256 → 224. Pillow's filter weights follow from (left + i + ½)·scale
    in floating point: they are the same where these products are exact, as with any whole size over 256. And its two
    passes must come in the same order, which Pillow ≥ 13 chooses by the sizes (src/libImaging/Resample.c).

    Args:
        source: (width, height) of the picture.
        size: (width, height) after the resize.
        corner: (left, top) of the crop.
        window: (width, height) of the crop.

    Returns:
        left, top, right, bottom in pixels of the source; None where the whole picture must be resized.
    """
    scales = [old / new for old, new in zip(source, size, strict=True)]
    exact = all(
        old <= 4096 and old != new and (scale * 4096).is_integer()
        for old, new, scale in zip(source, size, scales, strict=True)
    )
    inside = all(c >= 0 and c + w <= n for c, w, n in zip(corner, window, size, strict=True))

    def rows_first(to: tuple[int, int]) -> bool:
        fewer = source[1] - to[1]
        return not (fewer > 0 and fewer > 2 * (source[0] - to[0]))

    if not exact or not inside or rows_first(size) != rows_first(window):
        return None
    (left, top), (width, height), (x, y) = corner, window, scales
    return left * x, top * y, (left + width) * x, (top + height) * y


def resampling_filter(value: Any) -> Image.Resampling | None:
    """A filter given as enum member, number or name; None stays None."""
    known: dict[Any, Image.Resampling] = {key: f for f in Image.Resampling for key in (f.name, f.value)}
    value = getattr(value, "value", value)
    key = value.upper() if isinstance(value, str) else value
    if key is not None and key not in known:
        raise InputError(f"resample is {value!r}; use one of {', '.join(map(str, known))}")
    return known.get(key)

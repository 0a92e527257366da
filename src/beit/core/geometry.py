"""Patch grids and the relative-position index. Numpy only."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from beit.core.errors import ConfigError

Size = int | tuple[int, int]


def pair(size: Size | list[int]) -> tuple[int, int]:
    """`16` → `(16, 16)`; `(h, w)` stays."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def patch_grid(image_size: Size, patch_size: Size) -> tuple[int, int]:
    """Number of patches `(h, w)` of an image of `image_size` pixels.

    Raises:
        ConfigError: a side is not a multiple of the patch, or smaller than it.
    """
    image, patch = pair(image_size), pair(patch_size)
    if min(patch) < 1 or any(side < p or side % p for side, p in zip(image, patch, strict=True)):
        low = [max(side // max(p, 1), 1) * max(p, 1) for side, p in zip(image, patch, strict=True)]
        raise ConfigError(
            f"image_size {image[0]}x{image[1]} is not a multiple of patch_size {patch[0]}x{patch[1]}. "
            f"Choose an image size such as {low[0]}x{low[1]}, or another patch size."
        )
    return image[0] // patch[0], image[1] // patch[1]


def num_relative_distances(grid: tuple[int, int]) -> int:
    """Rows of a relative-position table: one per displacement (dy, dx), and 3 for the cls token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def cubic_weights(places: np.ndarray, length: int) -> np.ndarray:
    """Weights by which a line of `length` pixels is read at fractional `places`: Keys' cubic convolution with a = -0.75.

    PyTorch and OpenCV use the same. Beyond the border, the border pixel is repeated.

    Args:
        places: any shape `(…)`, in pixels from the first one.
        length: number of pixels.

    Returns:
        float32 `(…, length)`; each row sums to 1.
    """
    a = -0.75
    before = np.floor(places).astype(np.int64)
    fraction = places - before
    weights = np.zeros((places.size, length), np.float32)
    row = np.arange(places.size)
    for offset in (-1, 0, 1, 2):
        d = np.abs(fraction - offset)
        # The two pieces of the kernel, for d up to 1 and up to 2.
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((d - 5) * d + 8) * d * a - 4 * a
        # At a border several of the four neighbours are the same pixel, whose weights add up.
        weights[row, np.clip(before + offset, 0, length - 1).reshape(-1)] += np.where(d <= 1, near, far).reshape(-1)
    return weights.reshape(*places.shape, length)


@lru_cache(maxsize=32)
def relative_position_index(grid: tuple[int, int]) -> np.ndarray:
    """Row of the relative-position table for every pair (query token, key token), cls token first.

    For patches the row is (dy + h-1)·(2w-1) + (dx + w-1), with (dy, dx) = query - key. The last three rows are
    cls→patch, patch→cls and cls→cls, in this order (microsoft/unilm, beit/modeling_finetune.py).

    Returns:
        int64 `(1 + h·w, 1 + h·w)`, read-only, values in [0, num_relative_distances).
    """
    height, width = grid
    y, x = (axis.ravel() for axis in np.mgrid[:height, :width])
    dy = y[:, None] - y[None, :] + height - 1
    dx = x[:, None] - x[None, :] + width - 1
    rows = num_relative_distances(grid)
    index = np.empty((1 + height * width,) * 2, dtype=np.int64)
    index[1:, 1:] = dy * (2 * width - 1) + dx
    index[0, :] = rows - 3
    index[:, 0] = rows - 2
    index[0, 0] = rows - 1
    index.flags.writeable = False  # the cache hands the same array to every caller
    return index

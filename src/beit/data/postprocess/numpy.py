"""The best class of each pixel, from numpy scores. The twin of `torch.py`."""

from __future__ import annotations

import numpy as np


def best_class(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize the scores of one image (bilinear, corners not aligned) and take the best class, one class at a time.

    Args:
        scores: `(labels, h, w)`.
        size: (height, width) of the result in pixels.

    Returns:
        int64 `(height, width)`. Of equal scores the first class wins.
    """
    (y0, y1, wy), (x0, x1, wx) = (_bilinear(have, want) for have, want in zip(scores.shape[1:], size, strict=True))
    best, index = np.full(size, -np.inf, np.float32), np.zeros(size, np.int64)
    for label, plane in enumerate(scores.astype(np.float32)):
        # Bilinear interpolation in one pass over rows and one over columns.
        rows = plane[y0] * (1 - wy)[:, None] + plane[y1] * wy[:, None]  # (height, w)
        value = rows[:, x0] * (1 - wx) + rows[:, x1] * wx  # (height, width)
        index[value > best] = label
        np.fmax(best, value, out=best)
    return index


def _bilinear(have: int, want: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `want` outputs: the two of `have` inputs that it lies between, and the weight of the second."""
    place = np.clip((np.arange(want) + 0.5) * (have / want) - 0.5, 0, have - 1)
    low = place.astype(np.int64)
    return low, np.minimum(low + 1, have - 1), (place - low).astype(np.float32)

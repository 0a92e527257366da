"""Positions for images of another size than the model was trained on. Numpy only.

Both kinds of resizing are linear and separable, so each is one matrix per axis, which numpy, PyTorch and JAX multiply alike.

Absolute positions are resized like an image, bicubically. Relative positions belong to displacements between patches. Small
displacements must keep their meaning in patches; only large ones may be stretched. So the authors place the old displacements
0, 1, 2, … at 0, 1, 1+q, 1+q+q², …, with q such that the last one falls on the new last one, and evaluate a cubic spline
through them at whole numbers (microsoft/unilm, beit/run_class_finetuning.py, with SciPy's interp2d, since removed from SciPy).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from beit.core import geometry

Grid = tuple[int, int]
OTHERS = 3  # rows of a table for the cls token, which are no displacements
_STEP = 1e-6  # the authors compute q to this accuracy; other digits of q would give other tables


def resize_positions(positions: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """Resize absolute positions `(1, 1+h·w, C)` from the grid `old` to `new`; the cls token's position stays."""
    if old == new:
        return positions
    rows, columns = (bicubic_weights(have, want).astype(np.float64) for have, want in zip(old, new, strict=True))
    patches = positions[0, 1:].reshape(*old, -1).astype(np.float64)
    patches = np.einsum("yh,xw,hwc->yxc", rows, columns, patches, optimize=True)
    flat = patches.reshape(1, -1, positions.shape[2]).astype(positions.dtype)
    return np.concatenate((positions[:, :1], flat), axis=1)


def resize_table(table: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """Resize a relative-position table `((2h-1)(2w-1)+3, heads)` from the grid `old` to `new`; the cls token's rows stay."""
    if old == new:
        return table
    rows, columns = (table_weights(have, want).astype(np.float64) for have, want in zip(old, new, strict=True))
    displacements = table[:-OTHERS].reshape(2 * old[0] - 1, 2 * old[1] - 1, -1).astype(np.float64)
    displacements = np.einsum("yh,xw,hwc->yxc", rows, columns, displacements, optimize=True)
    flat = displacements.reshape(-1, table.shape[1]).astype(table.dtype)
    return np.concatenate((flat, table[-OTHERS:]))


@lru_cache(maxsize=64)
def bicubic_weights(have: int, want: int) -> np.ndarray:
    """Weights `(want, have)` of PyTorch's bicubic interpolation: edges repeated, no antialiasing; float32, read-only."""
    weights = geometry.cubic_weights((np.arange(want) + 0.5) * (have / want) - 0.5, have)
    weights.flags.writeable = False
    return weights


@lru_cache(maxsize=64)
def table_weights(have: int, want: int) -> np.ndarray:
    """Weights `(2·want-1, 2·have-1)` of the displacements along one axis, from `have` patches to `want`; float32, read-only.

    Growing is the authors' method. Their code does not provide for shrinking (its q never falls below 1.01, so large
    displacements are cut off). Here shrinking is the inverse of growing: the spline through the old displacements is evaluated
    where growing from `want` to `have` would have placed the new ones.
    """
    if want >= have:
        known, read = _places(have, want), np.arange(1 - want, want, dtype=np.float64)
    else:
        known, read = np.arange(1 - have, have, dtype=np.float64), _places(want, have)
    # Beyond the last known displacement the spline would diverge, so it is held at its last value.
    weights = _spline(known, np.clip(read, known[0], known[-1])).astype(np.float32)
    weights.flags.writeable = False
    return weights


def growth(have: int, want: int) -> float:
    """q, the ratio of successive steps between displacements: 1 + q + q² + … (`have`-1 terms) = `want`-1.

    Found by bisection in the authors' interval [1.01, 1.5], or in a wider one where the solution is outside.
    """
    terms, sum_ = have - 1, want - 1

    def longer(q: float) -> bool:
        return terms * 1.0 > sum_ if q == 1 else (1 - q**terms) / (1 - q) > sum_

    low, high, step = 1.01, 1.5, _STEP
    if longer(low) or not longer(high):  # outside the authors' interval
        low, high, step = 1.0, 2.0, 1e-12
        while not longer(high) and high < 1e6 and terms > 1:
            high *= 2
    middle = high
    while high - low > step:
        middle = (low + high) / 2
        low, high = (low, middle) if longer(middle) else (middle, high)
    return middle


def _places(have: int, want: int) -> np.ndarray:
    """The places of the displacements `-(have-1)` … `have-1` among those of the larger grid `want`."""
    if have == want:
        return np.arange(1 - have, have, dtype=np.float64)
    positive = np.cumsum(growth(have, want) ** np.arange(have - 1)) if have > 1 else np.empty(0)
    return np.concatenate((-positive[::-1], [0.0], positive))


def _spline(known: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Weights `(len(read), len(known))` by which a cubic spline through values at `known` is evaluated at `read`.

    The ends are not-a-knot, as in FITPACK. Through fewer than four values goes a polynomial.
    """
    count = len(known)
    if count < 4:
        powers = np.arange(count)
        return read[:, None] ** powers @ np.linalg.inv(known[:, None] ** powers)
    # The unknowns are the second derivatives m at the known places. Slopes are continuous at the inner places (n-2 equations), and
    # at each end the third derivative is continuous through the place before the last, as if that were no knot.
    step = np.diff(known)
    left, right = np.zeros((count, count)), np.zeros((count, count))
    for i in range(1, count - 1):
        left[i, i - 1 : i + 2] = step[i - 1], 2 * (step[i - 1] + step[i]), step[i]
        right[i, i - 1 : i + 2] = 6 / step[i - 1], -6 / step[i - 1] - 6 / step[i], 6 / step[i]
    left[0, :3] = step[1], -step[0] - step[1], step[0]
    left[-1, -3:] = step[-1], -step[-1] - step[-2], step[-2]
    m = np.linalg.solve(left, right)

    piece = np.clip(np.searchsorted(known, read, side="right") - 1, 0, count - 2)
    width, after = step[piece][:, None], ((read - known[piece]) / step[piece])[:, None]
    before = 1 - after
    values = np.eye(count)
    bent = (before**3 - before) * m[piece] + (after**3 - after) * m[piece + 1]
    return before * values[piece] + after * values[piece + 1] + width**2 / 6 * bent

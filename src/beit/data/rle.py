"""COCO's run-length encoded masks: as a list of counts, or as their compressed text; by columns from the top left."""

from __future__ import annotations

from typing import Any

import numpy as np

from beit.core.errors import DataError

_LONGEST = 7  # characters of five bits each in one number


def run_lengths(counts: Any, size: tuple[int, int]) -> np.ndarray:
    """The lengths of the runs of a mask, of zeros and ones in turn, beginning with zeros: int64 `(n,)`.

    Args:
        counts: a list of numbers, or the text that pycocotools compresses them to.
        size: (height, width) of the mask.

    Raises:
        DataError: they are damaged, or their sum is not the number of pixels.
    """
    if isinstance(counts, str):
        runs = _uncompressed(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        try:
            runs = np.array(counts, np.int64)
        except OverflowError as error:
            raise DataError("run lengths that are too large") from error
    else:
        raise DataError("run lengths that are neither a list of whole numbers nor text")
    if len(runs) and (runs.min() < 0 or runs.max() > size[0] * size[1]):
        raise DataError("run lengths below 0 or beyond the mask")
    if runs.sum() != size[0] * size[1]:
        raise DataError(f"run lengths of {runs.sum()} pixels for a mask of {size[0]}x{size[1]}")
    return runs


def mask_of(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Run lengths, as `run_lengths` gives them → bool `(height, width)`."""
    ones = np.arange(len(runs)) % 2 == 1
    return np.repeat(ones, runs).reshape(size[1], size[0]).T


def _uncompressed(text: str) -> np.ndarray:
    """The numbers in a compressed text: characters of five bits, lowest first, after 48; from the fourth number on, differences
    to the number before the last."""
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    last = codes & 32 == 0  # of a number
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not last[-1]:
        raise DataError("compressed run lengths that are damaged")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        raise DataError("compressed run lengths that are damaged")
    within = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << 5 * within, starts)
    numbers -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers

"""Are the probabilities of a classifier to be trusted: cross-entropy, calibration error, and a temperature. numpy.

Rows are worked through in blocks, so that float64 copies of many logits do not fill the memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 15
_BLOCK = 1 << 20  # numbers that are held in float64 at once: 8 MiB
_COLDEST, _HOTTEST = 0.01, 100.0


@dataclass(frozen=True)
class Calibration:
    """How often answers are right that the model gives a certain probability.

    Attributes:
        ece: expected calibration error, in [0, 1] (Guo et al. 2017, arXiv 1706.04599). Answers are sorted by the probability p
            of the predicted class into 15 bins of equal width, bin b for (b - 1)/15 < p ≤ b/15. The error is the mean over all
            images of |fraction that is right - mean p| of their bin.
        counts: images of each bin, `(15,)`.
        confidence: mean p of each bin, `(15,)`; 0 in an empty one.
        right: images of each bin that are right, `(15,)`.
    """

    ece: float
    counts: np.ndarray
    confidence: np.ndarray
    right: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """The bins, as JSON holds them."""
        return {
            "counts": self.counts.tolist(),
            "confidence": self.confidence.tolist(),
            "right": self.right.tolist(),
        }


def calibration(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Calibration:
    """The calibration of `softmax(logits / temperature)`.

    Args:
        logits: `(n, classes)`.
        labels: class numbers `(n,)`.
        temperature: above 0.
    """
    top = np.concatenate(
        [np.exp(rows.max(1) - _log_sum(rows)) for _, rows in _blocks(logits, 1 / temperature)] or [np.zeros(0)]
    )
    return calibration_of(top, logits.argmax(1) == labels)


def calibration_of(confidence: np.ndarray, right: np.ndarray) -> Calibration:
    """The calibration of answers with probabilities `confidence (n,)` of which those in `right (n,)` are right."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = np.bincount(bins, confidence, minlength=BINS)
    hits = np.bincount(bins, right, minlength=BINS)
    ece = float(np.abs(hits - sums).sum() / max(len(confidence), 1))
    return Calibration(ece, counts, sums / np.maximum(counts, 1), hits.astype(np.int64))


def cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the true classes under `softmax(logits / temperature)`, in nats; 0 without images."""
    total = 0.0
    for first, rows in _blocks(logits, 1 / temperature):
        own = rows[np.arange(len(rows)), labels[first : first + len(rows)]]
        total += float((_log_sum(rows) - own).sum())
    return total / max(len(logits), 1)


def binary_cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    """Mean over images and classes of the negative log-likelihood under sigmoids, in nats; 0 without images.

    Args:
        logits: `(n, classes)`.
        truth: bool `(n, classes)`: which classes each image has.
    """
    total = 0.0
    for first, rows in _blocks(logits, 1.0):
        signs = np.where(truth[first : first + len(rows)], -1.0, 1.0)
        total += float(np.logaddexp(0, signs * rows).sum())
    return total / max(logits.size, 1)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """The temperature T with the least cross-entropy of `softmax(logits / T)` on these images.

    The cross-entropy is convex in 1/T, so its slope is brought to 0 by Newton's method, kept within a bracket by bisection.

    Args:
        logits: `(n, classes)`.
        labels: class numbers `(n,)`.

    Returns:
        T; None where the least lies beyond [0.01, 100]: when all answers are right it falls for ever as T goes to 0, and when
        the answers are no better than chance it falls for ever as T grows.
    """
    low, high = 1 / _HOTTEST, 1 / _COLDEST  # of 1/T
    if not len(logits) or (logits.argmax(1) == labels).all():  # the slope is below 0 for ever, and soon rounds to it
        return None
    if _slope(logits, labels, high)[0] < 0 or _slope(logits, labels, low)[0] > 0:
        return None
    beta = 1.0
    for _ in range(60):
        slope, curvature = _slope(logits, labels, beta)
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / curvature if curvature > 0 else math.inf
        after = step if low < step < high else math.sqrt(low * high)
        if abs(after - beta) <= 1e-7 * beta:
            break
        beta = after
    return 1 / beta


def _slope(logits: np.ndarray, labels: np.ndarray, beta: float) -> tuple[float, float]:
    """First and second derivative of the cross-entropy by 1/T, at 1/T = beta."""
    slope = curvature = 0.0
    for first, rows in _blocks(logits, 1.0):
        scaled = beta * rows
        weights = np.exp(scaled - _log_sum(scaled)[:, None])
        mean = (weights * rows).sum(1)
        slope += float((mean - rows[np.arange(len(rows)), labels[first : first + len(rows)]]).sum())
        curvature += float(((weights * rows * rows).sum(1) - mean * mean).sum())
    return slope / len(logits), curvature / len(logits)


def _blocks(logits: np.ndarray, scale: float) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first row, rows in float64 less their largest, times `scale`), block by block."""
    count = max(_BLOCK // max(logits.shape[1], 1), 1)
    for first in range(0, len(logits), count):
        rows = logits[first : first + count].astype(np.float64)
        yield first, (rows - rows.max(1, keepdims=True)) * scale


def _log_sum(rows: np.ndarray) -> np.ndarray:
    """log Σ exp of each row; the rows' largest value is 0."""
    return np.log(np.exp(rows).sum(1))

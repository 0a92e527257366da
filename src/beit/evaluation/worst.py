"""The images on which a model is most wrong, where its answers are several labels or numbers."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from beit.evaluation.gallery import small_copy

_NAMED = 6  # labels in a sentence


@dataclass(frozen=True)
class Wrong:
    """An image of the evaluation.

    Attributes:
        name: of the image.
        error: how far the answer is from the truth.
        text: both in words.
        picture: at most 192 pixels on the longer side.
    """

    name: str
    error: float
    text: str
    picture: Image.Image


class Worst:
    """Keeps the images with the largest errors as they pass by; of equal ones the earlier.

    Args:
        most: how many to keep.
    """

    def __init__(self, most: int = 12) -> None:
        self.most = most
        self._count = 0
        self._heap: list[tuple[float, int, Wrong]] = []  # the smallest entry is the next to go

    def look_at(
        self, names: Sequence[str], pictures: Sequence[Image.Image], errors: np.ndarray, texts: Sequence[str]
    ) -> None:
        """See a batch: names, pictures, errors `(n,)` and texts of n images."""
        if not self.most:
            return
        for name, picture, error, text in zip(names, pictures, errors.tolist(), texts, strict=True):
            self._count += 1
            full = len(self._heap) >= self.most
            if full and (error, -self._count) < self._heap[0][:2]:
                continue  # before a small copy is made
            entry = (error, -self._count, Wrong(name, error, text, small_copy(picture)))
            (heapq.heappushpop if full else heapq.heappush)(self._heap, entry)

    @property
    def images(self) -> list[Wrong]:
        """The kept images, the largest error first."""
        return [wrong for _, _, wrong in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


def label_errors(logits: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Binary cross-entropy `(n,)` of each image, and which labels are given wrongly or missing by probabilities of one half.

    Args:
        logits: `(n, classes)`.
        truth: bool `(n, classes)`.
        classes: their names.
    """
    errors = np.logaddexp(0, np.where(truth, -1.0, 1.0) * logits.astype(np.float64)).mean(1)
    given = logits > 0
    return errors, [_in_words(a, b, classes) for a, b in zip(given, truth, strict=True)]


def _in_words(given: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> str:
    parts = []
    for title, which in (("right", given & truth), ("wrong", given & ~truth), ("missing", truth & ~given)):
        names = [classes[i] for i in np.flatnonzero(which).tolist()]
        if names:
            parts.append(f"{title}: {', '.join(names[:_NAMED])}" + ", …" * (len(names) > _NAMED))
    return "; ".join(parts) or "no label, as is right"


def number_errors(predictions: np.ndarray, targets: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The largest error of each image, in deviations `(n,)`, and the numbers in words.

    Args:
        predictions: `(n, numbers)`.
        targets: the true numbers, of the same shape.
        deviation: of each number, `(numbers,)`; numbers of different units count the same by it. 0 counts as 1.
    """
    errors = (np.abs(predictions - targets) / np.where(deviation > 0, deviation, 1.0)).max(1)
    rows = zip(predictions[:, :_NAMED], targets[:, :_NAMED], strict=True)
    return errors, ["; ".join(f"{a:.4g}, is {b:.4g}" for a, b in zip(*row, strict=True)) for row in rows]

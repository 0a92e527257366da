"""Scores of classes from a confusion matrix: precision, recall, F1, and intervals of proportions. numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

EVALUATION_FILE = "evaluation.json"


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a proportion, which stays within [0, 1] (Wilson 1927); z = 1.96 for 95 %."""
    if count == 0:
        return 0.0, 1.0
    p = right / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def bootstrap(count: int, score: Callable[[np.ndarray], float], resamples: int = 1000) -> tuple[float, float]:
    """95 % interval of a score of n images by the percentile bootstrap (Efron 1979), always the same for the same images.

    Args:
        count: n.
        score: (how often each image is drawn `(n,)`) → the score; NaN where it is not defined, which is left out.
        resamples: how many times n images are drawn.
    """
    rng = np.random.default_rng(0)
    found = np.array([score(np.bincount(rng.integers(count, size=count), minlength=count)) for _ in range(resamples)])
    found = found[np.isfinite(found)]
    if not len(found):
        return math.nan, math.nan
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Number of classes ranked above the true one, `(n,)`: 0 where the answer is right, below 5 within the top five.

    Of equal logits the first ranks higher, as in argmax.
    """
    own = np.take_along_axis(logits, labels[:, None], 1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(1)


def confusion_of(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts int64 `(classes, classes)`, the true class by row, the predicted one by column."""
    classes = logits.shape[1]
    pairs = labels.astype(np.int64) * classes + logits.argmax(1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ClassScores:
    """How well one class is told from the others; proportions in [0, 1].

    Attributes:
        name: of the class.
        support: number of images of the class.
        predicted: number of images that the model takes for it.
        precision: fraction of the predicted images that are of the class; None when none is predicted.
        precision_interval: 95 % confidence interval (Wilson).
        recall: fraction of the images of the class that are found; None when there are none.
        recall_interval: 95 % confidence interval (Wilson).
        f1: harmonic mean of both, 2 · right / (support + predicted); None for a class that is neither true nor predicted. It
            is no proportion, and has no such interval.
    """

    name: str
    support: int
    predicted: int
    precision: float | None
    precision_interval: tuple[float, float] | None
    recall: float | None
    recall_interval: tuple[float, float] | None
    f1: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def class_scores(confusion: np.ndarray, classes: Sequence[str]) -> list[ClassScores]:
    """The scores of each class.

    Args:
        confusion: counts `(classes, classes)`, the true class by row, the predicted one by column.
        classes: their names.
    """
    rows = []
    supports, predictions = confusion.sum(1).tolist(), confusion.sum(0).tolist()
    for name, right, support, predicted in zip(
        classes, confusion.diagonal().tolist(), supports, predictions, strict=True
    ):
        rows.append(
            ClassScores(
                name=name,
                support=support,
                predicted=predicted,
                precision=right / predicted if predicted else None,
                precision_interval=wilson(right, predicted) if predicted else None,
                recall=right / support if support else None,
                recall_interval=wilson(right, support) if support else None,
                f1=2 * right / (support + predicted) if support + predicted else None,
            )
        )
    return rows


def macro_f1(rows: Sequence[ClassScores]) -> float:
    """The mean F1 of the classes that are true or predicted somewhere; 0 without any."""
    known = [row.f1 for row in rows if row.f1 is not None]
    return sum(known) / len(known) if known else 0.0


def weakest(rows: Sequence[ClassScores], most: int) -> list[ClassScores]:
    """The classes with images that have the lowest F1, the lowest first; of equal ones the earlier."""
    known = [row for row in rows if row.support]
    return sorted(known, key=lambda row: row.f1 or 0.0)[:most]


def confused_pairs(confusion: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """(true class, predicted class, number of images) of the commonest mistakes, the commonest first.

    Args:
        confusion: counts `(classes, classes)`, the true class by row.
        most: how many pairs.
    """
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(true), int(guess), int(wrong[true, guess])) for true, guess in pairs if wrong[true, guess]]

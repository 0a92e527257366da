"""Scores of a model that gives an image several labels: average precision, and a threshold for each class. numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LabelScores:
    """How well one label of several is given.

    Attributes:
        name: of the label.
        support: number of images that have it.
        average_precision: Σ (recall_k - recall_(k-1)) · precision_k over the images sorted by their logit, in [0, 1]; images
            with equal logits count as one step. None when no image has the label.
        threshold: the probability from which on giving the label has the highest F1 on these images; None when no image has it.
        f1_at_threshold: that F1. It was chosen on the same images, so it is optimistic.
        f1_at_half: F1 with a threshold of one half; None when the label is neither true nor given.
    """

    name: str
    support: int
    average_precision: float | None
    threshold: float | None
    f1_at_threshold: float | None
    f1_at_half: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def label_scores(logits: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> list[LabelScores]:
    """The scores of each label.

    Args:
        logits: `(n, classes)`; probabilities are their sigmoids.
        truth: bool `(n, classes)`: which labels each image has.
        classes: their names.
    """
    return [_scores_of(name, logits[:, i].astype(np.float64), truth[:, i]) for i, name in enumerate(classes)]


def mean_average_precision(rows: Sequence[LabelScores]) -> float:
    """mAP: the mean average precision of the labels that an image has; 0 without any."""
    known = [row.average_precision for row in rows if row.average_precision is not None]
    return sum(known) / len(known) if known else 0.0


def _scores_of(name: str, logits: np.ndarray, truth: np.ndarray) -> LabelScores:
    support = int(truth.sum())
    given = logits > 0
    half = 2 * int((given & truth).sum()) / (support + int(given.sum())) if support + int(given.sum()) else None
    if not support:
        return LabelScores(name, 0, None, None, None, half)
    order = np.argsort(-logits, kind="stable")
    ranked = logits[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # the last of equal logits: no threshold lies between them
    hits = np.cumsum(truth[order])[last]
    predicted = np.flatnonzero(last) + 1
    precision, recall = hits / predicted, hits / support
    average = float((np.diff(recall, prepend=0.0) * precision).sum())
    f1 = 2 * hits / (support + predicted)
    best = int(f1.argmax())
    threshold = float(np.exp(-np.logaddexp(0, -ranked[last][best])))
    return LabelScores(name, support, average, threshold, float(f1[best]), half)

"""Scores of a model that gives an image several labels: average precision, and a threshold for each class. numpy."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beit.core.files import write_json
from beit.core.notebook import Shown
from beit.core.text import printable
from beit.evaluation.calibration import binary_cross_entropy
from beit.evaluation.scores import EVALUATION_FILE, bootstrap, wilson

if TYPE_CHECKING:
    from beit.evaluation.worst import Worst

_MOST_BOOTSTRAPPED = 5_000_000  # logits: beyond them an interval would take longer than the scores are worth


@dataclass(repr=False)
class MultiLabelEvaluation(Shown):
    """Scores of a model that gives several labels, on images whose labels are known.

    Attributes:
        count: number of images.
        mean_average_precision: mAP, the mean of the average precisions of the labels that an image has, in [0, 1].
        interval: its 95 % interval by the bootstrap (1,000 resamples of the images, percentiles); None with more than 5 million
            logits, or a single image.
        exact: fraction of the images with exactly the right labels above one half.
        exact_interval: its 95 % interval (Wilson).
        macro_f1: mean F1 of the labels that are true or given somewhere, above one half.
        loss: mean binary cross-entropy of all labels, in nats.
        classes: names of the labels.
        labels: scores of each.
        images_per_second: of the whole way from files to answers.
        skipped: why images were skipped, one line per image.
        worst: images for the report; not saved.
    """

    count: int
    mean_average_precision: float
    interval: tuple[float, float] | None
    exact: float
    exact_interval: tuple[float, float]
    macro_f1: float
    loss: float
    classes: list[str]
    labels: list[LabelScores] = field(repr=False)
    images_per_second: float = 0.0
    skipped: list[str] = field(default_factory=list, repr=False)
    worst: Worst | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        return {
            "problem_type": "multi_label_classification",
            "count": self.count,
            "mean_average_precision": self.mean_average_precision,
            "interval": None if self.interval is None else list(self.interval),
            "exact": self.exact,
            "exact_interval": list(self.exact_interval),
            "macro_f1": self.macro_f1,
            "loss": self.loss,
            "classes": self.classes,
            "labels": [row.to_dict() for row in self.labels],
            "images_per_second": round(self.images_per_second, 1),
            "skipped": self.skipped,
        }

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write evaluation.json."""
        write_json(Path(folder) / EVALUATION_FILE, self.to_dict())

    def shown(self) -> tuple[str, list[tuple[str, ...]]]:
        """As `Shown.shown`."""
        between = "" if self.interval is None else f" ({self.interval[0]:.1%} to {self.interval[1]:.1%})"
        rows = [("mAP", f"{self.mean_average_precision:.1%}{between}"), ("exactly right", f"{self.exact:.1%}")]
        rows += [("macro-F1", f"{self.macro_f1:.1%}"), ("images", str(self.count)), ("labels", str(len(self.classes)))]
        return "MultiLabelEvaluation", list(rows)

    def __str__(self) -> str:
        text = f"mAP {self.mean_average_precision:.1%}"
        if self.interval is not None:
            text += f" (95 % interval {self.interval[0]:.1%} to {self.interval[1]:.1%})"
        return f"{text} on {self.count} images, {len(self.classes)} labels; {self.images_per_second:.0f} images/s"

    def summary(self) -> str:
        """The short form of a report: a few lines with the scores and the weakest labels."""
        low, high = self.exact_interval
        text = (
            f"{self}\nexactly the right labels above one half {self.exact:.1%} ({low:.1%} to {high:.1%}), macro-F1 {self.macro_f1:.1%}, "
            f"binary cross-entropy {self.loss:.3f}"
        )
        known = [row for row in self.labels if row.average_precision is not None]
        weak = sorted(known, key=lambda row: row.average_precision or 0)[:3]
        named = ", ".join(f"{printable(row.name, 40)} {row.average_precision or 0:.1%}" for row in weak)
        return text + (f"\nweakest labels by average precision: {named}" if len(known) > 1 else "")


def multi_label_evaluation(
    logits: np.ndarray,
    truth: np.ndarray,
    classes: Sequence[str],
    *,
    seconds: float = 0.0,
    skipped: Sequence[str] = (),
    worst: Worst | None = None,
) -> MultiLabelEvaluation:
    """The scores of logits.

    Args:
        logits: finite, `(n, classes)`; probabilities are their sigmoids.
        truth: bool `(n, classes)`: which labels each image has.
        classes: their names.
        seconds: how long the n images took.
        skipped: why other images were skipped.
        worst: images for a report.
    """
    count, rows = len(truth), label_scores(logits, truth, classes)
    exact = int(((logits > 0) == truth).all(1).sum())
    return MultiLabelEvaluation(
        count=count,
        mean_average_precision=mean_average_precision(rows),
        interval=map_interval(logits, truth),
        exact=exact / max(count, 1),
        exact_interval=wilson(exact, count),
        macro_f1=macro_f1_of(rows),
        loss=binary_cross_entropy(logits, truth),
        classes=list(classes),
        labels=rows,
        images_per_second=count / seconds if seconds else 0.0,
        skipped=list(skipped),
        worst=worst,
    )


def macro_f1_of(rows: Sequence[LabelScores]) -> float:
    """Mean F1 above one half of the labels that are true or given somewhere; 0 without any."""
    known = [row.f1_at_half for row in rows if row.f1_at_half is not None]
    return sum(known) / len(known) if known else 0.0


def map_interval(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of mAP; see `MultiLabelEvaluation`."""
    if len(truth) < 2 or truth.size > _MOST_BOOTSTRAPPED or not truth.any():
        return None
    order = np.argsort(-logits.astype(np.float64), axis=0, kind="stable")
    hits = np.take_along_axis(truth, order, 0).astype(np.float64)
    ranked = np.take_along_axis(logits, order, 0)
    last = np.ones(hits.shape, bool)
    last[:-1] = ranked[1:] != ranked[:-1]

    def score(draws: np.ndarray) -> float:
        drawn = draws[order]
        weights = hits * drawn
        found, seen = weights.cumsum(0), drawn.cumsum(0)
        precision = np.where(last, found / np.maximum(seen, 1), 0.0)
        # Equal logits are one step: their hits count at the precision behind the last of them.
        if not last.all():
            precision = _backwards(precision, last)
        supports = weights.sum(0)
        known = supports > 0
        return float(((weights * precision).sum(0)[known] / supports[known]).mean()) if known.any() else math.nan

    return bootstrap(len(truth), score)


def _backwards(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Each column with every value that is not known replaced by the next known one below it."""
    rows = np.where(known, np.arange(len(values))[:, None], len(values) - 1)
    return np.take_along_axis(values, np.minimum.accumulate(rows[::-1], 0)[::-1], 0)


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

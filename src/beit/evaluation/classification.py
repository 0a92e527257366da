"""How good a classifier is on labelled images: top-1, top-5, scores of each class, and how far its probabilities are right.

The model is asked in `evaluate.py`; the scores are numpy. `report_classification.py` draws the page about them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from beit.core.files import write_json
from beit.core.notebook import Shown
from beit.core.text import printable
from beit.evaluation.calibration import (
    Calibration,
    binary_cross_entropy,
    calibration,
    cross_entropy,
    fit_temperature,
)
from beit.evaluation.gallery import Gallery
from beit.evaluation.multi_label import LabelScores, label_scores, mean_average_precision
from beit.evaluation.scores import (
    EVALUATION_FILE,
    ClassScores,
    class_scores,
    confusion_of,
    macro_f1,
    ranks,
    weakest,
    wilson,
)

__all__ = ["EVALUATION_FILE", "Evaluation", "confusion_of", "evaluation_of", "ranks", "wilson"]


@dataclass(repr=False)
class Evaluation(Shown):
    """Scores of a classifier on labelled images.

    Attributes:
        count: number of images.
        top1: fraction of the images whose most probable class is right, in [0, 1].
        top5: fraction whose true class is among the five most probable; None with five classes or fewer.
        interval: 95 % confidence interval of top1 (Wilson).
        confusion: counts `(classes, classes)`, the true class by row, the predicted one by column.
        classes: their names.
        images_per_second: of the whole way from files or arrays to predictions.
        skipped: why images were skipped, one line per image.
        exact: of a model that gives several labels (`problem_type`), the fraction of the images of which it gives the true
            class and no other, by probabilities above one half; None for other models. `top1` then says how often the true
            class is the most probable.
        macro_f1: mean F1 of the classes that are true or predicted somewhere, in [0, 1].
        loss: mean negative log-likelihood of the true classes in nats, without label smoothing; of several labels per image the
            mean binary cross-entropy of all classes.
        per_class: precision, recall, F1 and number of images of each class.
        calibration: expected calibration error and its bins; None for several labels per image, or without images.
        temperature: the divisor of the logits with which `loss` would be least on these same images; None where there is none
            (see `fit_temperature`). It is not applied anywhere.
        calibrated: the calibration with that temperature; None without one.
        labels: scores of each label of a model that gives several; None for other models.
        gallery: images for the report; not saved.
    """

    count: int
    top1: float
    top5: float | None
    interval: tuple[float, float]
    confusion: np.ndarray
    classes: list[str]
    images_per_second: float
    skipped: list[str]
    exact: float | None = None
    macro_f1: float = 0.0
    loss: float = 0.0
    per_class: list[ClassScores] = field(default_factory=list, repr=False)
    calibration: Calibration | None = field(default=None, repr=False)
    temperature: float | None = None
    calibrated: Calibration | None = field(default=None, repr=False)
    labels: list[LabelScores] | None = field(default=None, repr=False)
    gallery: Gallery | None = field(default=None, repr=False)

    @property
    def ece(self) -> float | None:
        """Expected calibration error, in [0, 1]; see `Calibration`. None for several labels per image, or without images."""
        return None if self.calibration is None else self.calibration.ece

    @property
    def mean_average_precision(self) -> float | None:
        """mAP of a model that gives several labels, in [0, 1]; None for other models."""
        return None if self.labels is None else mean_average_precision(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        several = {} if self.exact is None else {"exact": self.exact}
        labels: dict[str, Any] = {}
        if self.labels is not None:
            labels = {
                "mean_average_precision": self.mean_average_precision,
                "labels": [row.to_dict() for row in self.labels],
            }
        return {
            **several,
            "count": self.count,
            "top1": self.top1,
            "top5": self.top5,
            "interval": list(self.interval),
            "confusion": self.confusion.tolist(),
            "classes": self.classes,
            "images_per_second": round(self.images_per_second, 1),
            "skipped": self.skipped,
            "macro_f1": self.macro_f1,
            "loss": self.loss,
            "ece": self.ece,
            "temperature": self.temperature,
            "ece_at_temperature": None if self.calibrated is None else self.calibrated.ece,
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "per_class": [row.to_dict() for row in self.per_class],
            **labels,
        }

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write evaluation.json."""
        write_json(Path(folder) / EVALUATION_FILE, self.to_dict())

    def __str__(self) -> str:
        low, high = self.interval
        text = f"top-1 {self.top1:.1%} (95 % interval {low:.1%} to {high:.1%}) on {self.count} images"
        if self.top5 is not None:
            text += f", top-5 {self.top5:.1%}"
        if self.exact is not None:
            text += f"; exactly the true class above one half {self.exact:.1%} (a model of several labels per image)"
        return text + f"; {self.images_per_second:.0f} images/s"

    def shown(self) -> tuple[str, list[tuple[str, ...]]]:
        """As `Shown.shown`: scores with their 95 % intervals, and the weakest classes."""
        low, high = self.interval
        rows: list[tuple[str, ...]] = [("top-1", f"{self.top1:.1%}", f"95 % interval {low:.1%} to {high:.1%}")]
        known = {
            "top-5": self.top5,
            "macro-F1": self.macro_f1,
            "exact": self.exact,
            "mAP": self.mean_average_precision,
            "ECE": self.ece,
        }
        rows += [(name, f"{value:.1%}") for name, value in known.items() if value is not None]
        rows += [
            ("cross-entropy", f"{self.loss:.4g}"),
            ("images", f"{self.count:,}"),
            ("classes", str(len(self.classes))),
        ]
        if self.skipped:
            rows.append(("skipped", str(len(self.skipped))))
        if len(self.classes) > 1:
            rows += [
                (f"F1 of {row.name}", f"{row.f1 or 0:.1%}", "among the weakest") for row in weakest(self.per_class, 3)
            ]
        return "Evaluation", rows

    def summary(self) -> str:
        """The short form of a report: a few lines with the scores, the calibration and the weakest classes."""
        if not self.count:
            return str(self)
        second = f"macro-F1 {self.macro_f1:.1%}, cross-entropy {self.loss:.3f}"
        if self.labels is not None:
            second += f", mAP {mean_average_precision(self.labels):.1%}"
        if self.ece is not None:
            second += f", calibration error (ECE) {self.ece:.1%}"
            if self.temperature is not None and self.calibrated is not None:
                second += f"; {self.calibrated.ece:.1%} with temperature {self.temperature:.2f}, fitted on these images"
        low = weakest(self.per_class, 3)
        named = ", ".join(f"{printable(row.name, 40)} {row.f1 or 0:.1%}" for row in low)
        return f"{self}\n{second}" + (f"\nweakest classes by F1: {named}" if len(self.classes) > 1 else "")


def evaluation_of(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    several: bool = False,
    seconds: float = 0.0,
    skipped: Sequence[str] = (),
    gallery: Gallery | None = None,
) -> Evaluation:
    """The scores of logits that were collected batch by batch: 200 MB of them for 50,000 images and 1,000 classes.

    Args:
        logits: finite, float32 `(n, classes)`.
        labels: class numbers `(n,)` in [0, classes).
        classes: names of the classes.
        several: whether the model gives several labels per image, so that its probabilities are sigmoids.
        seconds: how long the n images took.
        skipped: why other images were skipped, one line per image.
        gallery: images for a report.
    """
    count = len(labels)
    before = ranks(logits, labels)
    top1 = _fraction(before < 1)
    confusion = confusion_of(logits, labels)
    per_class = class_scores(confusion, classes)
    result = Evaluation(
        count=count,
        top1=top1,
        top5=_fraction(before < 5) if len(classes) > 5 else None,
        interval=wilson(round(top1 * count), count),
        confusion=confusion,
        classes=list(classes),
        images_per_second=count / seconds if seconds else 0.0,
        skipped=list(skipped),
        exact=_exact(logits, labels) if several else None,
        macro_f1=macro_f1(per_class),
        per_class=per_class,
        gallery=gallery,
    )
    if several:
        truth = np.arange(len(classes)) == labels[:, None]
        result.loss, result.labels = binary_cross_entropy(logits, truth), label_scores(logits, truth, classes)
    elif count:
        result.loss, result.calibration = cross_entropy(logits, labels), calibration(logits, labels)
        result.temperature = fit_temperature(logits, labels)
        if result.temperature is not None:
            result.calibrated = calibration(logits, labels, result.temperature)
    return result


def _exact(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of rows in which the true class alone has a logit above 0, which is a probability above one half."""
    given = logits > 0
    return _fraction(given[np.arange(len(labels)), labels] & (given.sum(1) == 1))


def _fraction(right: np.ndarray) -> float:
    """Fraction that is True, rounded to float32 as torchmetrics does it: old and new evaluation.json can be compared."""
    return float(np.mean(right, dtype=np.float32)) if len(right) else 0.0

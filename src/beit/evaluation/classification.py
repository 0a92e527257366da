"""How good a classifier is on labelled images: top-1, top-5, scores of each class, and how far its probabilities are right.

The model, PyTorch's or Flax's, is asked in `beit.inference.classification`; the scores are numpy. `report_classification.py`
draws the page about them. Importing this loads neither framework.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beit.core.errors import ConfigError, DataError
from beit.core.files import write_json
from beit.core.text import printable
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import Images
from beit.evaluation.calibration import (
    Calibration,
    binary_cross_entropy,
    calibration,
    cross_entropy,
    fit_temperature,
)
from beit.evaluation.gallery import Gallery
from beit.evaluation.multi_label import LabelScores, label_scores, mean_average_precision
from beit.evaluation.scores import ClassScores, class_scores, confusion_of, macro_f1, ranks, weakest, wilson
from beit.inference.attention import attention_maps
from beit.inference.batches import batches_of
from beit.inference.classification import batch_logits
from beit.models.validation import problem_type

if TYPE_CHECKING:
    import torch

__all__ = ["EVALUATION_FILE", "Evaluation", "confusion_of", "evaluate", "evaluation_of", "ranks", "wilson"]

EVALUATION_FILE = "evaluation.json"


@dataclass
class Evaluation:
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


def evaluate(
    model: Any,
    processor: BeitImageProcessor,
    images: Images,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    pictures: int = 12,
) -> Evaluation:
    """Measure a classifier on labelled images.

    Args:
        model: a `BeitForImageClassification` or `FlaxBeitForImageClassification`.
        processor: its image processor.
        images: images with labels 0 … classes - 1.
        batch_size: images per forward pass.
        device: as for `beit.inference.classification.batch_logits`.
        pictures: how many mistakes and how many unsure answers to keep for a report; with 0, no pictures at all.

    Raises:
        DataError: the images have no labels, or labels of other classes; or more than a tenth of them cannot be read.
        CheckpointError: the model answers NaN or infinity.
        ConfigError: it is a regression, and has no classes.
    """
    problem = problem_type(model.config, whole_numbers=True)
    if problem == "regression":
        raise ConfigError(
            "The model is a regression (problem_type): it answers with numbers, and there are no classes to count. Its numbers are "
            "what beit predict and beit.inference.classification.logits_of give."
        )
    if images.labels is None:
        raise DataError("Evaluation needs labelled images: one subfolder per class.")
    classes = model.config.num_labels
    if len(images.labels) and not 0 <= images.labels.min() <= images.labels.max() < classes:
        raise DataError(
            f"Got labels from {images.labels.min()} to {images.labels.max()}; wanted 0 to {classes - 1}, the classes of "
            "the model. Were these images sorted for another model?"
        )
    began = time.perf_counter()
    bad, several = BadImages(len(images)), problem == "multi_label_classification"
    gallery = Gallery(pictures)
    kept: list[int] = []
    found = [np.zeros((0, classes), np.float32)]
    pad_to = min(batch_size, len(images))
    for numbers, batch in batches_of(images, processor, batch_size, lambda _, reason: bad.add(reason)):
        found.append(batch_logits(model, processor, batch, device, pad_to))
        kept += numbers
        gallery.look_at([images.name(i) for i in numbers], batch, found[-1], images.labels[numbers], processor, several)
    seconds = time.perf_counter() - began
    _attend(model, processor, gallery)
    return evaluation_of(
        np.concatenate(found),
        images.labels[kept],
        model.config.class_names,
        several=several,
        seconds=seconds,
        skipped=list(bad.reasons),
        gallery=gallery,
    )


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


def _attend(model: Any, processor: BeitImageProcessor, gallery: Gallery) -> None:
    """Have the last layer look at the gallery's examples: where the vector that is classified takes its information from."""
    if not gallery.examples:
        return
    pixels = np.stack([example[3] for example in gallery.examples])
    of = (
        "all patches (their mean is classified)"
        if model.config.use_mean_pooling
        else "the cls token (which is classified)"
    )
    gallery.attend(attention_maps(model, pixels), of, processor)


def _exact(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of rows in which the true class alone has a logit above 0, which is a probability above one half."""
    given = logits > 0
    return _fraction(given[np.arange(len(labels)), labels] & (given.sum(1) == 1))


def _fraction(right: np.ndarray) -> float:
    """Fraction that is True, rounded to float32 as torchmetrics does it: old and new evaluation.json can be compared."""
    return float(np.mean(right, dtype=np.float32)) if len(right) else 0.0

"""How good a classifier is on labelled images: top-1, top-5 and the confusion matrix.

The model, PyTorch's or Flax's, is asked in `beit.inference.classification`; the scores are numpy. Importing this loads neither
framework.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beit.core.errors import ConfigError, DataError
from beit.core.files import write_json
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import Images
from beit.inference.classification import logits_of
from beit.models.validation import problem_type

if TYPE_CHECKING:
    import torch

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

    def to_dict(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        several = {} if self.exact is None else {"exact": self.exact}
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


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a proportion, which stays within [0, 1] (Wilson 1927); z = 1.96 for 95 %."""
    if count == 0:
        return 0.0, 1.0
    p = right / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return max(centre - half, 0.0), min(centre + half, 1.0)


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


def evaluate(
    model: Any,
    processor: BeitImageProcessor,
    images: Images,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Measure a classifier on labelled images.

    Args:
        model: a `BeitForImageClassification` or `FlaxBeitForImageClassification`.
        processor: its image processor.
        images: images with labels 0 … classes - 1.
        batch_size: images per forward pass.
        device: as for `beit.inference.classification.batch_logits`.

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
    bad = BadImages(len(images))
    kept, logits = logits_of(model, processor, images, lambda _, reason: bad.add(reason), batch_size, device)
    labels = images.labels[kept]
    before = ranks(logits, labels)
    top1 = _fraction(before < 1)
    return Evaluation(
        count=len(kept),
        top1=top1,
        top5=_fraction(before < 5) if classes > 5 else None,
        interval=wilson(round(top1 * len(kept)), len(kept)),
        confusion=confusion_of(logits, labels),
        classes=model.config.class_names,
        images_per_second=len(kept) / (time.perf_counter() - began),
        skipped=list(bad.reasons),
        exact=_exact(logits, labels) if problem == "multi_label_classification" else None,
    )


def _exact(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of rows in which the true class alone has a logit above 0, which is a probability above one half."""
    given = logits > 0
    return _fraction(given[np.arange(len(labels)), labels] & (given.sum(1) == 1))


def _fraction(right: np.ndarray) -> float:
    """Fraction that is True, rounded to float32 as torchmetrics does it: old and new evaluation.json can be compared."""
    return float(np.mean(right, dtype=np.float32)) if len(right) else 0.0

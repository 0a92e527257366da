"""What a fine-tuned model answers: one class an image, several labels an image, or numbers; and what that changes in training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from beit.core.errors import ConfigError
from beit.data.sources.images import Images
from beit.data.sources.stream import Stream
from beit.data.sources.table_labels import MULTI, REGRESSION, SINGLE, problem_of
from beit.train.settings import FinetuneSettings

_MOST_WEIGHT = 100.0  # of a rare label: a single image must not outweigh all others
_PLACES = 6  # classes in a sentence


@dataclass(frozen=True)
class Task:
    """What the labels of a run are.

    Attributes:
        kind: the `problem_type` of the model.
        mean: of each number of a regression, float64 `(numbers,)`; else empty.
        std: their standard deviations; 1 where all are equal.
        weights: of each class in the loss, or of each label where an image has it, float32 `(classes,)`; None for equal ones.
    """

    kind: str
    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray | None = None

    @classmethod
    def of(cls, images: Images | Stream, settings: FinetuneSettings) -> Task:
        """The task of a run on these images.

        Raises:
            ConfigError: a setting is for other labels.
        """
        labels = None if isinstance(images, Stream) else images.labels
        kind = SINGLE if labels is None else problem_of(labels)
        _check(settings, kind, labels is None)
        if kind == REGRESSION and labels is not None:
            spread = labels.std(0)
            return cls(kind, labels.mean(0), np.where(spread > 0, spread, 1.0))
        if settings.class_weights == "none" or labels is None:
            return replace(SINGLE_TASK, kind=kind)
        return replace(SINGLE_TASK, kind=kind, weights=balanced_weights(labels, len(images.classes)))

    def targets(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """What the loss compares logits with, float32 `(B, classes)`: one of each row, all that are true, or numbers with mean 0
        and deviation 1.

        Args:
            labels: of a batch, `(B,)` or `(B, classes)`.
            classes: how many logits the model has.
        """
        if self.kind == REGRESSION:
            return ((labels - self.mean) / self.std).astype(np.float32)
        if self.kind == MULTI:
            return labels.astype(np.float32)
        targets = np.zeros((len(labels), classes), np.float32)
        targets[np.arange(len(labels)), labels] = 1
        return targets


SINGLE_TASK = Task(SINGLE, np.zeros(0), np.zeros(0))  # one class an image, all classes alike


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Weights that make up for rare classes, float32 `(classes,)`.

    Args:
        labels: class numbers `(n,)`: the weight is n / (classes · images of the class), so that all classes count the same and the
            mean over the images is 1. Or bool `(n, classes)`: images without the label / images with it, at most 100.
        classes: how many there are; one without images has weight 1.
    """
    if labels.ndim == 2:
        counts = labels.sum(0)
        return np.where(
            counts > 0, np.clip((len(labels) - counts) / np.maximum(counts, 1), 1 / _MOST_WEIGHT, _MOST_WEIGHT), 1
        ).astype(np.float32)
    counts = np.bincount(labels, minlength=classes)
    present = max(int((counts > 0).sum()), 1)
    return np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 1.0).astype(np.float32)


def _check(settings: FinetuneSettings, kind: str, stream: bool) -> None:
    if stream and (settings.class_weights != "none" or settings.balanced):
        raise ConfigError(
            "class_weights and balanced need the number of images of each class; a stream would have to be read for it."
        )
    if kind != SINGLE and settings.balanced:
        raise ConfigError(
            "balanced draws each class equally often; these images have several labels, or numbers. Leave it out."
        )
    if kind == REGRESSION and settings.class_weights != "none":
        raise ConfigError("class_weights is for classes; these images have numbers. Leave it out.")
    if kind == REGRESSION and settings.framework == "flax":
        raise ConfigError("Regression is trained in PyTorch only: --framework torch. The saved model runs in both.")


def in_words(labels: np.ndarray, classes: list[str]) -> str:
    """`of 2 classes: cat 100, dog 100`; `with 5 labels: sky 80, …; 3 without any`; or `with 2 numbers: age 3 to 90, mean 31`."""
    kind = problem_of(labels)
    if kind == REGRESSION:
        rows = zip(classes, labels.min(0), labels.max(0), labels.mean(0), strict=True)
        named = [f"{name} {low:.4g} to {high:.4g}, mean {mean:.4g}" for name, low, high, mean in rows]
        return f"with {len(classes)} number{'s' * (len(classes) > 1)}: {_few(named, '; ')}"
    counts = np.bincount(labels, minlength=len(classes)) if kind == SINGLE else labels.sum(0)
    shown = _few([f"{name} {count:,}" for name, count in zip(classes, counts, strict=True)], ", ")
    if kind == SINGLE:
        return f"of {len(classes):,} classes: {shown}"
    bare = int((~labels.any(1)).sum())
    return f"with {len(classes):,} labels, several an image: {shown}" + (f"; {bare:,} without any" if bare else "")


def _few(names: list[str], between: str) -> str:
    return between.join(names[:_PLACES]) + f"{between}…" * (len(names) > _PLACES)

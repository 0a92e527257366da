"""Measures a model in training on images that it does not learn from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from beit.core.errors import DataError
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.data.sources.table_labels import MULTI, REGRESSION, SINGLE, problem_of
from beit.evaluation.calibration import binary_cross_entropy, cross_entropy
from beit.evaluation.multi_label import label_scores, macro_f1_of, mean_average_precision
from beit.evaluation.scores import class_scores, confusion_of, macro_f1, ranks
from beit.evaluation.segmentation import evaluate_segmentation
from beit.inference.classification import logits_of
from beit.inference.sliding_window import SlidingWindow
from beit.train.loop import Job
from beit.train.selection import Selection
from beit.train.settings import ValidatedSettings

MIOU, PIXEL_ACCURACY = "validation_miou", "validation_pixel_accuracy"
_MOST = 50  # measurements of a classifier in a run, unless the settings say how often
_MOST_OF_MAPS = 20  # of segmentation, which takes longer

logger = logging.getLogger("beit")

Probe = Callable[[Any, int], dict[str, float]]  # (model, step) → metrics
MAP, R2, MAE, MSE = "validation_map", "validation_r2", "validation_mae", "validation_mse"
LOSS, TOP1, TOP5, MACRO_F1 = "validation_loss", "validation_top1", "validation_top5", "validation_macro_f1"


def measure_while_training(
    job: Job, settings: ValidatedSettings, measure: Probe, metric: str = TOP1, tie: str = LOSS
) -> None:
    """Have a job measured by `measure` at the steps that the settings say, and its result chosen by it.

    Args:
        job: what is trained; changed in place.
        settings: of the run.
        measure: (model, step) → what was measured.
        metric: the one by which the best model is chosen; larger is better.
        tie: the one that decides between equals; smaller is better.
    """
    maps = metric == MIOU
    every = settings.measured_every(job.steps, job.loader.steps_per_epoch, _MOST_OF_MAPS if maps else _MOST)
    if not every:
        return
    job.probe, job.probe_every = measure, every
    if settings.result == "best":
        job.selection = Selection(metric, tie, settings.patience)


def validation_of(processor: BeitImageProcessor, images: Images, batch_size: int) -> Probe:
    """A probe for `beit.train.loop.Job`: (model, step) → loss and scores on the images.

    Args:
        processor: the image processor that is saved with the model: images are seen as in use, without augmentation.
        images: labelled.
        batch_size: images per forward pass.

    Returns:
        A function whose result has `validation_loss` (cross-entropy in nats, without label smoothing), `validation_top1` and
        `validation_macro_f1`, and `validation_top5` where there are more than five classes. Of several labels an image:
        `validation_loss` (binary cross-entropy), `validation_map` and `validation_macro_f1`. Of numbers: `validation_mse` and
        `validation_mae`, means over all numbers in their units, and `validation_r2`, their mean, where it is defined for all.

    Raises:
        CheckpointError (from the function): the model answers NaN or infinity.
        DataError (from the function): none of the images can be read.
    """
    skipped: set[int] = set()

    def measure(model: Any, step: int) -> dict[str, float]:
        def bad(index: int, reason: str) -> None:
            if index not in skipped:
                skipped.add(index)
                logger.warning("Left out of the validation: %s", reason)

        kept, logits = logits_of(model, processor, images, bad, batch_size)
        if not kept:
            raise DataError("None of the images to measure on can be read.")
        assert images.labels is not None
        return scores(logits, images.labels[kept])

    return measure


def map_validation_of(processor: BeitImageProcessor, images: Images, short_side: int | None) -> Probe:
    """A probe for `beit.train.loop.Job`: (model, step) → `validation_miou` and `validation_pixel_accuracy` on the images.

    Args:
        processor: the image processor that is saved with the model.
        images: with label maps.
        short_side: shorter side in pixels to which images are resized; the model's image size if None.
    """

    def measure(model: Any, step: int) -> dict[str, float]:
        found = evaluate_segmentation(
            model, processor, images, SlidingWindow(short_side=short_side), examples=0, show=False
        )
        return {MIOU: round(found.miou, 6), PIXEL_ACCURACY: round(found.pixel_accuracy, 6)}

    return measure


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss and scores of logits `(n, classes)` for labels of n ≥ 1 images; see `validation_of`."""
    kind = problem_of(labels)
    if kind == MULTI:
        rows = label_scores(logits, labels, [str(number) for number in range(logits.shape[1])])
        found = {
            LOSS: binary_cross_entropy(logits, labels),
            MAP: mean_average_precision(rows),
            MACRO_F1: macro_f1_of(rows),
        }
        return {name: round(value, 6) for name, value in found.items()}
    if kind == REGRESSION:
        return _of_numbers(logits.astype(np.float64), labels)
    before = ranks(logits, labels)
    found = {LOSS: round(cross_entropy(logits, labels), 6), TOP1: round(float((before < 1).mean()), 6)}
    if logits.shape[1] > 5:
        found[TOP5] = round(float((before < 5).mean()), 6)
    names = [str(number) for number in range(logits.shape[1])]
    found[MACRO_F1] = round(macro_f1(class_scores(confusion_of(logits, labels), names)), 6)
    return found


def _of_numbers(answers: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    squares, spread = ((answers - truth) ** 2).mean(0), truth.var(0)
    found = {MSE: float(squares.mean()), MAE: float(np.abs(answers - truth).mean())}
    if (spread > 0).all():
        found[R2] = round(float((1 - squares / spread).mean()), 6)
    return found


# By which the best model is chosen, and what decides between equals.
METRICS = {SINGLE: (TOP1, LOSS), MULTI: (MAP, LOSS), REGRESSION: (R2, MSE)}

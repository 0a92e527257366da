"""Measure a model on labelled images: one class an image, several labels an image, or numbers.

    images → logits, batch by batch → scores of what the labels are: `classification.py`, `multi_label.py` or `regression.py`

Importing this loads neither framework.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from beit.core.errors import ConfigError, DataError
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import Images
from beit.data.sources.table_labels import MULTI, REGRESSION, SINGLE, problem_of
from beit.evaluation.classification import Evaluation, evaluation_of
from beit.evaluation.gallery import Gallery
from beit.evaluation.multi_label import MultiLabelEvaluation, multi_label_evaluation
from beit.evaluation.regression import RegressionScores, regression_scores
from beit.evaluation.worst import Worst, label_errors, number_errors
from beit.inference.attention import attention_maps
from beit.inference.batches import batches_of
from beit.inference.classification import batch_logits
from beit.models.validation import problem_type

if TYPE_CHECKING:
    import torch

_WANTED = {
    SINGLE: "one class an image: one subfolder per class, or a table with one class a row",
    MULTI: "several labels an image, which a table holds (beit evaluate --help: --label-columns)",
    REGRESSION: "numbers, which a table holds (beit evaluate --help: --label-columns)",
}


Measured = Evaluation | MultiLabelEvaluation | RegressionScores
"""What an evaluation says: each has `count`, `skipped`, `save(folder)` and `summary()`."""


def evaluate(
    model: Any,
    processor: BeitImageProcessor,
    images: Images,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    pictures: int = 12,
) -> Measured:
    """Measure a model on labelled images.

    Args:
        model: a `BeitForImageClassification` or `FlaxBeitForImageClassification`.
        processor: its image processor.
        images: labelled as the model answers: by class numbers 0 … classes - 1, by bool rows of labels, or by rows of numbers. A
            model that gives several labels is also measured on images of one class each.
        batch_size: images per forward pass.
        device: as for `beit.inference.classification.batch_logits`.
        pictures: how many mistakes and how many unsure answers to keep for a report; with 0, no pictures at all.

    Returns:
        An `Evaluation`, a `MultiLabelEvaluation` or a `RegressionScores`, as the labels are.

    Raises:
        DataError: the images have no labels, or labels of other classes; or more than a tenth of them cannot be read.
        CheckpointError: the model answers NaN or infinity.
        ConfigError: the labels are of another kind than the model's answers.
    """
    if images.labels is None:
        raise DataError("Evaluation needs labelled images: one subfolder per class, or a table.")
    answers, labelled = problem_type(model.config, whole_numbers=True), problem_of(images.labels)
    if answers != labelled and (answers, labelled) != (MULTI, SINGLE):
        raise ConfigError(
            f"The model's problem_type is {answers}, and the labels are for {labelled}. Wanted {_WANTED[answers]}."
        )
    _check_range(images.labels, model.config.num_labels, labelled)
    began = time.perf_counter()
    bad, classes = BadImages(len(images)), model.config.num_labels
    gallery, worst = Gallery(pictures), Worst(pictures)
    kept: list[int] = []
    found = [np.zeros((0, classes), np.float32)]
    pad_to = min(batch_size, len(images))
    for numbers, batch in batches_of(images, processor, batch_size, lambda _, reason: bad.add(reason)):
        logits, labels = batch_logits(model, processor, batch, device, pad_to), images.labels[numbers]
        names = [images.name(i) for i in numbers]
        if labelled == SINGLE:
            gallery.look_at(names, batch, logits, labels, processor, answers == MULTI)
        elif labelled == MULTI:
            worst.look_at(names, batch, *label_errors(logits, labels, model.config.class_names))
        else:
            worst.look_at(names, batch, *number_errors(logits, labels, images.labels.std(0)))
        found.append(logits)
        kept += numbers
    about: dict[str, Any] = {"seconds": time.perf_counter() - began, "skipped": list(bad.reasons)}
    logits, labels, names = np.concatenate(found), images.labels[kept], model.config.class_names
    if labelled == MULTI:
        return multi_label_evaluation(logits, labels, names, worst=worst, **about)
    if labelled == REGRESSION:
        return regression_scores(logits, labels, images.classes, worst=worst, **about)
    _attend(model, processor, gallery)
    return evaluation_of(logits, labels, names, several=answers == MULTI, gallery=gallery, **about)


def _check_range(labels: np.ndarray, classes: int, labelled: str) -> None:
    if labelled != SINGLE:
        if labels.shape[1] != classes:
            raise DataError(f"Got {labels.shape[1]} labels or numbers an image; the model answers with {classes}.")
    elif len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"Got labels from {labels.min()} to {labels.max()}; wanted 0 to {classes - 1}, the classes of "
            "the model. Were these images sorted for another model?"
        )


def _attend(model: Any, processor: BeitImageProcessor, gallery: Gallery) -> None:
    """Have the last layer look at the gallery's examples: where the vector that is classified takes its information from."""
    if not gallery.examples:
        return
    pixels = np.stack([example[3] for example in gallery.examples])
    mean = model.config.use_mean_pooling
    of = "all patches (their mean is classified)" if mean else "the cls token (which is classified)"
    gallery.attend(attention_maps(model, pixels), of, processor)

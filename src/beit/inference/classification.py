"""Classify images: pictures in; logits, or the most probable classes, out.

    classify     pictures in memory        → the most probable classes of each (what a server asks for)
    predict      an `Images` source        → an iterator of predictions, as batches are done (what a batch job asks for)
    logits_of    an `Images` source        → all logits (what an evaluation asks for)

All of them work with PyTorch and Flax models. Importing this loads neither framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
from PIL import Image

from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.inference.batches import OnError, batches_of
from beit.inference.checks import require_finite
from beit.models.validation import problem_type

if TYPE_CHECKING:
    import torch

    from beit.config import BeitConfig


# Called with the numbers of the images of a batch, and the images.
OnBatch = Callable[[list[int], list[Image.Image]], None]


class Label(TypedDict):
    """A class and its probability in [0, 1], or a number of a regression and its `value`; rounded to six decimals."""

    label: str
    probability: NotRequired[float]
    value: NotRequired[float]


class Prediction(TypedDict):
    """What is said of one image: `labels`, as `answers` gives them; or `error`, why it could not be read."""

    image: str
    labels: NotRequired[list[Label]]
    error: NotRequired[str]


def batch_logits(
    model: Any,
    processor: BeitImageProcessor,
    pictures: Sequence[Any],
    device: torch.device | str | None = None,
    pad_to: int = 1,
) -> np.ndarray:
    """Logits of one batch.

    Args:
        model: a `BeitForImageClassification` or `FlaxBeitForImageClassification`.
        processor: its image processor.
        pictures: n images in any form that the processor takes: PIL images, arrays, paths.
        device: where a PyTorch model computes; where its parameters are, if not given. A Flax
            model always computes where its parameters are.
        pad_to: smallest batch that a Flax model gets. Smaller ones are filled with blank images, because JAX compiles
            again for each batch size.

    Returns:
        float32 `(n, classes)`.

    Raises:
        CheckpointError: the model answers NaN or infinity.
    """
    if hasattr(model, "params"):
        from beit.inference.flax.classification import logits as flax_logits

        found = flax_logits(model, processor, pictures, pad_to)
    else:
        from beit.inference.torch.classification import logits as torch_logits

        found = torch_logits(model, processor, pictures, device)
    require_finite(bool(np.isfinite(found).all()))
    return found


def classify(
    model: Any,
    processor: BeitImageProcessor,
    pictures: Sequence[Any],
    top: int = 5,
    device: torch.device | str | None = None,
) -> list[list[Label]]:
    """The most probable classes of images in memory, in one batch; or what `answers` gives for another `problem_type`.

    Args:
        model: as for `batch_logits`.
        processor: its image processor.
        pictures: as for `batch_logits`.
        top: how many classes of each image.
        device: as for `batch_logits`.

    Returns:
        A list for each image, as `answers` gives it.

    Raises:
        InputError: a picture is not one that the processor takes.
        CheckpointError: the model answers NaN or infinity.
    """
    if not len(pictures):
        return []
    return answers(batch_logits(model, processor, pictures, device), model.config, top)


def answers(logits: np.ndarray, config: BeitConfig, top: int = 5) -> list[list[Label]]:
    """What a model says of each image, by its `problem_type`.

    Args:
        logits: `(n, classes)`.
        config: of the model.
        top: how many classes of each image.

    Returns:
        For each image, of one class per image: the `top` classes, most probable first, by softmax. Of several labels per image:
        the same by sigmoid; each probability is for itself, and they do not add up to 1. Of a regression: all numbers as they
        are, as `value`, in the model's order.
    """
    problem = problem_type(config, whole_numbers=True)
    if problem == "regression":
        return [
            [{"label": config.class_names[i], "value": round(float(value), 6)} for i, value in enumerate(row)]
            for row in logits.astype(np.float64)
        ]
    return most_probable(logits, config.class_names, top, several=problem == "multi_label_classification")


def most_probable(logits: np.ndarray, names: Sequence[str], top: int = 5, several: bool = False) -> list[list[Label]]:
    """The `top` classes of each row of logits `(n, classes)`, most probable first; of equal ones the first.

    Args:
        logits: finite.
        names: of the classes.
        top: how many.
        several: whether an image may have several of the classes: then each probability is a sigmoid of its own.
    """
    rows = logits.astype(np.float64)
    found: list[list[Label]] = []
    for row in rows:
        if several:
            probabilities = np.exp(-np.logaddexp(0, -row))  # the sigmoid, which overflows nowhere
        else:
            probabilities = np.exp(row - row.max())
            probabilities /= probabilities.sum()
        best = np.argsort(-row, kind="stable")[:top].tolist()
        found.append([{"label": names[i], "probability": round(float(probabilities[i]), 6)} for i in best])
    return found


def logit_batches(
    model: Any,
    processor: BeitImageProcessor,
    images: Images,
    on_error: OnError,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    start: int = 0,
    on_batch: OnBatch | None = None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (numbers of images, their logits `(n, classes)` float32) batch by batch.

    Args:
        model: as for `batch_logits`.
        processor: its image processor.
        images: what to classify.
        on_error: called with (number, reason) for each image that cannot be read.
        batch_size: images per forward pass.
        device: as for `batch_logits`.
        start: number of the first image.
        on_batch: called with (numbers, images) of each batch before it is yielded.

    Raises:
        CheckpointError: the model answers NaN or infinity.
    """
    pad_to = min(batch_size, len(images))
    for numbers, pictures in batches_of(images, processor, batch_size, on_error, start):
        logits = batch_logits(model, processor, pictures, device, pad_to)
        if on_batch is not None:
            on_batch(numbers, pictures)
        yield numbers, logits


def logits_of(
    model: Any,
    processor: BeitImageProcessor,
    images: Images,
    on_error: OnError,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> tuple[list[int], np.ndarray]:
    """(numbers of all images that can be read, their logits `(n, classes)` float32); arguments as `logit_batches`."""
    kept: list[int] = []
    logits = [np.zeros((0, model.config.num_labels), np.float32)]
    for numbers, found in logit_batches(model, processor, images, on_error, batch_size, device):
        kept += numbers
        logits.append(found)
    return kept, np.concatenate(logits)


def predict(
    model: Any,
    processor: BeitImageProcessor,
    images: Images,
    top: int = 5,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    on_batch: OnBatch | None = None,
) -> Iterator[Prediction]:
    """Yield what the model says of each image, as `answers` gives it, in the order of the images, as batches are done.

    Args:
        model: as for `batch_logits`.
        processor: its image processor.
        images: what to classify; `ImageFiles` makes such a source from paths.
        top: how many classes of each image.
        batch_size: images per forward pass.
        device: as for `batch_logits`.
        on_batch: as for `logit_batches`.

    Raises:
        CheckpointError: the model answers NaN or infinity.
    """
    for batch in prediction_batches(model, processor, images, top, batch_size, device, 0, on_batch):
        yield from batch


def prediction_batches(
    model: Any,
    processor: BeitImageProcessor,
    images: Images,
    top: int = 5,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    start: int = 0,
    on_batch: OnBatch | None = None,
) -> Iterator[list[Prediction]]:
    """As `predict`, batch by batch, from image `start` on.

    A batch has `batch_size` images that can be read, and those between them that cannot. One that begins where another ended
    has therefore the same images, whoever made the one before.
    """
    errors: dict[int, str] = {}
    batches = logit_batches(model, processor, images, errors.__setitem__, batch_size, device, start, on_batch)
    for numbers, logits in batches:
        labels = dict(zip(numbers, answers(logits, model.config, top), strict=True))
        batch: list[Prediction] = []
        for index in range(start, numbers[-1] + 1):  # with the unreadable images among them
            image = images.name(index)
            batch.append(
                {"image": image, "labels": labels[index]} if index in labels else _unreadable(image, errors[index])
            )
        yield batch
        start = numbers[-1] + 1
    if start < len(images):
        yield [_unreadable(images.name(index), errors[index]) for index in range(start, len(images))]


def _unreadable(image: str, reason: str) -> Prediction:
    return {"image": image, "error": reason}

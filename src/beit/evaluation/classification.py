"""Using a trained model, torch's or Flax's: top-1 and top-5 on labelled images, predictions, and features (torch).

A model is asked in `answers`; all that follows is numpy. Importing this loads neither torch nor jax.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from beit.core.errors import CheckpointError, DataError
from beit.core.files import write_json
from beit.data.decode import read_image
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import Images

if TYPE_CHECKING:
    import torch

    from beit.models.torch.beit import BeitPreTrainedModel

T = TypeVar("T")
EVALUATION_FILE = "evaluation.json"


@dataclass
class Evaluation:
    """How a classifier does on labelled images.

    Attributes:
        count: number of images.
        top1: part of them whose most probable class is right.
        top5: part of them whose class is among the five most probable; None with five classes or fewer.
        interval: 95 % confidence interval of top1 (Wilson).
        confusion: `(classes, classes)` counts, true class by row, predicted by column.
        classes: names.
        images_per_second: from files or arrays to predictions.
        skipped: images that could not be read.
    """

    count: int
    top1: float
    top5: float | None
    interval: tuple[float, float]
    confusion: np.ndarray
    classes: list[str]
    images_per_second: float
    skipped: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
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
        return text + f"; {self.images_per_second:.0f} images/s"


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a proportion that stays sensible near 0 and 1 (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    p = right / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def batches_of(
    images: Images, batch_size: int, note: Callable[[int, str], None]
) -> Iterator[tuple[list[int], list[Any]]]:
    """(numbers, images) of up to `batch_size` readable images; `note` is told the others, with the reason."""
    numbers: list[int] = []
    pictures: list[Any] = []
    for index in range(len(images)):
        try:
            pictures.append(images.read(index))
        except DataError as error:
            note(index, str(error))
            continue
        numbers.append(index)
        if len(numbers) == batch_size:
            yield numbers, pictures
            numbers, pictures = [], []
    if numbers:
        yield numbers, pictures


def answers(
    model: Any,
    processor: BeitImageProcessor,
    pictures: list[Any],
    device: torch.device | str | None = None,
    batch_size: int = 1,
) -> np.ndarray:
    """What a classifier answers: logits `(n, classes)` float32 of n pictures.

    Args:
        model: `BeitForImageClassification` or `FlaxBeitForImageClassification` (which has `params`).
        processor: its image processor.
        pictures: n Pillow images.
        device: where a torch model computes; where it is, unless given. A Flax model computes where its parameters are.
        batch_size: a Flax model is shown so many pictures, blank ones behind fewer: another number of them would be
            compiled anew.
    """
    if hasattr(model, "params"):
        pixels = processor(pictures, return_tensors="np")["pixel_values"]
        blank = np.zeros((max(batch_size - len(pixels), 0), *pixels.shape[1:]), pixels.dtype)
        logits = model(np.concatenate([pixels, blank])).logits
        return np.asarray(logits, np.float32)[: len(pixels)]
    import torch

    with torch.inference_mode():
        model = model.to(device or model.device).eval()
        tensor = processor(pictures, return_tensors="pt")["pixel_values"].to(model.device)
        return model(tensor).logits.float().cpu().numpy()


def logits_of(
    model: Any,
    processor: BeitImageProcessor,
    images: Images,
    note: Callable[[int, str], None],
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> tuple[list[int], np.ndarray]:
    """(numbers of the images that could be read, their logits `(n, classes)` float32).

    `note(number, reason)` is called for each image that could not.

    Raises:
        CheckpointError: the model answers NaN.
    """
    kept: list[int] = []
    logits = [np.zeros((0, model.config.num_labels), np.float32)]
    shown = min(batch_size, len(images))
    for numbers, pictures in batches_of(images, batch_size, note):
        logits.append(answers(model, processor, pictures, device, shown))
        kept += numbers
    return kept, finite(np.concatenate(logits))


def finite(numbers: T) -> T:
    """The same array, or tensor on the CPU. Raises CheckpointError when some are no numbers."""
    if not np.isfinite(np.asarray(numbers)).all():
        raise CheckpointError("The model answers NaN or infinity: its weights are damaged, or its training went wrong.")
    return numbers


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the right one, `(n,)`: 0 where it is the answer, less than 5 in the top five.

    Of equal logits the first counts as greater, as in argmax.
    """
    own = np.take_along_axis(logits, labels[:, None], 1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(1)


def confusion_of(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(classes, classes)` counts int64, true class by row, predicted by column."""
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
        model: as for `answers`.
        processor: its image processor.
        images: images with labels 0 … classes - 1.
        batch_size: images at a time.
        device: as for `answers`.

    Raises:
        DataError: the images have no labels or labels of other classes, or more than a tenth cannot be read.
        CheckpointError: the model answers NaN.
    """
    if images.labels is None:
        raise DataError("Evaluation needs labelled images: one subfolder a class.")
    classes = model.config.num_labels
    if len(images.labels) and not 0 <= images.labels.min() <= images.labels.max() < classes:
        raise DataError(
            f"Got labels from {images.labels.min()} to {images.labels.max()}; wanted 0 to {classes - 1}, the classes of "
            "the model. Were these images sorted for another one?"
        )
    began = time.perf_counter()
    bad = BadImages(len(images))
    kept, logits = logits_of(model, processor, images, lambda _, reason: bad.add(reason), batch_size, device)
    labels = images.labels[kept]
    before = ranks(logits, labels)
    top1 = _share(before < 1)
    return Evaluation(
        count=len(kept),
        top1=top1,
        top5=_share(before < 5) if classes > 5 else None,
        interval=wilson(round(top1 * len(kept)), len(kept)),
        confusion=confusion_of(logits, labels),
        classes=[model.config.id2label[i] for i in range(classes)],
        images_per_second=len(kept) / (time.perf_counter() - began),
        skipped=list(bad.reasons),
    )


def _share(right: np.ndarray) -> float:
    """Part that is True, rounded to float32, as torchmetrics has it: old and new evaluation.json can be compared."""
    return float(np.mean(right, dtype=np.float32)) if len(right) else 0.0


class _Files:
    """Image files by path, without labels."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.labels: np.ndarray | None = None
        self.classes: list[str] = []
        self.paths = [os.fspath(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Any:
        return read_image(self.paths[index])

    def target(self, index: int) -> int:
        return 0

    def name(self, index: int) -> str:
        return self.paths[index]

    def fingerprint(self) -> str:
        return "\n".join(self.paths)

    def subset(self, indices: np.ndarray) -> _Files:
        return _Files([self.paths[i] for i in indices])


def predict(
    model: Any,
    processor: BeitImageProcessor,
    paths: Sequence[str | os.PathLike[str]],
    top: int = 5,
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """The most probable classes of image files.

    Args:
        model: as for `answers`.
        processor: its image processor.
        paths: the files.
        top: how many classes of each.
        batch_size: images at a time.

    Returns:
        For each file `{"image": path, "labels": [{"label": name, "probability": p}, …]}`, most probable first; or
        `{"image": path, "error": why}` for one that cannot be read.
    """
    files = _Files(paths)
    results: list[dict[str, Any]] = [{"image": path} for path in files.paths]

    def failed(index: int, reason: str) -> None:
        results[index]["error"] = reason

    kept, logits = logits_of(model, processor, files, failed, batch_size)
    for index, row in zip(kept, logits.astype(np.float64), strict=True):
        probabilities = np.exp(row - row.max())
        probabilities /= probabilities.sum()
        results[index]["labels"] = [
            {"label": model.config.id2label[number], "probability": round(float(probabilities[number]), 6)}
            for number in np.argsort(-row, kind="stable")[:top].tolist()
        ]
    return results


def embed(
    model: BeitPreTrainedModel,
    processor: BeitImageProcessor,
    images: Images,
    layer: int | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> tuple[list[int], np.ndarray, list[str]]:
    """Features of images by a torch model: the mean of the patches of one layer.

    Args:
        model: any BEiT model.
        processor: its image processor.
        images: what to embed.
        layer: 1 … L, the layer whose output is taken; None for the pooled output of the whole model (a model without
            a pooler, such as one just pre-trained, gives the mean of the last layer's patches). Middle layers are best
            for models that were only pre-trained.
        batch_size: images at a time.
        device: where to compute.

    Returns:
        Numbers of the images that could be read; float32 `(n, C)`; why the others could not.

    Raises:
        DataError: there is no such layer, or more than a tenth of the images cannot be read.
    """
    import torch

    from beit.models.torch.beit import BeitModel

    body = getattr(model, "beit", model)
    assert isinstance(body, BeitModel)
    depth = body.config.num_hidden_layers
    if layer is not None and not 1 <= layer <= depth:
        raise DataError(f"There is no layer {layer}; choose one from 1 to {depth}.")
    body = body.to(device or body.device).eval()
    bad = BadImages(len(images))
    kept: list[int] = []
    features = []
    for numbers, pictures in batches_of(images, batch_size, lambda _, reason: bad.add(reason)):
        with torch.inference_mode():
            pixels = processor(pictures, return_tensors="pt")["pixel_values"].to(body.device)
            output = body(pixels, output_hidden_states=layer is not None)
            if layer is not None:
                pooled = output.hidden_states[layer][:, 1:].mean(1)
            elif output.pooler_output is not None:
                pooled = output.pooler_output
            else:
                pooled = output.last_hidden_state[:, 1:].mean(1)
        features.append(finite(pooled.float().cpu()).numpy())
        kept += numbers
    if not kept:
        raise DataError("None of the images can be read:\n" + str(bad))
    return kept, np.concatenate(features), list(bad.reasons)

"""Using a trained model: top-1 and top-5 on labelled images, predictions, and features."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from beit import hub
from beit.data.images import BadImages, Images, read_image
from beit.errors import CheckpointError, DataError, require
from beit.models.pytorch_beit import BeitForImageClassification, BeitModel, BeitPreTrainedModel
from beit.processing import BeitImageProcessor

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
        hub.write_json(Path(folder) / EVALUATION_FILE, self.to_dict())

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


@torch.inference_mode()
def logits_of(
    model: BeitForImageClassification,
    processor: BeitImageProcessor,
    images: Images,
    note: Callable[[int, str], None],
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> tuple[list[int], torch.Tensor]:
    """(numbers of the images that could be read, their logits `(n, classes)` float32 on the CPU).

    `note(number, reason)` is called for each image that could not.

    Raises:
        CheckpointError: the model answers NaN.
    """
    model = model.to(device or model.device).eval()
    kept: list[int] = []
    logits = [torch.zeros(0, model.config.num_labels)]
    for numbers, pictures in batches_of(images, batch_size, note):
        pixels = processor(pictures, return_tensors="pt")["pixel_values"].to(model.device)
        logits.append(model(pixels).logits.float().cpu())
        kept += numbers
    return kept, finite(torch.cat(logits))


def finite(answers: torch.Tensor) -> torch.Tensor:
    """The same answers. Raises CheckpointError when some are no numbers."""
    if not bool(torch.isfinite(answers).all()):
        raise CheckpointError("The model answers NaN or infinity: its weights are damaged, or its training went wrong.")
    return answers


def evaluate(
    model: BeitForImageClassification,
    processor: BeitImageProcessor,
    images: Images,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Measure a classifier on labelled images.

    Raises:
        DataError: the images have no labels, or more than a tenth cannot be read.
    """
    if images.labels is None:
        raise DataError("Evaluation needs labelled images: one subfolder a class.")
    metrics = require("torchmetrics.functional.classification", "train", "evaluation")
    began = time.perf_counter()
    bad = BadImages(len(images))
    kept, logits = logits_of(model, processor, images, lambda _, reason: bad.add(reason), batch_size, device)
    labels = torch.from_numpy(images.labels[kept])
    classes = logits.shape[1]
    top1 = float(metrics.multiclass_accuracy(logits, labels, classes, average="micro"))
    top5 = None
    if classes > 5:
        top5 = float(metrics.multiclass_accuracy(logits, labels, classes, average="micro", top_k=5))
    return Evaluation(
        count=len(kept),
        top1=top1,
        top5=top5,
        interval=wilson(round(top1 * len(kept)), len(kept)),
        confusion=metrics.multiclass_confusion_matrix(logits, labels, classes).numpy(),
        classes=[model.config.id2label[i] for i in range(classes)],
        images_per_second=len(kept) / (time.perf_counter() - began),
        skipped=list(bad.reasons),
    )


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
    model: BeitForImageClassification,
    processor: BeitImageProcessor,
    paths: Sequence[str | os.PathLike[str]],
    top: int = 5,
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """The most probable classes of image files.

    Returns:
        For each file `{"image": path, "labels": [{"label": name, "probability": p}, …]}`, most probable first; or
        `{"image": path, "error": why}` for one that cannot be read.
    """
    files = _Files(paths)
    results: list[dict[str, Any]] = [{"image": path} for path in files.paths]

    def failed(index: int, reason: str) -> None:
        results[index]["error"] = reason

    kept, logits = logits_of(model, processor, files, failed, batch_size)
    probabilities, classes = logits.softmax(-1).topk(min(top, logits.shape[1]))
    for row, index in enumerate(kept):
        results[index]["labels"] = [
            {"label": model.config.id2label[int(number)], "probability": round(float(p), 6)}
            for p, number in zip(probabilities[row], classes[row], strict=True)
        ]
    return results


@torch.inference_mode()
def embed(
    model: BeitPreTrainedModel,
    processor: BeitImageProcessor,
    images: Images,
    layer: int | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> tuple[list[int], np.ndarray, list[str]]:
    """Features of images: the mean of the patches of one layer.

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

"""How good a segmentation model is on labelled images: mIoU, accuracies, confusion, and its worst cases."""

from __future__ import annotations

import heapq
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from beit.core.errors import DataError, require
from beit.core.files import write_json
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.evaluation.classification import EVALUATION_FILE
from beit.inference.segmentation import WINDOWS, Segmenter, Way
from beit.models.torch.segmentation import BeitForSemanticSegmentation

REPORT_FILE = "report.html"
_SIDE = 320  # of the pictures kept for a report, at most


@dataclass(frozen=True)
class Case:
    """An image of the evaluation, made small for a report.

    Attributes:
        name: of the image.
        miou: of this image alone; None when nothing of it is labelled.
        image: uint8 `(h, w, 3)`.
        truth: `(h, w)` class numbers.
        prediction: the same.
    """

    name: str
    miou: float | None
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


@dataclass
class SegmentationEvaluation:
    """How a segmentation model does on labelled images. Pixels without a label do not count.

    Attributes:
        count: number of images.
        miou: mean IoU of the classes that there are.
        pixel_accuracy: part of the pixels that are right.
        mean_accuracy: mean over classes of the part of their pixels that is found.
        iou: of each class, intersection over union of its pixels in truth and prediction; None for a class in neither.
        accuracy: of each class, the part of its pixels that is found; None for a class that is not in the truth.
        confusion: `(classes, classes)` pixels, true class by row, predicted by column.
        classes: names.
        ignore_index: no label.
        way: how the images were brought to the model.
        seconds_per_image: from file to label map.
        skipped: images that could not be read.
        worst: (name, mIoU) of the images with the lowest mIoU.
        examples: images from all over the set, for the report; not saved.
        worst_cases: the same of the worst.
    """

    count: int
    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    iou: list[float | None]
    accuracy: list[float | None]
    confusion: np.ndarray
    classes: list[str]
    ignore_index: int
    way: Way
    seconds_per_image: float
    skipped: list[str]
    worst: list[tuple[str, float]]
    examples: list[Case] = field(default_factory=list, repr=False)
    worst_cases: list[Case] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "count": self.count,
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "classes": self.class_rows(),
            "confusion": self.confusion.tolist(),
            "mode": self.way.mode,
            "short_side": self.way.short_side,
            "scales": list(self.way.scales),
            "flip": self.way.flip,
            "seconds_per_image": round(self.seconds_per_image, 4),
            "skipped": self.skipped,
            "worst": [{"image": name, "miou": value} for name, value in self.worst],
        }

    def class_rows(self) -> list[dict[str, Any]]:
        """For each class its name, IoU, accuracy and number of true pixels."""
        rows = zip(self.classes, self.iou, self.accuracy, self.confusion.sum(1).tolist(), strict=True)
        return [dict(zip(("name", "iou", "accuracy", "pixels"), row, strict=True)) for row in rows]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write evaluation.json and report.html."""
        from beit.evaluation.report_segmentation import write_report

        write_json(Path(folder) / EVALUATION_FILE, self.to_dict())
        write_report(Path(folder) / REPORT_FILE, self)

    def __str__(self) -> str:
        absent = sum(value is None for value in self.iou)
        text = f"mIoU {self.miou:.1%}, pixel accuracy {self.pixel_accuracy:.1%}, mean accuracy {self.mean_accuracy:.1%} on "
        text += f"{self.count} images; {self.seconds_per_image:.2f} s an image"
        if absent:
            text += f"; {absent} of {len(self.classes)} classes are absent"
        return text


def scores_of(confusion: np.ndarray) -> tuple[list[float | None], list[float | None]]:
    """(IoU, accuracy) of each class of a confusion matrix, None where there is nothing to divide by."""
    hits = np.diag(confusion)
    true, predicted = confusion.sum(1), confusion.sum(0)

    def parts(whole: np.ndarray) -> list[float | None]:
        return [int(n) / int(d) if d else None for n, d in zip(hits, whole, strict=True)]

    return parts(true + predicted - hits), parts(true)


def mean_of(values: list[float | None]) -> float | None:
    """The mean of those that there are, None without any."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def evaluate_segmentation(
    model: BeitForSemanticSegmentation,
    processor: BeitImageProcessor,
    images: Any,
    way: Way = WINDOWS,
    device: torch.device | str | None = None,
    examples: int = 6,
) -> SegmentationEvaluation:
    """Measure a segmentation model.

    Args:
        model: its `semantic_loss_ignore_index` is the number that means no label.
        processor: its image processor.
        images: `Images` whose targets are label maps of the model's classes.
        way: how images are brought to the model.
        device: where to compute; where the model is, if None.
        examples: how many images from all over the set, and how many of the worst, to keep for the report.

    Raises:
        DataError: more than a tenth of the images cannot be read, or nothing is labelled.
        InputError: a label map is not one of its image and these classes.
        CheckpointError: the model answers NaN.
    """
    metrics = require("torchmetrics.functional.classification", "train", "evaluation")
    tqdm = require("tqdm", "train", "evaluation").tqdm
    began = time.perf_counter()
    model = model.to(device or model.device)
    segmenter = Segmenter(model, processor, way)
    classes, ignore = model.config.num_labels, model.config.semantic_loss_ignore_index
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    bad, count = BadImages(len(images)), 0
    shown = set(np.linspace(0, len(images) - 1, min(examples, len(images))).astype(int).tolist())
    spread: list[Case] = []
    worst: list[tuple[float, int, Case]] = []  # a heap, the best of them on top
    for index in tqdm(range(len(images)), desc="evaluation", unit="image", disable=None, file=sys.stderr):
        try:
            image, truth = images.read(index), torch.from_numpy(images.target(index))
        except DataError as error:
            bad.add(str(error))
            continue
        prediction = segmenter(image)
        found = metrics.multiclass_confusion_matrix(
            prediction, truth, classes, ignore_index=ignore, validate_args=False
        )
        confusion += found
        miou = mean_of(scores_of(found.numpy())[0])
        if index in shown or miou is not None:
            case = _case(images.name(index), miou, image, truth, prediction)
            if index in shown:
                spread.append(case)
            if miou is not None:
                push = heapq.heappush if len(worst) < examples else heapq.heappushpop
                push(worst, (-miou, -count, case))
        count += 1
    if not int(confusion.sum()):
        raise DataError(
            f"No pixel of the {count} label maps has a label: all are {ignore}, which means none. See --ignore-index."
            if count
            else "None of the images can be read:\n" + str(bad)
        )
    iou, accuracy = scores_of(confusion.numpy())
    ordered = [case for _, _, case in sorted(worst, key=lambda entry: (-entry[0], -entry[1]))]
    return SegmentationEvaluation(
        count=count,
        miou=mean_of(iou) or 0.0,
        pixel_accuracy=int(confusion.trace()) / int(confusion.sum()),
        mean_accuracy=mean_of(accuracy) or 0.0,
        iou=iou,
        accuracy=accuracy,
        confusion=confusion.numpy(),
        classes=[model.config.id2label[i] for i in range(classes)],
        ignore_index=ignore,
        way=way,
        seconds_per_image=(time.perf_counter() - began) / count,
        skipped=list(bad.reasons),
        worst=[(case.name, case.miou or 0.0) for case in ordered],
        examples=spread,
        worst_cases=ordered,
    )


def _case(name: str, miou: float | None, image: Image.Image, truth: torch.Tensor, prediction: torch.Tensor) -> Case:
    step = max(-(-max(image.size) // _SIDE), 1)
    top, left = (min(step // 2, side - 1) for side in truth.shape)  # a side may be shorter than the step
    small = [labels[top::step, left::step].numpy().astype(np.int32) for labels in (truth, prediction)]
    height, width = small[0].shape
    return Case(name, miou, np.asarray(image.resize((width, height), Image.Resampling.BOX)), *small)

"""How good a segmentation model is on labelled images: mIoU, accuracies, confusion, and its worst cases.

Scores only; `report_segmentation.py` draws the page about them.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from beit.core.errors import DataError, require
from beit.core.files import write_json
from beit.core.notebook import Shown
from beit.core.progress import progress_bar
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import Images
from beit.evaluation.classification import EVALUATION_FILE
from beit.inference.sliding_window import DEFAULT_WINDOW, SlidingWindow

if TYPE_CHECKING:
    import torch

    from beit.models.torch.segmentation import BeitForSemanticSegmentation

_SIDE = 320  # longest side in pixels of the pictures that are kept for a report, about


@dataclass(frozen=True)
class Case:
    """An image of the evaluation, made small for a report.

    Attributes:
        name: of the image.
        miou: of this image alone, in [0, 1]; None when it has no labelled pixel.
        image: uint8 `(h, w, 3)`.
        truth: class numbers `(h, w)`.
        prediction: class numbers `(h, w)`.
    """

    name: str
    miou: float | None
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


@dataclass(repr=False)
class SegmentationEvaluation(Shown):
    """Scores of a segmentation model on labelled images, all in [0, 1]. Pixels without a label do not count.

    Attributes:
        count: number of images.
        miou: mean IoU over the classes that have one.
        pixel_accuracy: fraction of all pixels that are right.
        mean_accuracy: mean accuracy over the classes that have one.
        iou: of each class, intersection over union of its true and predicted pixels; None for a class that has neither.
        accuracy: of each class, the fraction of its true pixels that is found; None for a class without true pixels.
        confusion: pixels `(classes, classes)`, the true class by row, the predicted one by column.
        classes: their names.
        ignore_index: the number in label maps that means no label.
        sliding_window: how the images were brought to the model.
        seconds_per_image: from file to label map.
        skipped: why images were skipped, one line per image.
        worst: (name, mIoU) of the images with the lowest mIoU, the worst first.
        examples: images spread over the whole set, for the report; not saved.
        worst_cases: the images of `worst`, for the report; not saved.
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
    sliding_window: SlidingWindow
    seconds_per_image: float
    skipped: list[str]
    worst: list[tuple[str, float]]
    examples: list[Case] = field(default_factory=list, repr=False)
    worst_cases: list[Case] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        return {
            "count": self.count,
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "classes": self.class_rows(),
            "confusion": self.confusion.tolist(),
            "mode": self.sliding_window.mode,
            "short_side": self.sliding_window.short_side,
            "scales": list(self.sliding_window.scales),
            "flip": self.sliding_window.flip,
            "seconds_per_image": round(self.seconds_per_image, 4),
            "skipped": self.skipped,
            "worst": [{"image": name, "miou": value} for name, value in self.worst],
        }

    def class_rows(self) -> list[dict[str, Any]]:
        """For each class its name, IoU, accuracy and number of true pixels."""
        rows = zip(self.classes, self.iou, self.accuracy, self.confusion.sum(1).tolist(), strict=True)
        return [dict(zip(("name", "iou", "accuracy", "pixels"), row, strict=True)) for row in rows]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write evaluation.json."""
        write_json(Path(folder) / EVALUATION_FILE, self.to_dict())

    def shown(self) -> tuple[str, list[tuple[str, ...]]]:
        """As `Shown.shown`: the scores, and the IoU of up to ten classes."""
        rows: list[tuple[str, ...]] = [
            ("mIoU", f"{self.miou:.1%}"),
            ("pixel accuracy", f"{self.pixel_accuracy:.1%}"),
            ("mean accuracy", f"{self.mean_accuracy:.1%}"),
            ("images", f"{self.count:,}"),
        ]
        named = [(name, iou) for name, iou in zip(self.classes, self.iou, strict=True) if iou is not None]
        rows += [(f"IoU of {name}", f"{iou:.1%}") for name, iou in sorted(named, key=lambda row: row[1])[:10]]
        return "SegmentationEvaluation", rows

    def __str__(self) -> str:
        absent = [name for name, value in zip(self.classes, self.accuracy, strict=True) if value is None]
        text = f"mIoU {self.miou:.1%}, pixel accuracy {self.pixel_accuracy:.1%}, mean accuracy {self.mean_accuracy:.1%} on "
        text += f"{self.count} images; {self.seconds_per_image:.2f} s per image"
        if absent:
            shown = ", ".join(absent[:5]) + ", …" * (len(absent) > 5)
            text += (
                f"; {len(absent)} of {len(self.classes)} classes are absent ({shown}), and nothing is said about them"
            )
        return text


def scores_of(confusion: np.ndarray) -> tuple[list[float | None], list[float | None]]:
    """(IoU, accuracy) of each class of a confusion matrix; None where the divisor is 0."""
    hits = np.diag(confusion)
    true, predicted = confusion.sum(1), confusion.sum(0)

    def divided(by: np.ndarray) -> list[float | None]:
        return [int(n) / int(d) if d else None for n, d in zip(hits, by, strict=True)]

    return divided(true + predicted - hits), divided(true)


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def evaluate_segmentation(
    model: BeitForSemanticSegmentation,
    processor: BeitImageProcessor,
    images: Images,
    sliding_window: SlidingWindow = DEFAULT_WINDOW,
    device: torch.device | str | None = None,
    examples: int = 6,
    show: bool = True,
) -> SegmentationEvaluation:
    """Measure a segmentation model.

    Args:
        model: its `semantic_loss_ignore_index` is the number that means no label.
        processor: its image processor.
        images: an `Images` source whose targets are label maps of the model's classes.
        sliding_window: how images are brought to the model.
        device: where to compute; where the model is, if not given.
        examples: how many images from all over the set, and how many of the worst, to keep for the report.
        show: show a bar of the progress, where there is a terminal.

    Raises:
        DataError: more than a tenth of the images cannot be read, or no pixel has a label.
        InputError: a label map does not have the size of its image, or has values that are no classes.
        CheckpointError: the model answers NaN or infinity.
    """
    require("torchmetrics", "train", "evaluation")
    from beit.evaluation.torch.confusion import confusion_of_maps
    from beit.inference.torch.segmentation import Segmenter

    began = time.perf_counter()
    segmenter = Segmenter(model.to(device or model.device), processor, sliding_window)
    classes, ignore = model.config.num_labels, model.config.semantic_loss_ignore_index
    confusion = np.zeros((classes, classes), np.int64)
    bad, count = BadImages(len(images)), 0
    chosen = _Chosen(len(images), examples)
    bar = progress_bar(range(len(images)), purpose="evaluation", shown=show, desc="evaluation", unit="image")
    for index in bar:
        try:
            image, truth = images.read(index), images.target(index)
        except DataError as error:
            bad.add(str(error))
            continue
        prediction = segmenter(image).numpy()
        found = confusion_of_maps(truth, prediction, classes, ignore)
        confusion += found
        chosen.look_at(index, images.name(index), mean_of(scores_of(found)[0]), image, truth, prediction)
        count += 1
    if not int(confusion.sum()):
        raise DataError(
            f"No pixel of the {count} label maps has a label: all are {ignore}, which means none. See --ignore-index."
            if count
            else "None of the images can be read:\n" + str(bad)
        )
    iou, accuracy = scores_of(confusion)
    worst = chosen.worst()
    return SegmentationEvaluation(
        count=count,
        miou=mean_of(iou) or 0.0,
        pixel_accuracy=int(confusion.trace()) / int(confusion.sum()),
        mean_accuracy=mean_of(accuracy) or 0.0,
        iou=iou,
        accuracy=accuracy,
        confusion=confusion,
        classes=model.config.class_names,
        ignore_index=ignore,
        sliding_window=sliding_window,
        seconds_per_image=(time.perf_counter() - began) / count,
        skipped=list(bad.reasons),
        worst=[(case.name, case.miou or 0.0) for case in worst],
        examples=chosen.spread,
        worst_cases=worst,
    )


class _Chosen:
    """The images that are kept for a report: some from all over the set, and the worst.

    Args:
        count: number of images.
        most: how many to keep of each kind.
    """

    def __init__(self, count: int, most: int) -> None:
        self.most = most
        self.spread: list[Case] = []
        self._numbers = set(np.linspace(0, count - 1, min(most, count)).astype(int).tolist())
        # A heap whose smallest entry is the best of the worst, which the next worse image replaces. Of equal ones the earlier
        # stays: entries are (-mIoU, -image number, case).
        self._worst: list[tuple[float, int, Case]] = []

    def look_at(
        self,
        index: int,
        name: str,
        miou: float | None,
        image: Image.Image,
        truth: np.ndarray,
        prediction: np.ndarray,
    ) -> None:
        """Keep the image, if it is one of the chosen."""
        if not self.most or (index not in self._numbers and miou is None):
            return
        case = _small_case(name, miou, image, truth, prediction)
        if index in self._numbers:
            self.spread.append(case)
        if miou is not None:
            push = heapq.heappush if len(self._worst) < self.most else heapq.heappushpop
            push(self._worst, (-miou, -index, case))

    def worst(self) -> list[Case]:
        """The worst images, the worst first."""
        return [case for _, _, case in sorted(self._worst, key=lambda entry: (-entry[0], -entry[1]))]


def _small_case(name: str, miou: float | None, image: Image.Image, truth: np.ndarray, prediction: np.ndarray) -> Case:
    step = max(-(-max(image.size) // _SIDE), 1)
    top, left = (min(step // 2, side - 1) for side in truth.shape)  # a side may be shorter than the step
    small = [labels[top::step, left::step].astype(np.int32) for labels in (truth, prediction)]
    height, width = small[0].shape
    return Case(name, miou, np.asarray(image.resize((width, height), Image.Resampling.BOX)), *small)

"""The page about an evaluation of segmentation: scores of the classes, examples, worst cases, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beit.core.text import printable
from beit.evaluation import figures
from beit.evaluation.report import Report
from beit.evaluation.report_sections import REPORT_FILE, History, add_training
from beit.evaluation.segmentation import Case, SegmentationEvaluation
from beit.inference.colors import coloured, palette

_MOST_CLASSES = 30


def percent(value: float | None) -> str:
    """`12.3%`, or `absent` for None."""
    return "absent" if value is None else f"{value:.1%}"


def write_report(folder: Path, found: SegmentationEvaluation, history: History = ()) -> Path:
    """Write report.html: arguments and result as of `beit.evaluation.reports.write_report`."""
    path = Path(folder) / REPORT_FILE
    page = Report("Segmentation", str(found) + ".")
    add_training(page, history)
    add_evaluation(page, found)
    page.write(path)
    return path


def add_evaluation(page: Report, found: SegmentationEvaluation) -> None:
    """Add the sections about an evaluation to a page: classes, examples, worst cases, confusion."""
    colours = palette(len(found.classes))
    page.heading("Classes")
    header = ["class", "IoU", "pixels found", "true pixels"]
    rows = found.class_rows()
    if len(rows) > _MOST_CLASSES:
        weakest = sorted((row for row in rows if row["iou"] is not None), key=lambda row: row["iou"])[:_MOST_CLASSES]
        page.text(f"The {len(weakest)} classes with the lowest IoU:")
        page.table(header, [_class_row(row) for row in weakest])
        page.table(header, [_class_row(row) for row in rows], summary=f"All {len(rows)} classes")
    else:
        page.table(header, [_class_row(row) for row in rows])
    page.text(
        "IoU: pixels that have the class in both truth and prediction, as a fraction of those that have it in either. A class "
        "that is in neither has no IoU and does not count in the mean."
    )
    page.heading("Examples")
    page.legend(
        [*((printable(name, 80), colours[i]) for i, name in enumerate(found.classes)), ("no label", (255, 255, 255))]
    )
    if found.examples:
        page.text(
            "The prediction has a class everywhere, also where the truth has no label (white); those pixels do not count."
        )
        _add_cases(page, found.examples, colours, found.ignore_index)
    if found.worst_cases:
        page.heading("Worst cases")
        page.text("The images with the lowest mIoU.")
        _add_cases(page, found.worst_cases, colours, found.ignore_index)
    page.heading("Confusion")
    most = np.sort(np.argsort(-found.confusion.sum(1), kind="stable")[:_MOST_CLASSES])
    percents = 100 * found.confusion / np.maximum(found.confusion.sum(1, keepdims=True), 1)
    page.figure(
        figures.confusion(np.round(percents[np.ix_(most, most)]), [found.classes[i] for i in most]),
        "Percent of the pixels of each true class"
        + (f", for the {len(most)} commonest classes." if len(most) < len(found.classes) else "."),
        least_width=figures.least_width(len(most)),
    )
    if found.skipped:
        page.details(f"{len(found.skipped)} images were skipped", "\n".join(found.skipped))


def _class_row(row: dict[str, Any]) -> list[str]:
    return [printable(row["name"]), percent(row["iou"]), percent(row["accuracy"]), f"{row['pixels']:,}"]


def _add_cases(page: Report, cases: Sequence[Case], colours: np.ndarray, ignore_index: int) -> None:
    """A line per case: image, truth, prediction. Pixels without a label are white in the truth; the prediction is whole."""
    lines = []
    for case in cases:
        maps = [np.where(case.truth == ignore_index, -1, case.truth), case.prediction]
        pictures = [Image.fromarray(array) for array in (case.image, *(coloured(labels, colours) for labels in maps))]
        lines.append((f"{printable(Path(case.name).name, 80)} · mIoU {percent(case.miou)}", pictures))
    page.picture_lines(("image", "truth", "prediction"), lines)

"""The page about an evaluation of segmentation: scores of the classes, examples, worst cases, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beit.core.text import printable
from beit.evaluation import figures
from beit.evaluation.report import Report
from beit.evaluation.segmentation import Case, SegmentationEvaluation
from beit.inference.colors import coloured, palette

REPORT_FILE = "report.html"
_MOST_CLASSES_IN_CONFUSION = 30


def percent(value: float | None) -> str:
    """`12.3%`, or `absent` for None."""
    return "absent" if value is None else f"{value:.1%}"


def write_report(folder: Path, found: SegmentationEvaluation) -> Path:
    """Write report.html into a folder, with the sections of `add_evaluation`; returns its path."""
    path = Path(folder) / REPORT_FILE
    page = Report("Segmentation", str(found) + ".")
    add_evaluation(page, found)
    page.write(path)
    return path


def add_evaluation(page: Report, found: SegmentationEvaluation) -> None:
    """Add the sections about an evaluation to a page: classes, examples, worst cases, confusion."""
    colours = palette(len(found.classes))
    page.heading("Classes")
    page.table(
        ["class", "IoU", "pixels found", "true pixels"],
        [
            [printable(row["name"]), percent(row["iou"]), percent(row["accuracy"]), f"{row['pixels']:,}"]
            for row in found.class_rows()
        ],
    )
    page.text(
        "IoU: pixels that have the class in both truth and prediction, as a fraction of those that have it in either. A class "
        "that is in neither has no IoU and does not count in the mean."
    )
    page.heading("Examples")
    page.figure(_legend_figure(found.classes, colours), "The colours of the classes; white: no label.")
    if found.examples:
        page.figure(
            _case_figure(found.examples, colours, found.ignore_index),
            "The prediction has a class everywhere, also where the truth has no label (white); those pixels do not count.",
        )
    if found.worst_cases:
        page.heading("Worst cases")
        page.figure(_case_figure(found.worst_cases, colours, found.ignore_index), "The images with the lowest mIoU.")
    page.heading("Confusion")
    most = np.sort(np.argsort(-found.confusion.sum(1), kind="stable")[:_MOST_CLASSES_IN_CONFUSION])
    percents = 100 * found.confusion / np.maximum(found.confusion.sum(1, keepdims=True), 1)
    page.figure(
        figures.confusion(np.round(percents[np.ix_(most, most)]), [found.classes[i] for i in most]),
        "Percent of the pixels of each true class"
        + (f", for the {len(most)} commonest classes." if len(most) < len(found.classes) else "."),
    )
    if found.skipped:
        page.details(f"{len(found.skipped)} images were skipped", "\n".join(found.skipped))


def _legend_figure(classes: Sequence[str], colours: np.ndarray) -> Any:
    pyplot = figures.load_pyplot()
    handles = [
        pyplot.Rectangle((0, 0), 1, 1, color=colour / 255, label=printable(name, 80))
        for name, colour in zip(classes, colours, strict=True)
    ]
    columns = min(6, len(classes))
    figure = pyplot.figure(figsize=(9, 0.3 * -(-len(classes) // columns) + 0.1))
    figure.legend(handles=handles, loc="center", ncol=columns, frameon=False, fontsize=8, mode="expand")
    return figure


def _case_figure(cases: Sequence[Case], colours: np.ndarray, ignore_index: int) -> Any:
    """A row per case: image, truth, prediction. Pixels without a label are white in the truth; the prediction is whole."""
    pyplot = figures.load_pyplot()
    # A row is as high as its image at a width of 3 inches, within limits.
    heights = [3.0 * min(max(case.image.shape[0] / case.image.shape[1], 0.1), 2.0) + 0.3 for case in cases]
    figure, axes = pyplot.subplots(
        len(cases),
        3,
        figsize=(9, sum(heights)),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    for axis, heading in zip(axes[0], ("image", "truth", "prediction"), strict=True):
        axis.annotate(heading, (0.5, 1), (0, 14), "axes fraction", "offset points", ha="center", fontweight="bold")
    for line, case in zip(axes, cases, strict=True):
        maps = [np.where(case.truth == ignore_index, -1, case.truth), case.prediction]
        for axis, picture in zip(line, (case.image, *(coloured(labels, colours) for labels in maps)), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.axis("off")
        line[0].set_title(printable(Path(case.name).name, 80), fontsize=7, loc="left")
        line[2].set_title(f"mIoU {percent(case.miou)}", fontsize=7, loc="right")
    return figure

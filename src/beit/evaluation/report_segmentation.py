"""Colours for classes, pictures of label maps, and the page about an evaluation of segmentation."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from beit.evaluation import report

if TYPE_CHECKING:
    from beit.evaluation.segmentation import Case, SegmentationEvaluation

_NOTHING = (255, 255, 255)  # the colour of pixels without a label
_MOST_CLASSES_IN_CONFUSION = 30
# Twenty colours that are easily told apart; further classes go round the circle of hues.
_FIRST = (
    "4363d8 e6194b 3cb44b ffe119 f58231 911eb4 42d4f4 f032e6 bfef45 fabed4 "
    "469990 dcbeff 9a6324 fffac8 800000 aaffc3 808000 ffd8b1 000075 a9a9a9"
).split()
_GOLDEN = 0.61803398875  # turns of the hue from one class to the next: never near one of the last few


def palette(classes: int) -> np.ndarray:
    """uint8 `(classes, 3)`: the same colour for the same class number."""
    colours = [tuple(bytes.fromhex(colour)) for colour in _FIRST[:classes]]
    for number in range(len(colours), classes):
        hue, saturation, value = number * _GOLDEN % 1, (0.85, 0.5)[number // 2 % 2], (0.95, 0.6)[number % 2]
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
        colours.append((red, green, blue))
    return np.array(colours, np.uint8).reshape(-1, 3)


def coloured(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Class numbers `(h, w)` → uint8 `(h, w, 3)`; white for numbers that are no class, and for the ignore index among them."""
    table = np.concatenate([colours, np.array([_NOTHING], np.uint8)])
    known = (labels >= 0) & (labels < len(colours))
    return table[np.where(known, labels, len(colours))]


def overlay(image: Image.Image, labels: np.ndarray, colours: np.ndarray, opacity: float = 0.55) -> Image.Image:
    """The image in RGB with its label map `(H, W)` on it."""
    return Image.blend(image, Image.fromarray(coloured(labels, colours)), opacity)


def legend(classes: Sequence[str], colours: np.ndarray) -> Image.Image:
    """A picture with the colour, number and name of each class."""
    font, line, rows = ImageFont.load_default(16), 26, 40
    texts = [f"{number}  {name}" for number, name in enumerate(classes)]
    width = 44 + int(max(font.getlength(text) for text in texts))
    columns = -(-len(texts) // rows)
    picture = Image.new("RGB", (width * columns + 8, line * min(len(texts), rows) + 8), "white")
    draw = ImageDraw.Draw(picture)
    for number, (text, colour) in enumerate(zip(texts, colours, strict=True)):
        left, top = 8 + number // rows * width, 6 + number % rows * line
        draw.rectangle((left, top, left + 20, top + 18), fill=tuple(colour.tolist()))
        draw.text((left + 28, top), text, fill="black", font=font)
    return picture


def percent(value: float | None) -> str:
    """`12.3 %`, or `absent`."""
    return "absent" if value is None else f"{value:.1%}"


def write_report(path: Path, found: SegmentationEvaluation) -> None:
    """Write the page about an evaluation."""
    page = report.Report("Segmentation", str(found) + ".")
    add_evaluation(page, found)
    page.write(path)


def add_evaluation(page: report.Report, found: SegmentationEvaluation) -> None:
    """The sections about an evaluation: classes, pictures, confusion."""
    colours = palette(len(found.classes))
    page.heading("Classes")
    page.table(
        ["class", "IoU", "pixels found", "true pixels"],
        [
            [row["name"], percent(row["iou"]), percent(row["accuracy"]), f"{row['pixels']:,}"]
            for row in found.class_rows()
        ],
    )
    page.text(
        "IoU: pixels that are of the class in truth and prediction, as a part of those that are in either. A class that is in "
        "neither has none, and does not count in the mean."
    )
    page.heading("Examples")
    page.figure(_legend_figure(found.classes, colours), "The colours of the classes; white: no label.")
    if found.examples:
        page.figure(_case_figure(found.examples, colours, found.ignore_index), "Image, truth, prediction.")
    if found.worst_cases:
        page.heading("Worst cases")
        page.figure(_case_figure(found.worst_cases, colours, found.ignore_index), "The images with the lowest mIoU.")
    page.heading("Confusion")
    most = np.sort(np.argsort(-found.confusion.sum(1), kind="stable")[:_MOST_CLASSES_IN_CONFUSION])
    percents = 100 * found.confusion / np.maximum(found.confusion.sum(1, keepdims=True), 1)
    page.figure(
        report.confusion(np.round(percents[np.ix_(most, most)]), [found.classes[i] for i in most]),
        "Percent of each true class's pixels"
        + (f", the {len(most)} commonest classes." if len(most) < len(found.classes) else "."),
    )
    if found.skipped:
        page.details(f"{len(found.skipped)} images were skipped", "\n".join(found.skipped))


def _legend_figure(classes: Sequence[str], colours: np.ndarray) -> Any:
    pyplot = report._pyplot()
    handles = [
        pyplot.Rectangle((0, 0), 1, 1, color=colour / 255, label=name)
        for name, colour in zip(classes, colours, strict=True)
    ]
    columns = min(6, len(classes))
    figure = pyplot.figure(figsize=(9, 0.3 * -(-len(classes) // columns) + 0.1))
    figure.legend(handles=handles, loc="center", ncol=columns, frameon=False, fontsize=8, mode="expand")
    return figure


def _case_figure(cases: Sequence[Case], colours: np.ndarray, ignore_index: int) -> Any:
    """Rows of image, truth and prediction; the pixels without a label are white in both maps."""
    pyplot = report._pyplot()
    # A row is as high as its image at 3 inches' width, within reason.
    heights = [3.0 * min(max(case.image.shape[0] / case.image.shape[1], 0.1), 2.0) + 0.3 for case in cases]
    figure, axes = pyplot.subplots(
        len(cases),
        3,
        figsize=(9, sum(heights)),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    for line, case in zip(axes, cases, strict=True):
        nothing = case.truth == ignore_index
        maps = [np.where(nothing, -1, labels) for labels in (case.truth, case.prediction)]
        for axis, picture in zip(line, (case.image, *(coloured(labels, colours) for labels in maps)), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.axis("off")
        line[0].set_title(Path(case.name).name, fontsize=7, loc="left")
        line[2].set_title(f"mIoU {percent(case.miou)}", fontsize=7, loc="right")
    return figure

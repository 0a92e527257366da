"""The page about a classifier: how it was trained, how good it is, what it confuses, and what its probabilities are worth."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beit.core.text import printable
from beit.evaluation import figures
from beit.evaluation.calibration import BINS, Calibration
from beit.evaluation.classification import Evaluation
from beit.evaluation.gallery import Attended, Shown
from beit.evaluation.multi_label import LabelScores
from beit.evaluation.report import Report
from beit.evaluation.report_sections import REPORT_FILE, History, add_training, draw, short_name
from beit.evaluation.scores import ClassScores, confused_pairs, weakest, wilson
from beit.inference.attention import heat_over

_MOST_IN_MATRIX = 30  # classes; beyond them the commonest mistakes are a table
_MOST_IN_PLOT = 30
_MOST_BESIDE = 12  # classes of a matrix that leaves room for a table beside it
_MOST_PAIRS = 20


def write_report(folder: Path, found: Evaluation, history: History = ()) -> Path:
    """Write report.html: arguments and result as of `beit.evaluation.reports.write_report`."""
    page = Report("Classification", f"{found}.")
    add_training(page, history)
    add_evaluation(page, found)
    path = Path(folder) / REPORT_FILE
    page.write(path)
    return path


# --- evaluation ------------------------------------------------------------------------------------------------------


def add_evaluation(page: Report, found: Evaluation) -> None:
    """Add the sections about an evaluation: classes, confusion, calibration, pictures."""
    if not found.count:
        page.text("No image could be read.", warn=True)
    else:
        _add_classes(page, found)
        _add_confusion(page, found)
        if found.labels is not None:
            add_labels(page, found.labels)
        _add_calibration(page, found)
        _add_pictures(page, found)
    if found.skipped:
        page.details(f"{len(found.skipped)} images were skipped", "\n".join(found.skipped))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    return "–" if value is None or interval is None else f"{value:.1%} ({interval[0]:.0%} – {interval[1]:.0%})"


def _add_classes(page: Report, found: Evaluation) -> None:
    low, high = found.interval
    page.heading("Scores")
    rows = [["top-1", f"{found.top1:.1%}", f"{low:.1%} – {high:.1%}"]]
    if found.top5 is not None:
        low, high = wilson(round(found.top5 * found.count), found.count)
        rows.append(["top-5", f"{found.top5:.1%}", f"{low:.1%} – {high:.1%}"])
    rows.append(["macro-F1", f"{found.macro_f1:.1%}", ""])
    rows.append(["cross-entropy, nats", f"{found.loss:.3f}", ""])
    if found.ece is not None:
        rows.append(["calibration error (ECE)", f"{found.ece:.1%}", ""])
    if found.mean_average_precision is not None:
        rows.append(["mean average precision", f"{found.mean_average_precision:.1%}", ""])
    page.table(["score", "value", "95 % interval"], rows)
    page.heading("Classes")
    page.text(
        "Precision: of the images that the model takes for the class, the fraction that is. Recall: of the images of the class, "
        "the fraction that is found. F1: their harmonic mean; macro-F1 is its mean over all classes that are true or predicted "
        "somewhere. In brackets 95 % intervals (Wilson); – where nothing can be counted."
    )
    header = ["class", "images", "precision", "recall", "F1"]
    if len(found.classes) > _MOST_IN_PLOT:
        shown = weakest(found.per_class, _MOST_IN_PLOT)
        page.text(f"The {len(shown)} classes with the lowest F1:")
        page.table(header, [_class_row(row) for row in shown])
        page.table(header, [_class_row(row) for row in found.per_class], summary=f"All {len(found.classes)} classes")
        return
    with page.row():
        page.table(header, [_class_row(row) for row in found.per_class])
        draw(page, lambda: page.figure(_class_plot(found.per_class), "Precision and recall with 95 % intervals."))


def _class_row(row: ClassScores) -> list[str]:
    return [
        printable(row.name, 80),
        f"{row.support:,}",
        _with_interval(row.precision, row.precision_interval),
        _with_interval(row.recall, row.recall_interval),
        _percent(row.f1),
    ]


def _class_plot(rows: Sequence[ClassScores]) -> Any:
    def dots(
        pairs: Sequence[tuple[float | None, tuple[float, float] | None]],
    ) -> list[tuple[float, float, float] | None]:
        return [None if value is None or ends is None else (value, *ends) for value, ends in pairs]

    return figures.dots_with_intervals(
        [row.name for row in rows],
        [
            ("precision", dots([(row.precision, row.precision_interval) for row in rows])),
            ("recall", dots([(row.recall, row.recall_interval) for row in rows])),
        ],
    )


def _add_confusion(page: Report, found: Evaluation) -> None:
    page.heading("Confusion")
    count = len(found.classes)
    with page.row() if count <= _MOST_BESIDE else contextlib.nullcontext():
        if count <= _MOST_IN_MATRIX:
            draw(
                page,
                lambda: page.figure(
                    figures.confusion(found.confusion, found.classes),
                    "Number of images; shades are fractions of the true class.",
                    least_width=figures.least_width(count),
                ),
            )
        with page.column():
            _add_pairs(page, found)


def _add_pairs(page: Report, found: Evaluation) -> None:
    """Add the commonest mistakes."""
    pairs = confused_pairs(found.confusion, _MOST_PAIRS if len(found.classes) > _MOST_IN_MATRIX else 10)
    if not pairs:
        page.text("Every image got its own class.")
        return
    supports = found.confusion.sum(1)
    page.text("The commonest mistakes:")
    page.table(
        ["true class", "taken for", "images", "of the true class"],
        [
            [
                printable(found.classes[true], 60),
                printable(found.classes[guess], 60),
                f"{wrong:,}",
                _with_interval(wrong / int(supports[true]), wilson(wrong, int(supports[true]))),
            ]
            for true, guess, wrong in pairs
        ],
    )


def add_labels(page: Report, rows: Sequence[LabelScores]) -> None:
    """Add the section about a model that gives several labels: average precision and thresholds."""
    page.heading("Labels")
    page.text(
        "Average precision: the area below precision over recall, which needs no threshold. The threshold with the highest F1 was "
        "chosen on these same images, so that F1 is optimistic; check it on others."
    )
    if len(rows) > _MOST_IN_PLOT:
        rows = sorted(rows, key=lambda row: 2.0 if row.average_precision is None else row.average_precision)
    body = [
        [
            printable(row.name, 80),
            f"{row.support:,}",
            _percent(row.average_precision),
            _percent(row.f1_at_half),
            "–" if row.threshold is None else f"{row.threshold:.3f}",
            _percent(row.f1_at_threshold),
        ]
        for row in rows
    ]
    header = ["label", "images", "average precision", "F1 above one half", "best threshold", "F1 with it"]
    page.table(header, body[:_MOST_IN_PLOT])
    if len(body) > _MOST_IN_PLOT:
        page.table(header, body, summary=f"All {len(body)} labels, the weakest first")


def _add_calibration(page: Report, found: Evaluation) -> None:
    page.heading("Calibration")
    if found.calibration is None:
        page.text("Left out: the probabilities of several labels per image do not add up to 1.")
        return
    bins = found.calibration
    ends = [wilson(int(right), int(count)) for right, count in zip(bins.right, bins.counts, strict=True)]
    with page.row():
        draw(
            page,
            lambda: page.figure(
                figures.reliability(bins.counts, bins.confidence, bins.right, ends),
                "Reliability: how often answers of a certain probability are right, with 95 % intervals, and how many "
                "images there are. Dots below the line: the model is too sure.",
            ),
        )
        with page.column():
            _explain_calibration(page, found, bins)


def _explain_calibration(page: Report, found: Evaluation, bins: Calibration) -> None:
    page.text(
        f"Expected calibration error (ECE) {bins.ece:.1%}: answers are sorted by their probability into {BINS} bins of equal width, "
        "and the error is the mean over all images of the difference between mean probability and fraction right of their bin. "
        "With few images it is above 0 by chance alone."
    )
    if found.temperature is None or found.calibrated is None:
        page.text(
            "No temperature is offered: the cross-entropy has no least value at any, as when every answer is right."
        )
        return
    kind = "less" if found.temperature > 1 else "more"
    page.text(
        f"Logits divided by {found.temperature:.2f} (temperature) have the least cross-entropy, which makes the model {kind} "
        f"sure and the ECE {found.calibrated.ece:.1%}. The temperature was fitted on these same images, so that figure is "
        "optimistic. It changes no answer, and is not applied anywhere: it is a number in evaluation.json."
    )


# --- pictures --------------------------------------------------------------------------------------------------------


def _add_pictures(page: Report, found: Evaluation) -> None:
    gallery = found.gallery
    if gallery is None:
        return
    names = [printable(name, 40) for name in found.classes]
    mistakes, unsure = gallery.mistakes, gallery.unsure
    if mistakes:
        page.heading("Most confident mistakes")
        page.text("Wrong answers with the highest probability. Look for wrong labels among them.")
        page.pictures([_card(shown, names) for shown in mistakes])
    if unsure:
        page.heading("Least sure")
        page.text("Answers, right or wrong, whose most probable class has the lowest probability.")
        page.pictures([_card(shown, names) for shown in unsure])
    if gallery.attended:
        page.heading("Attention")
        page.text(
            f"Attention of {gallery.attention_of} to each patch in the last layer, mean of its heads: bright is much, dark is little, "
            "in proportion to the largest of the image. It shows where information is taken from, not why the answer is given."
        )
        page.pictures([_attention_card(shown, names) for shown in gallery.attended], pairs=True)


def _said(truth: int, answer: int, names: Sequence[str]) -> str:
    return f"{names[answer]}, right" if truth == answer else f"{names[answer]}, is {names[truth]}"


def _card(shown: Shown, names: Sequence[str]) -> tuple[Image.Image, str, str]:
    first = f"{_said(shown.truth, shown.answer, names)}"
    return shown.picture, first, f"{shown.probability:.1%} · {short_name(shown.name)}"


def _attention_card(shown: Attended, names: Sequence[str]) -> tuple[Image.Image, str, str]:
    """The image, and beside it the same in grey below its attention."""
    picture = Image.fromarray((255 * shown.picture).round().clip(0, 255).astype(np.uint8))
    heat = heat_over(picture, shown.attention)
    image = Image.new("RGB", (2 * picture.width, picture.height))
    image.paste(picture, (0, 0))
    image.paste(heat, (picture.width, 0))
    image.thumbnail((480, 240))
    return image, _said(shown.truth, shown.answer, names), short_name(shown.name)

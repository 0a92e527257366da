"""The figures of reports and probes, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from beit.core.errors import require
from beit.core.text import as_utf8, printable

# Blue, orange, green and red of Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00")


def load_pyplot() -> Any:
    """`matplotlib.pyplot`, set up for files: no window opens. Raises MissingExtraError without matplotlib."""
    matplotlib: Any = require("matplotlib", "train", "the pictures of a report")
    matplotlib.use("Agg")
    pyplot = require("matplotlib.pyplot", "train", "the pictures of a report")
    pyplot.rcParams.update(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "text.parse_math": False,  # a name may contain a dollar sign
        }
    )
    return pyplot


def curves(panels: Sequence[tuple[str, str, Sequence[tuple[str, Sequence[float], Sequence[float]]]]]) -> Any:
    """A row of line plots over the steps of a run.

    Args:
        panels: (title, label of the y axis, lines); a line is (name, x, y).
    """
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.4), squeeze=False)
    for axis, (title, label, lines) in zip(axes[0], panels, strict=True):
        for number, (name, x, y) in enumerate(lines):
            axis.plot(x, y, label=name, color=COLOURS[number % len(COLOURS)], linewidth=1.8)
        axis.set(title=title, xlabel="step", ylabel=label)
        if len(lines) > 1:
            axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def picture_rows(rows: Sequence[tuple[str, np.ndarray]], size: float = 1.0) -> Any:
    """Rows of pictures, one below the other.

    Args:
        rows: (name, pictures `(n, H, W, 3)` in [0, 1]).
        size: of one picture, in inches.
    """
    pyplot = load_pyplot()
    count = max(len(pictures) for _, pictures in rows)
    figure, axes = pyplot.subplots(len(rows), count, figsize=(size * count, size * len(rows) * 1.08), squeeze=False)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture, interpolation="nearest", vmin=0, vmax=1)
        line[0].text(-0.12, 0.5, printable(name, 80), transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    return figure


def attention_maps(pictures: np.ndarray, maps: np.ndarray, titles: Sequence[str], size: float = 1.25) -> Any:
    """Pictures, and below each how much attention each of its patches gets.

    Args:
        pictures: `(n, H, W, 3)` in [0, 1].
        maps: attention weights of the patches, `(n, h, w)`.
        titles: one per picture.
        size: of one picture, in inches.
    """
    pyplot = load_pyplot()
    count = len(pictures)
    figure, axes = pyplot.subplots(2, count, figsize=(size * count, size * 2.3), squeeze=False)
    for column in range(count):
        above, below = axes[0, column], axes[1, column]
        above.imshow(pictures[column], interpolation="nearest")
        above.set_title(as_utf8(titles[column]), fontsize=8)
        height, width = pictures.shape[1:3]
        below.imshow(pictures[column].mean(-1), cmap="gray", interpolation="nearest", extent=(0, width, height, 0))
        below.imshow(maps[column], cmap="inferno", alpha=0.65, interpolation="bilinear", extent=(0, width, height, 0))
        for axis in (above, below):
            axis.axis("off")
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    return figure


def least_width(classes: int) -> int:
    """Pixels of a page below which the letters in a confusion matrix of so many classes could not be read."""
    return 34 * classes if classes > 5 else 0


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Any:
    """A confusion matrix `(classes, classes)`, the true class by row; shades are fractions of the row."""
    pyplot = load_pyplot()
    fractions = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    names = [printable(name, 80) for name in classes]
    side = max(3.4, 0.46 * len(classes))  # small, so that its letters can be read on a narrow page
    figure, axis = pyplot.subplots(figsize=(side, side))
    axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true")
    axis.set_xticks(range(len(classes)), names, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(classes)), names, fontsize=8)
    axis.grid(False)
    if len(classes) <= 30:
        for row in range(len(classes)):
            for column in range(len(classes)):
                if matrix[row, column]:
                    colour = "white" if fractions[row, column] > 0.55 else "black"
                    axis.text(column, row, int(matrix[row, column]), ha="center", va="center", color=colour, fontsize=7)
    return figure


def accuracy_bars(rows: Sequence[tuple[str, float, tuple[float, float]]]) -> Any:
    """Accuracies in [0, 1] with their confidence intervals as horizontal bars; the last row is highlighted."""
    pyplot = load_pyplot()
    figure, axis = pyplot.subplots(figsize=(8, 0.55 * len(rows) + 0.9))
    for number, (_, value, (low, high)) in enumerate(rows):
        last = number == len(rows) - 1
        axis.barh(number, 100 * value, color=COLOURS[0] if last else "#9ab", height=0.62)
        error = [[100 * (value - low)], [100 * (high - value)]]
        axis.errorbar(100 * value, number, xerr=error, color="black", capsize=3, linewidth=1)
        axis.text(100 * high + 0.4, number, f"{100 * value:.1f}", va="center", fontsize=9)
    lowest = min(low for _, _, (low, _) in rows)
    axis.set_xlim(max(0, 100 * lowest - 10), min(100, 100 * max(high for _, _, (_, high) in rows) + 5))
    axis.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axis.invert_yaxis()
    axis.set_xlabel("top-1 accuracy, %, with 95 % confidence interval")
    return figure


def line_plot(title: str, label: str, lines: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> Any:
    """One narrow plot over the steps of a run, whose y axis begins at 0; lines are (name, x, y)."""
    pyplot = load_pyplot()
    figure, axis = pyplot.subplots(figsize=(4.6, 3.2))
    for number, (name, x, y) in enumerate(lines):
        mark = "o" if len(x) < 30 else None
        style = "-" if number == 0 else "--"  # told apart without colours too
        axis.plot(
            x, y, style, label=name, color=COLOURS[number % len(COLOURS)], linewidth=1.8, marker=mark, markersize=4
        )
    highest = max((value for _, _, y in lines for value in y if np.isfinite(value)), default=1.0)
    axis.set(title=title, xlabel="step", ylabel=label)
    axis.set_ylim(0, 1.06 * highest or 1.0)
    if len(lines) > 1:
        axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def dots_with_intervals(
    names: Sequence[str],
    columns: Sequence[tuple[str, Sequence[tuple[float, float, float] | None]]],
) -> Any:
    """Proportions as dots with their confidence intervals, a row per name, on an axis from 0 to 100 %.

    Args:
        names: of the rows, the first on top.
        columns: (name, for each row (value, low, high) in [0, 1], or None for no dot).
    """
    pyplot = load_pyplot()
    figure, axis = pyplot.subplots(figsize=(4.6, 0.34 * len(names) + 1.3))
    for number, (label, values) in enumerate(columns):
        known = [(row, *value) for row, value in enumerate(values) if value is not None]
        if not known:
            continue
        rows, value, low, high = np.array(known, np.float64).T
        place = rows + 0.26 * (number - (len(columns) - 1) / 2)
        error = 100 * np.array([value - low, high - value]).clip(0)
        axis.errorbar(
            100 * value, place, xerr=error, label=label, color=COLOURS[number], fmt="os^v"[number], capsize=2, ls=""
        )
    axis.set_yticks(range(len(names)), [printable(name, 28) for name in names])
    axis.set(xlim=(-2, 102), xlabel="%", ylim=(len(names) - 0.4, -0.6))
    figure.legend(loc="upper center", ncol=len(columns), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / figure.get_figheight()))
    return figure


def reliability(
    counts: np.ndarray, confidence: np.ndarray, right: np.ndarray, interval: Sequence[tuple[float, float]]
) -> Any:
    """How often answers of a certain probability are right, with intervals; below it the number of images.

    Args:
        counts: images of each bin of equal width, `(bins,)`.
        confidence: their mean probability, `(bins,)`.
        right: how many are right, `(bins,)`.
        interval: of the fraction that is right, for each bin.
    """
    pyplot = load_pyplot()
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(4.6, 4.8), sharex=True, gridspec_kw={"height_ratios": (3, 1)}
    )
    full = counts > 0
    value = right[full] / counts[full]
    low, high = np.array(interval)[full].reshape(-1, 2).T
    error = 100 * np.array([value - low, high - value]).clip(0)
    above.plot([0, 100], [0, 100], "--", color="#777", linewidth=1, label="as sure as it is right")
    above.errorbar(100 * confidence[full], 100 * value, error, fmt="o", color=COLOURS[0], capsize=3, label="images")
    above.set(ylabel="right, %", ylim=(-2, 102), xlim=(0, 100))
    edges = np.linspace(0, 100, len(counts) + 1)
    below.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=COLOURS[0], edgecolor="white")
    below.set(xlabel="probability of the predicted class, %", ylabel="images")
    figure.legend(loc="upper center", ncol=2, frameon=False)  # above the dots, which may be anywhere
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / figure.get_figheight()))
    return figure


def scatter(name: str, truth: np.ndarray, answers: np.ndarray) -> Any:
    """True numbers `(n,)` against answers `(n,)`, both on axes of one range, and the line on which they are equal."""
    pyplot = load_pyplot()
    figure, axis = pyplot.subplots(figsize=(4.6, 4.4))
    low, high = min(truth.min(), answers.min()), max(truth.max(), answers.max())
    room = 0.04 * (high - low) or 1.0
    span = (low - room, high + room)
    axis.plot(span, span, "--", color="#777", linewidth=1)
    axis.scatter(truth, answers, s=14, color=COLOURS[0], alpha=0.5 if len(truth) > 50 else 0.9, linewidths=0)
    axis.set(title=printable(name, 40), xlabel="true", ylabel="predicted", xlim=span, ylim=span)
    figure.tight_layout()
    return figure

"""Pictures and plots of a run, and the page that holds them: one HTML file that opens without a connection."""

from __future__ import annotations

import base64
import html
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beit.core.errors import require
from beit.core.files import atomic_path

# Blue, orange, green, red of Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --good: #009E73; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.6rem; border-bottom: 1px solid var(--line); }
p.lead { font-size: 1.15rem; } figure { margin: 1.2rem 0; } figcaption { color: #777; font-size: .9rem; }
img { max-width: 100%; background: #fff; border-radius: 6px; } img.pixels { image-rendering: pixelated; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .35rem .6rem; text-align: left; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } tr.best { background: var(--soft); font-weight: 600; }
code, pre { font: .86rem ui-monospace, monospace; } pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: 6px; }
details { margin: .5rem 0; } .warn { border-left: 4px solid #D55E00; padding-left: .8rem; }
"""


class Report:
    """Collects sections and writes them as one page.

    Args:
        title: of the page.
        lead: one or two sentences with the result.
    """

    def __init__(self, title: str, lead: str) -> None:
        self.title = title
        self.parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(lead)}</p>']

    def heading(self, text: str) -> None:
        """A section's heading."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str, warn: bool = False) -> None:
        """A paragraph."""
        self.parts.append(f"<p{' class=warn' * warn}>{html.escape(text)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]], best: int | None = None) -> None:
        """A table; all columns but the first are set as numbers, row `best` is marked."""

        def cell(tag: str, column: int, value: Any) -> str:
            kind = ' class="n"' if column > 0 else ""
            return f"<{tag}{kind}>{html.escape(str(value))}</{tag}>"

        head = "".join(cell("th", i, name) for i, name in enumerate(header))
        body = ""
        for number, row in enumerate(rows):
            mark = ' class="best"' if number == best else ""
            body += f"<tr{mark}>" + "".join(cell("td", i, value) for i, value in enumerate(row)) + "</tr>\n"
        self.parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )

    def figure(self, figure: Any, caption: str) -> None:
        """A matplotlib figure, as a PNG inside the page; the figure is closed."""
        pyplot = _pyplot()
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # names in scripts that the font lacks
            figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight", facecolor="white")
        pyplot.close(figure)
        data = base64.b64encode(buffer.getvalue()).decode()
        caption = html.escape(caption)
        self.parts.append(
            f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
        )

    def details(self, summary: str, text: str) -> None:
        """Text to unfold."""
        self.parts.append(f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>")

    def write(self, path: Path) -> None:
        """Write the page, atomically."""
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>\n'
        )
        with atomic_path(path) as temporary:
            temporary.write_text(page + "\n".join(self.parts) + "\n</body></html>\n", encoding="utf-8")


def _pyplot() -> Any:
    matplotlib: Any = require("matplotlib", "train", "the pictures of a report")
    matplotlib.use("Agg")  # no window
    pyplot = require("matplotlib.pyplot", "train", "the pictures of a report")
    pyplot.rcParams.update(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "text.parse_math": False,  # names may have dollars in them
        }
    )
    return pyplot


def curves(panels: Sequence[tuple[str, str, Sequence[tuple[str, Sequence[float], Sequence[float]]]]]) -> Any:
    """A row of line plots.

    Args:
        panels: (title, y label, lines); a line is (name, x, y).
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.4), squeeze=False)
    for axis, (title, label, lines) in zip(axes[0], panels, strict=True):
        for number, (name, x, y) in enumerate(lines):
            axis.plot(x, y, label=name, color=COLOURS[number % len(COLOURS)], linewidth=1.8)
        axis.set(title=title, xlabel="step", ylabel=label)
        if len(lines) > 1:
            axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def layer_curves(
    path: Path,
    layers: Sequence[int],
    lines: Sequence[tuple[str, Sequence[float], Sequence[tuple[float, float]]]],
    chance: float,
) -> None:
    """Write a PNG: accuracies over the layers of a network, with confidence intervals and the accuracy of guessing.

    Args:
        path: the file.
        layers: their numbers.
        lines: (name, accuracy of each layer, its interval); values in [0, 1].
        chance: accuracy of always guessing the commonest class.
    """
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(6.4, 4))
    for number, (name, values, intervals) in enumerate(lines):
        low, high = np.array(intervals).T
        error = 100 * np.array([np.array(values) - low, high - np.array(values)]).clip(0)
        place = np.array(layers) + 0.06 * number  # side by side, where intervals overlap
        axis.errorbar(place, 100 * np.array(values), error, label=name, color=COLOURS[number], marker="o", capsize=3)
    axis.axhline(100 * chance, color="#777", linestyle="--", linewidth=1, label="the commonest class alone")
    axis.set(xlabel="layer", ylabel="top-1 accuracy, %, with 95 % confidence interval", xticks=list(layers))
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    figure.savefig(path, format="png", dpi=130, bbox_inches="tight", facecolor="white")
    pyplot.close(figure)


def picture_rows(rows: Sequence[tuple[str, np.ndarray]], size: float = 1.0) -> Any:
    """Rows of pictures under each other.

    Args:
        rows: (name, pictures `(n, H, W, 3)` in [0, 1]).
        size: of a picture, in inches.
    """
    pyplot = _pyplot()
    count = max(len(pictures) for _, pictures in rows)
    figure, axes = pyplot.subplots(len(rows), count, figsize=(size * count, size * len(rows) * 1.08), squeeze=False)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture, interpolation="nearest", vmin=0, vmax=1)
        line[0].text(-0.12, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    return figure


def attention_maps(pictures: np.ndarray, maps: np.ndarray, titles: Sequence[str], size: float = 1.25) -> Any:
    """Pictures, and how strongly each patch was attended to.

    Args:
        pictures: `(n, H, W, 3)` in [0, 1].
        maps: `(n, h, w)` attention on the patches.
        titles: one a picture.
        size: of a picture, in inches.
    """
    pyplot = _pyplot()
    count = len(pictures)
    figure, axes = pyplot.subplots(2, count, figsize=(size * count, size * 2.3), squeeze=False)
    for column in range(count):
        above, below = axes[0, column], axes[1, column]
        above.imshow(pictures[column], interpolation="nearest")
        above.set_title(titles[column], fontsize=8)
        height, width = pictures.shape[1:3]
        below.imshow(pictures[column].mean(-1), cmap="gray", interpolation="nearest", extent=(0, width, height, 0))
        below.imshow(maps[column], cmap="inferno", alpha=0.65, interpolation="bilinear", extent=(0, width, height, 0))
        for axis in (above, below):
            axis.axis("off")
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Any:
    """A confusion matrix `(classes, classes)`, true class by row, as parts of the row."""
    pyplot = _pyplot()
    parts = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = max(4.0, 0.62 * len(classes))
    figure, axis = pyplot.subplots(figsize=(side, side))
    axis.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true")
    axis.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(classes)), classes, fontsize=8)
    axis.grid(False)
    if len(classes) <= 30:
        for row in range(len(classes)):
            for column in range(len(classes)):
                if matrix[row, column]:
                    colour = "white" if parts[row, column] > 0.55 else "black"
                    axis.text(column, row, int(matrix[row, column]), ha="center", va="center", color=colour, fontsize=7)
    return figure


def accuracy_bars(rows: Sequence[tuple[str, float, tuple[float, float]]]) -> Any:
    """Accuracies with their confidence intervals, one bar a row; values in [0, 1]."""
    pyplot = _pyplot()
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

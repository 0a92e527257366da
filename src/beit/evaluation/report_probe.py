"""The plot of a probe: top-1 over the layers of a network."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from beit.core.files import atomic_path
from beit.evaluation.classification import wilson
from beit.evaluation.figures import COLOURS, load_pyplot
from beit.evaluation.probe import ProbeResult

PLOT_FILE = "probe.png"


def write_plot(folder: str | os.PathLike[str], result: ProbeResult) -> None:
    """Write probe.png: top-1 of each classifier on each layer with its confidence interval, and of guessing."""
    pyplot = load_pyplot()
    figure, axis = pyplot.subplots(figsize=(6.4, 4))
    for number, (_, title, right) in enumerate(result.classifiers()):
        values = np.array([count / result.count for count in right])
        low, high = np.array([wilson(count, result.count) for count in right]).T
        error = 100 * np.array([values - low, high - values]).clip(0)
        place = np.array(result.layers) + 0.06 * number  # side by side, as intervals overlap
        axis.errorbar(place, 100 * values, error, label=title, color=COLOURS[number], marker="o", capsize=3)
    axis.axhline(100 * result.commonest, color="#777", linestyle="--", linewidth=1, label="the commonest class alone")
    axis.set(xlabel="layer", ylabel="top-1 accuracy, %, with 95 % confidence interval", xticks=list(result.layers))
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    with atomic_path(Path(folder) / PLOT_FILE) as temporary:
        figure.savefig(temporary, format="png", dpi=130, bbox_inches="tight", facecolor="white")
    pyplot.close(figure)

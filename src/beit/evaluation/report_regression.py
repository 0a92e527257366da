"""The page about a model that answers with numbers."""

from __future__ import annotations

from pathlib import Path

from beit.core.text import printable
from beit.evaluation import figures
from beit.evaluation.regression import RegressionScores
from beit.evaluation.report import Report
from beit.evaluation.report_sections import History, add_training, draw, finish


def write_report(folder: Path, found: RegressionScores, history: History = ()) -> Path:
    """Write report.html about a model that answers with numbers; arguments and result as of `write_report`."""
    page = Report("Regression", f"{found}.")
    add_training(page, history)
    page.heading("Scores")
    page.table(
        ["number", "R²", "95 % interval", "mean absolute error", "mean squared error"],
        [
            [
                printable(name, 80),
                "–" if r2 is None else f"{r2:.3f}",
                "–" if ends is None else f"{ends[0]:.3f} – {ends[1]:.3f}",
                f"{mae:.4g}",
                f"{mse:.4g}",
            ]
            for name, mse, mae, r2, ends in zip(
                found.names, found.mse, found.mae, found.r2, found.r2_interval, strict=True
            )
        ],
    )
    page.text(
        "R²: 1 is perfect, 0 is as good as always answering the mean; – where all true numbers are equal. The interval "
        "is of 1,000 bootstrap resamples of the images."
    )
    page.heading("True and predicted numbers")
    few = found.names[:6]
    draw(
        page,
        lambda: page.figures(
            [
                (figures.scatter(name, found.targets[:, i], found.predictions[:, i]), "On the line the two are equal.")
                for i, name in enumerate(few)
            ]
        ),
    )
    if len(few) < len(found.names):
        page.text(f"The first {len(few)} of {len(found.names)} numbers are drawn.")
    return finish(page, folder, found.worst, found.skipped)

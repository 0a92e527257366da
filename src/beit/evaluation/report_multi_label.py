"""The page about a model that gives several labels an image."""

from __future__ import annotations

from pathlib import Path

from beit.evaluation.multi_label import MultiLabelEvaluation
from beit.evaluation.report import Report
from beit.evaluation.report_classification import add_labels
from beit.evaluation.report_sections import History, add_training, finish


def write_report(folder: Path, found: MultiLabelEvaluation, history: History = ()) -> Path:
    """Write report.html; arguments and result as of `beit.evaluation.reports.write_report`."""
    page = Report("Several labels an image", f"{found}.")
    add_training(page, history)
    page.heading("Scores")

    def between(ends: tuple[float, float] | None) -> str:
        return "–" if ends is None else f"{ends[0]:.1%} – {ends[1]:.1%}"

    page.table(
        ["score", "value", "95 % interval"],
        [
            ["mean average precision (mAP)", f"{found.mean_average_precision:.1%}", between(found.interval)],
            ["exactly the right labels, above one half", f"{found.exact:.1%}", between(found.exact_interval)],
            ["macro-F1, above one half", f"{found.macro_f1:.1%}", ""],
            ["binary cross-entropy, nats", f"{found.loss:.3f}", ""],
        ],
    )
    page.text("The interval of mAP is of 1,000 bootstrap resamples of the images.")
    add_labels(page, found.labels)
    return finish(page, folder, found.worst, found.skipped)

"""The page about a run or an evaluation, whatever its labels are."""

from __future__ import annotations

import logging
from pathlib import Path

from beit.evaluation import report_classification, report_multi_label, report_regression, report_segmentation
from beit.evaluation.evaluate import Measured
from beit.evaluation.multi_label import MultiLabelEvaluation
from beit.evaluation.regression import RegressionScores
from beit.evaluation.report import Report
from beit.evaluation.report_sections import REPORT_FILE, History, add_training
from beit.evaluation.segmentation import SegmentationEvaluation

logger = logging.getLogger("beit")


def write_report(
    folder: Path, found: Measured | SegmentationEvaluation | None, history: History = (), title: str = "Training"
) -> Path:
    """Write report.html into a folder.

    Args:
        folder: where to.
        found: the evaluation; None for a run without one.
        history: lines of the run's log.
        title: of the page about a run without an evaluation.

    Returns:
        The path of the page. Without matplotlib it has a sentence in place of each group of figures.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(found, SegmentationEvaluation):
        return report_segmentation.write_report(folder, found, history)
    if isinstance(found, RegressionScores):
        return report_regression.write_report(folder, found, history)
    if isinstance(found, MultiLabelEvaluation):
        return report_multi_label.write_report(folder, found, history)
    if found is not None:
        return report_classification.write_report(folder, found, history)
    page = Report(title, "Not evaluated: there were no images to measure on.")
    add_training(page, history)
    path = Path(folder) / REPORT_FILE
    page.write(path)
    return path


def report_on_run(
    folder: Path, found: Measured | SegmentationEvaluation | None, history: History, title: str = "Training"
) -> None:
    """As `write_report`, at the end of a run: a report that fails is a warning, and never the end of a run that is saved."""
    try:
        write_report(folder, found, history, title)
    except Exception as error:
        logger.warning(
            "The run is finished and saved in %s, but its %s could not be written: %s: %s",
            folder,
            REPORT_FILE,
            type(error).__name__,
            error,
        )

"""Sections that several pages have: the curves of a run, and the images with the largest errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from beit.core.errors import MissingExtraError
from beit.core.text import printable
from beit.evaluation import figures
from beit.evaluation.report import Report
from beit.evaluation.worst import Worst

REPORT_FILE = "report.html"
History = Sequence[dict[str, float]]

_PANELS = (  # title, label of the axis, keys of the log with their names
    ("Loss", "loss", (("loss", "training"), ("validation_loss", "validation"))),
    (
        "Accuracy",
        "fraction right",
        (("accuracy", "training"), ("validation_top1", "validation"), ("validation_top5", "validation, top-5")),
    ),
    ("Mean average precision", "mAP", (("validation_map", "validation"),)),
    ("R²", "R²", (("validation_r2", "validation"),)),
    ("Macro-F1", "macro-F1", (("validation_macro_f1", "validation"),)),
    ("mIoU", "mean IoU", (("validation_miou", "validation"),)),
    ("Pixel accuracy", "fraction of the pixels", (("validation_pixel_accuracy", "validation"),)),
    (
        "Accuracy on masked patches",
        "fraction right",
        (("masked_accuracy", "the model"), ("commonest_token", "always the commonest token")),
    ),
    ("Variance explained", "fraction", (("explained", "of the masked pixels"),)),
    ("Variance lost", "fraction", (("reconstruction", "of the pixels, by the tokens"),)),
    ("Codes in use", "fraction", (("codes_used", "of the codebook"),)),
    ("Perplexity of the codes", "perplexity", (("perplexity", "training"),)),
)


def add_training(page: Report, history: History) -> None:
    """Add the curves of a run: of training, and of validation where the log has them."""
    plots = []
    for title, label, keys in _PANELS:
        lines = []
        for key, name in keys:
            points = [(line["step"], line[key]) for line in history if key in line]
            if points:
                lines.append((name, [step for step, _ in points], [value for _, value in points]))
        if lines:
            plots.append((title, label, lines))
    if not plots:
        return
    page.heading("Training")
    names = {name for _, _, lines in plots for name, _, _ in lines}
    if "validation" in names:
        page.text(
            "Training is measured on augmented images, with label smoothing and mixing where they are on; validation on images as in "
            "use. The two are therefore not at the same level."
        )
    else:
        page.text("Measured on the images that the run learns from, augmented.")
    draw(page, lambda: page.figures([(figures.line_plot(*plot), f"{plot[0]} over the steps.") for plot in plots]))


def draw(page: Report, add: Callable[[], None]) -> None:
    """Add figures; without matplotlib, say so in their place."""
    try:
        add()
    except MissingExtraError as error:
        page.text(f"A figure is left out. {error}", warn=True)


def add_worst(page: Report, worst: Worst | None) -> None:
    """Add the images on which a model is most wrong, with the right answer and its own."""
    if worst is None or not worst.images:
        return
    page.heading("Largest errors")
    page.text("Look for wrong labels among them.")
    page.pictures([(wrong.picture, wrong.text, short_name(wrong.name)) for wrong in worst.images])


def finish(page: Report, folder: Path, worst: Worst | None, skipped: Sequence[str]) -> Path:
    """Add the largest errors and the images that were skipped, and write the page; returns its path. Raises OSError."""
    add_worst(page, worst)
    if skipped:
        page.details(f"{len(skipped)} images were skipped", "\n".join(skipped))
    path = Path(folder) / REPORT_FILE
    page.write(path)
    return path


def short_name(name: str) -> str:
    """The file and its folder, which is its class."""
    return printable("/".join(Path(name).parts[-2:]), 80)

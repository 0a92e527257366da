"""`beit segment demo`: a tiny model learns to segment garments pasted on photographs, and a report with pictures."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from pathlib import Path

import numpy as np

from beit.core.errors import Interrupted
from beit.core.files import write_json
from beit.data.embedded.pasted_garments import PastedGarments
from beit.demo import output as output_folder
from beit.demo.settings import SegmentDemo
from beit.demo.torch.machine import VERSION
from beit.evaluation import figures
from beit.evaluation.report import Report
from beit.evaluation.report_segmentation import add_evaluation
from beit.evaluation.segmentation import SegmentationEvaluation, mean_of, scores_of
from beit.train import recipes
from beit.train.segmentation import segment
from beit.train.settings import SETTINGS_FILE, SegmentSettings

_KIND = "segment demo"  # written into settings.json, so that the next demonstration knows that it may replace this one


def constant_guess(confusion: np.ndarray) -> tuple[float, float]:
    """(mIoU, pixel accuracy) of always guessing the commonest class, from any model's confusion matrix on the same images."""
    true = confusion.sum(1)
    guess = np.zeros_like(confusion)
    guess[:, true.argmax()] = true
    return mean_of(scores_of(guess)[0]) or 0.0, float(true.max() / true.sum())


def run_segment_demo(settings: SegmentDemo) -> Path:
    """Run the demonstration and return the path of its report.

    Raises:
        DataError: the output folder holds something other than an earlier demonstration.
        Interrupted: a signal stopped it.
    """
    output = settings.output
    output_folder.clear(output, lambda earlier: earlier.get("kind") == _KIND)
    write_json(output / SETTINGS_FILE, {**dataclasses.asdict(settings), "output": str(output), "kind": _KIND})
    recipe = recipes.pasted_garments(output / "model", settings.seed, length=0.002 if settings.smoke else 1.0)
    began = time.perf_counter()
    try:
        history, result = segment(recipe, validation=PastedGarments(test=True, count=8 if settings.smoke else None))
    except Interrupted as stop:  # the run could be resumed; the demonstration is short enough to start again
        raise Interrupted(stop.signum, "Stopped. The next `beit segment demo` starts from the beginning.") from stop
    assert result is not None
    seconds = time.perf_counter() - began
    page = output / "report.html"
    write_demo_report(page, settings, recipe, history, result, seconds)
    guess = constant_guess(result.confusion)
    write_json(
        output / "results.json",
        {**result.to_dict(), "constant_guess": {"miou": guess[0], "pixel_accuracy": guess[1]}, "seconds": seconds},
    )
    print(f"{result}\nAlways guessing the commonest class: mIoU {guess[0]:.1%}, pixel accuracy {guess[1]:.1%}.")
    return page


def write_demo_report(
    path: Path,
    settings: SegmentDemo,
    recipe: SegmentSettings,
    history: list[dict[str, float]],
    result: SegmentationEvaluation,
    seconds: float,
) -> None:
    """Write the page: scores, training curves, and the sections about the evaluation."""
    miou, accuracy = constant_guess(result.confusion)
    page = Report(
        "Segmentation on a small scale",
        f"A tiny BEiT with UPerNet heads, trained for {seconds / 60:.1f} minutes from scratch, finds garments pasted on "
        f"photographs with an mIoU of {result.miou:.1%} (always guessing the commonest class: {miou:.1%}).",
    )
    if settings.smoke:
        page.text("A smoke run: a few steps. Its numbers mean nothing.", warn=True)
    page.heading("Results")
    page.text("The test images have other garments and other photographs than the training images.")
    page.table(
        ["", "mIoU", "pixel accuracy"],
        [
            ["always the commonest class", f"{miou:.1%}", f"{accuracy:.1%}"],
            ["BEiT", f"{result.miou:.1%}", f"{result.pixel_accuracy:.1%}"],
        ],
        best=1,
    )
    steps = [line["step"] for line in history]
    page.figure(
        figures.curves(
            [
                ("Loss", "cross-entropy, nats", [("", steps, [line["loss"] for line in history])]),
                ("Training pixels", "accuracy", [("", steps, [line["accuracy"] for line in history])]),
            ]
        ),
        "Training.",
    )
    add_evaluation(page, result)
    page.heading("How it was made")
    machine = f"{os.cpu_count()} processors ({platform.machine()}), {VERSION}"
    page.text(
        f"{recipe.steps} steps of {recipe.batch_size} pictures; with the evaluation {seconds / 60:.1f} minutes on {machine}."
    )
    page.details("Settings", json.dumps(recipe.to_dict(), indent=2))
    page.write(path)

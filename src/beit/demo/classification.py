"""`beit demo`: BEiT from beginning to end on embedded images, and a report with pictures.

tokenizer → pre-training without labels → fine-tuning on few labels → the same network from scratch → report.html
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

from beit.core.errors import Interrupted
from beit.core.files import write_json
from beit.data import embedded
from beit.demo import output as output_folder
from beit.demo.experiment import embedded_data, run_experiment
from beit.demo.report_classification import write_report
from beit.demo.settings import DemoSettings
from beit.train import recipes
from beit.train.settings import SETTINGS_FILE
from beit.train.tokenizer import train_tokenizer


def run_demo(settings: DemoSettings) -> Path:
    """Run the demonstration and return the path of its report.

    Raises:
        DataError: the output folder holds something other than an earlier demonstration.
        Interrupted: a signal stopped it.
    """
    began = time.perf_counter()
    output = settings.output
    output_folder.clear(output, lambda earlier: "smoke" in earlier)  # no training run has this setting
    write_json(output / SETTINGS_FILE, {**dataclasses.asdict(settings), "output": str(output)})
    recipe = recipes.garments(output, settings.seed, length=0.005 if settings.smoke else 1.0)
    for run in (recipe.pretrain, recipe.finetune, recipe.scratch):
        run.framework = settings.framework
    data = embedded_data()
    try:
        result = run_experiment(data, recipe)
    except Interrupted as stop:  # the runs could be resumed; the demonstration is short enough to start again
        raise Interrupted(stop.signum, "Stopped. The next `beit demo` starts from the beginning.") from stop
    print("\nThe same tokenizer recipe on photographs", file=sys.stderr, flush=True)
    photos = recipes.photographs(
        embedded.photographs(), output / "photo_tokenizer", settings.seed, 0.02 if settings.smoke else 1
    )
    train_tokenizer(photos)
    print("\nThe report", file=sys.stderr, flush=True)
    page = output / "report.html"
    seconds = time.perf_counter() - began
    write_report(page, settings, recipe, data, result, seconds)
    tuned, scratch = result.tuned, result.scratch
    write_json(
        output / "results.json",
        {
            "pretrained": tuned.to_dict(),
            "scratch": scratch.to_dict(),
            "tokenizer": result.usage,
            "seconds": {**result.seconds, "total": seconds},
        },
    )
    print(
        f"\nPre-trained {tuned.top1:.1%}, from scratch {scratch.top1:.1%}: {100 * (tuned.top1 - scratch.top1):+.1f} points "
        f"on {tuned.count} test images, in {seconds / 60:.1f} minutes."
    )
    return page

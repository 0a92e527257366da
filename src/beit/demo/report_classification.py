"""The report of `beit demo`: the result, and what each step of BEiT has learned."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Any

from beit.demo.experiment import Data, Result
from beit.demo.settings import DemoSettings
from beit.demo.torch import pictures
from beit.demo.torch.baselines import raw_pixel_baselines
from beit.evaluation import figures
from beit.evaluation.classification import wilson
from beit.evaluation.report import Report
from beit.train import recipes
from beit.train.settings import PretrainSettings


def write_report(
    path: Path,
    settings: DemoSettings,
    recipe: recipes.Experiment,
    data: Data,
    result: Result,
    seconds: float,
) -> None:
    """Write the page.

    Args:
        path: of the page; the tokenizer of photographs is in `photo_tokenizer` beside it.
        settings: of the demonstration.
        recipe: the runs; their output folders hold the models.
        data: the images.
        result: scores and logs.
        seconds: time of the whole demonstration.
    """
    gain = 100 * (result.tuned.top1 - result.scratch.top1)
    page = Report(
        "BEiT on a small scale",
        f"A network that first learned to predict the visual tokens of masked patches of {len(data.unlabelled):,} unlabelled "
        f"images reaches {result.tuned.top1:.1%} with {len(data.labelled):,} labels; the same network from scratch "
        f"{result.scratch.top1:.1%} ({gain:+.1f} points), with the same fine-tuning.",
    )
    if settings.smoke:
        page.text("A smoke run: a few steps of everything. Its numbers mean nothing.", warn=True)
    _add_results(page, data, result)
    _add_tokenizer(page, recipe, data, result, path.parent / "photo_tokenizer")
    _add_pretraining(page, recipe, data, result)
    _add_finetuning(page, recipe, data, result)
    _add_settings(page, recipe, result, seconds)
    page.write(path)


def _add_results(page: Report, data: Data, result: Result) -> None:
    count = len(data.test)
    rows = [
        (f"{name} on raw pixels", right / count, wilson(right, count))
        for name, right in raw_pixel_baselines(data.labelled, data.test).items()
    ]
    rows.append(("BEiT from scratch", result.scratch.top1, result.scratch.interval))
    rows.append(("BEiT pre-trained", result.tuned.top1, result.tuned.interval))
    page.heading("Results")
    page.table(
        ["model", "top-1", "95 % interval", "right of"],
        [
            [name, f"{value:.1%}", f"{low:.1%} – {high:.1%}", f"{round(value * count)} / {count}"]
            for name, value, (low, high) in rows
        ],
        best=len(rows) - 1,
    )
    page.figure(figures.accuracy_bars(rows), "Test accuracy with the same labels for all.")


def _add_tokenizer(page: Report, recipe: recipes.Experiment, data: Data, result: Result, photo_tokenizer: Path) -> None:
    page.heading("1 · The tokenizer: images become codes")
    usage, factor = result.usage, recipe.tokenizer.factor
    page.text(
        f"A dVAE with {recipe.tokenizer.vocab_size} codes, one for every {factor}×{factor} pixels. "
        f"On the test images {usage['codes_used']:.0%} of the codes are in use (perplexity {usage['perplexity']:.0f}). Pictures "
        f"decoded from codes have a mean squared error of {usage['error']:.4f}; the mean picture has {usage['blank']:.4f}."
    )
    lines = result.history["tokenizer"]
    steps = [line["step"] for line in lines]
    page.figure(
        figures.curves(
            [
                ("Reconstruction", "fraction of variance lost", [("", steps, [x["reconstruction"] for x in lines])]),
                ("Codebook in use", "fraction of the codes", [("", steps, [x["codes_used"] for x in lines])]),
                ("Perplexity", "codes", [("", steps, [x["perplexity"] for x in lines])]),
            ]
        ),
        "The tokenizer's training.",
    )
    page.figure(
        pictures.decoded_garments(recipe.tokenizer.output, data.test),
        "Garments of the test set, and the same decoded from their codes.",
    )
    page.figure(
        pictures.decoded_photographs(photo_tokenizer), "The same recipe trained on crops of the embedded photographs."
    )


def _add_pretraining(page: Report, recipe: recipes.Experiment, data: Data, result: Result) -> None:
    page.heading("2 · Pre-training: predict the codes of what is hidden")
    lines = result.history["pretrain"]
    steps = [line["step"] for line in lines]
    page.text(
        f"The model predicts {lines[-1]['masked_accuracy']:.1%} of the masked patches' codes; always guessing the commonest code "
        f"would get {lines[-1]['commonest_token']:.1%}."
    )
    page.figure(
        figures.curves(
            [
                ("Loss", "cross-entropy, nats", [("", steps, [x["loss"] for x in lines])]),
                (
                    "Masked patches",
                    "accuracy",
                    [
                        ("predicted", steps, [x["masked_accuracy"] for x in lines]),
                        ("commonest code", steps, [x["commonest_token"] for x in lines]),
                    ],
                ),
            ]
        ),
        "Pre-training.",
    )
    page.figure(
        pictures.reconstructions(recipe.tokenizer.output, recipe.pretrain, data.test),
        "Original, masked, decoded from the codes that the model predicts for the masked patches (the visible ones have "
        "their true codes), and decoded from all true codes: the best that is possible.",
    )


def _add_finetuning(page: Report, recipe: recipes.Experiment, data: Data, result: Result) -> None:
    page.heading("3 · Fine-tuning on few labels")
    page.figure(
        figures.curves(
            [
                (
                    title,
                    key,
                    [
                        (name, [x["step"] for x in result.history[run]], [x[key] for x in result.history[run]])
                        for name, run in (("pre-trained", "finetune"), ("from scratch", "scratch"))
                    ],
                )
                for title, key in (("Training loss", "loss"), ("Training accuracy", "accuracy"))
            ]
        ),
        "Fine-tuning, pre-trained and from scratch.",
    )
    page.figure(
        pictures.attention(recipe.finetune.output, data.test),
        "Attention of the cls token in the last layer, averaged over its heads.",
    )
    page.figure(figures.confusion(result.tuned.confusion, result.tuned.classes), "The pre-trained model's mistakes.")


def _add_settings(page: Report, recipe: recipes.Experiment, result: Result, seconds: float) -> None:
    page.heading("How it was made")
    machine = f"{os.cpu_count()} processors ({platform.machine()}), {_arithmetic(recipe.pretrain)}"
    page.text(f"{seconds / 60:.1f} minutes on {machine}.")
    runs: list[tuple[str, Any]] = [(item.name, getattr(recipe, item.name)) for item in dataclasses.fields(recipe)]
    page.table(
        ["run", "steps", "images per step", "seconds", "images/s"],
        [
            [
                name,
                run.steps,
                run.batch_size,
                f"{result.seconds[name]:.0f}",
                f"{(run.steps or 0) * run.batch_size / result.seconds[name]:.0f}",
            ]
            for name, run in runs
        ],
    )
    for name, run in runs:
        page.details(f"Settings: {name}", json.dumps(run.to_dict(), indent=2))


def _arithmetic(settings: PretrainSettings) -> str:
    """The framework that computed, and in which type."""
    if settings.framework == "flax":
        from beit.demo.flax.machine import arithmetic as flax_arithmetic

        return flax_arithmetic(settings.precision)
    from beit.demo.torch.machine import arithmetic as torch_arithmetic

    return torch_arithmetic(settings.precision)

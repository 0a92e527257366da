"""`beit demo`: the whole idea of BEiT on embedded images, and a report with pictures.

tokenizer → pre-training without labels → fine-tuning on few labels → the same network from scratch → report.html.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from beit.core.errors import DataError, Interrupted
from beit.core.files import read_json, write_json
from beit.data import embedded
from beit.data.masking import BlockMask, mask_sizes
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import ArrayImages, FolderImages
from beit.data.transforms.crops import crop_box, view
from beit.data.transforms.pixels import normalise
from beit.demo.settings import DemoSettings
from beit.evaluation import figures
from beit.evaluation.classification import Evaluation, wilson
from beit.evaluation.report import Report
from beit.models.torch.beit import BeitForImageClassification, BeitForMaskedImageModeling
from beit.tokenizers import load_tokenizer
from beit.train import recipes
from beit.train.finetune import finetune, first_of_each_class
from beit.train.pretrain import pretrain
from beit.train.settings import SETTINGS_FILE, PretrainSettings
from beit.train.tokenizer import measure, train_tokenizer
from beit.train.torch.engine import precision

LABELS_PER_CLASS = 100


@dataclass
class Data:
    """Images of one experiment: many without labels, few with, and a test set."""

    unlabelled: ArrayImages
    labelled: ArrayImages
    test: ArrayImages


@dataclass
class Result:
    """What an experiment found.

    Attributes:
        tuned: evaluation of the pre-trained and fine-tuned model.
        scratch: evaluation of the same network from scratch.
        usage: of the tokenizer on the test images, as `beit.train.tokenizer.measure` returns it.
        history: log lines of each run.
        seconds: time of each run.
    """

    tuned: Evaluation
    scratch: Evaluation
    usage: dict[str, float]
    history: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def embedded_data() -> Data:
    """The embedded subset of Fashion-MNIST: 5,000 images, the labels of 100 a class, 1,000 test images."""
    arrays = embedded.fashion_mnist_subset()
    train = ArrayImages(arrays["x_train"], arrays["y_train"], embedded.GARMENTS)
    labelled = first_of_each_class(train, LABELS_PER_CLASS)
    assert isinstance(labelled, ArrayImages)
    return Data(train, labelled, ArrayImages(arrays["x_test"], arrays["y_test"], embedded.GARMENTS))


def run_experiment(data: Data, recipe: recipes.Experiment) -> Result:
    """Train all four runs of `recipe` and measure them."""
    history: dict[str, list[dict[str, float]]] = {}
    seconds: dict[str, float] = {}

    def timed(name: str, text: str, work: Callable[[], Any]) -> Any:
        print(f"\n{text}", file=sys.stderr, flush=True)
        began = time.perf_counter()
        value = work()
        seconds[name] = time.perf_counter() - began
        return value

    history["tokenizer"] = timed(
        "tokenizer",
        f"1/4 A visual tokenizer learns {recipe.tokenizer.vocab_size} codes from {len(data.unlabelled)} images",
        lambda: train_tokenizer(recipe.tokenizer, data.unlabelled),
    )
    usage = measure(load_tokenizer(recipe.tokenizer.output), _pixels(data.test))
    history["pretrain"] = timed(
        "pretrain",
        "2/4 Pre-training: predict the tokens of masked patches, without labels",
        lambda: pretrain(recipe.pretrain, data.unlabelled),
    )
    history["finetune"], tuned = timed(
        "finetune",
        f"3/4 Fine-tuning on {len(data.labelled)} labels",
        lambda: finetune(recipe.finetune, data.labelled, data.test),
    )
    history["scratch"], scratch = timed(
        "scratch",
        "4/4 The same network from scratch, with the same fine-tuning",
        lambda: finetune(recipe.scratch, data.labelled, data.test),
    )
    return Result(tuned, scratch, usage, history, seconds)


def _pixels(images: ArrayImages) -> Tensor:
    """float32 `(n, 3, H, W)` in [0, 1]."""
    return torch.from_numpy(images.array).permute(0, 3, 1, 2).float().div(255)


def raw_pixel_baselines(data: Data) -> dict[str, int]:
    """Number of test images that 1-nearest-neighbour and logistic regression on raw pixels get right."""
    train = _pixels(data.labelled)[:, 0].flatten(1)
    test = _pixels(data.test)[:, 0].flatten(1)
    assert data.labelled.labels is not None
    assert data.test.labels is not None
    labels, truth = torch.from_numpy(data.labelled.labels), torch.from_numpy(data.test.labels)
    nearest = labels[torch.cdist(test, train).argmin(1)]

    weight = torch.zeros(train.shape[1] + 1, int(labels.max()) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = torch.nn.functional.cross_entropy(train @ weight[:-1] + weight[-1], labels, reduction="sum")
        value = fit + 0.5 * weight[:-1].square().sum()  # the usual strength: C = 1
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        linear = (test @ weight[:-1] + weight[-1]).argmax(1)
    return {"1-nearest-neighbour": int((nearest == truth).sum()), "logistic regression": int((linear == truth).sum())}


def run_demo(settings: DemoSettings) -> Path:
    """Run the demonstration and return the path of its report.

    Raises:
        DataError: the output folder holds something other than an earlier demo.
    """
    began = time.perf_counter()
    output = settings.output
    if output.is_file():
        raise DataError(f"{output} is a file; give a folder for the result.")
    if output.exists() and any(output.iterdir()):
        if not (output / SETTINGS_FILE).is_file() or "smoke" not in str(read_json(output / SETTINGS_FILE)):
            raise DataError(f"{output} holds something other than an earlier demo; choose another --output.")
        shutil.rmtree(output)
    write_json(output / SETTINGS_FILE, {**dataclasses.asdict(settings), "output": str(output)})
    recipe = recipes.garments(output, settings.seed, length=0.005 if settings.smoke else 1.0)
    for run in (recipe.pretrain, recipe.finetune, recipe.scratch):
        run.framework = settings.framework
    data = embedded_data()
    try:
        result = run_experiment(data, recipe)
    except Interrupted as stop:  # the runs could go on; the demonstration is short enough to start anew
        raise Interrupted(stop.signum, "Stopped. The next `beit demo` starts anew.") from stop
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


def result_rows(data: Data, result: Result) -> list[tuple[str, float, tuple[float, float]]]:
    """(name, top-1, its 95 % interval), the pre-trained model last."""
    count = len(data.test)
    rows = [
        (f"{name} on raw pixels", right / count, wilson(right, count))
        for name, right in raw_pixel_baselines(data).items()
    ]
    rows.append(("BEiT from scratch", result.scratch.top1, result.scratch.interval))
    rows.append(("BEiT pre-trained", result.tuned.top1, result.tuned.interval))
    return rows


def write_report(
    path: Path,
    settings: DemoSettings,
    recipe: recipes.Experiment,
    data: Data,
    result: Result,
    seconds: float,
) -> None:
    """Write the page with everything that the demonstration found."""
    gain = 100 * (result.tuned.top1 - result.scratch.top1)
    page = Report(
        "BEiT on a small scale",
        f"A network that first learned to predict the visual tokens of masked patches of {len(data.unlabelled):,} unlabelled "
        f"images reaches {result.tuned.top1:.1%} with {len(data.labelled):,} labels; the same network from scratch "
        f"{result.scratch.top1:.1%} ({gain:+.1f} points), with the same fine-tuning.",
    )
    if settings.smoke:
        page.text("A smoke run: a few steps of everything. Its numbers mean nothing.", warn=True)
    page.heading("Results")
    rows = result_rows(data, result)
    page.table(
        ["model", "top-1", "95 % interval", "right of"],
        [
            [name, f"{value:.1%}", f"{low:.1%} – {high:.1%}", f"{round(value * len(data.test))} / {len(data.test)}"]
            for name, value, (low, high) in rows
        ],
        best=len(rows) - 1,
    )
    page.figure(figures.accuracy_bars(rows), "Test accuracy with the same labels for all.")

    page.heading("1 · The tokenizer: images become codes")
    usage = result.usage
    page.text(
        f"A dVAE with {recipe.tokenizer.vocab_size} codes, one for {recipe.tokenizer.factor}×{recipe.tokenizer.factor} pixels. "
        f"On the test images {usage['codes_used']:.0%} of the codes are in use (perplexity {usage['perplexity']:.0f}). Pictures "
        f"decoded from codes have a mean squared error of {usage['error']:.4f}; the mean picture has {usage['blank']:.4f}."
    )
    lines = result.history["tokenizer"]
    steps = [line["step"] for line in lines]
    page.figure(
        figures.curves(
            [
                ("Reconstruction", "part of variance lost", [("", steps, [x["reconstruction"] for x in lines])]),
                ("Codebook in use", "part of the codes", [("", steps, [x["codes_used"] for x in lines])]),
                ("Perplexity", "codes", [("", steps, [x["perplexity"] for x in lines])]),
            ]
        ),
        "The tokenizer's training.",
    )
    page.figure(_tokenizer_pictures(recipe, data), "Garments of the test set, and the same decoded from their codes.")
    page.figure(
        _photograph_pictures(path.parent / "photo_tokenizer"),
        "The same recipe trained on crops of the embedded photographs.",
    )

    page.heading("2 · Pre-training: guess the codes of what is hidden")
    lines = result.history["pretrain"]
    steps = [line["step"] for line in lines]
    page.text(
        f"{lines[-1]['masked_accuracy']:.1%} of the masked patches' codes are guessed; always guessing the commonest code "
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
                        ("guessed", steps, [x["masked_accuracy"] for x in lines]),
                        ("commonest code", steps, [x["commonest_token"] for x in lines]),
                    ],
                ),
            ]
        ),
        "Pre-training.",
    )
    page.figure(
        _reconstructions(recipe, data),
        "Original, masked, decoded from the codes that the model predicts for the masked patches (the visible ones have "
        "their true codes), and decoded from all true codes: the best that is possible.",
    )

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
    page.figure(_attention(recipe, data), "What the cls token of the last layer attends to, mean of its heads.")
    page.figure(figures.confusion(result.tuned.confusion, result.tuned.classes), "The pre-trained model's mistakes.")

    page.heading("How it was made")
    machine = f"{os.cpu_count()} processors ({platform.machine()}), {_arithmetic(recipe.pretrain)}"
    page.text(f"{seconds / 60:.1f} minutes on {machine}.")
    page.table(
        ["run", "steps", "images a step", "seconds", "images/s"],
        [
            [
                name,
                settings_.steps,
                settings_.batch_size,
                f"{result.seconds[name]:.0f}",
                f"{(settings_.steps or 0) * settings_.batch_size / result.seconds[name]:.0f}",
            ]
            for name, settings_ in _runs(recipe)
        ],
    )
    for name, settings_ in _runs(recipe):
        page.details(f"Settings: {name}", json.dumps(settings_.to_dict(), indent=2))
    page.write(path)


def _runs(recipe: recipes.Experiment) -> list[tuple[str, Any]]:
    return [(item.name, getattr(recipe, item.name)) for item in dataclasses.fields(recipe)]


def _arithmetic(settings: PretrainSettings) -> str:
    """What has computed, and in which type."""
    if settings.framework == "flax":
        import jax

        from beit.train.flax.engine import arithmetic

        return f"jax {jax.__version__} on {jax.default_backend()}, {arithmetic(settings.precision).__name__}"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return f"torch {torch.__version__}, {'bf16' if precision(settings.precision, device) else 'fp32'}"


def _as_pictures(images: Tensor) -> np.ndarray:
    return images.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def _examples(data: Data, count: int = 10) -> Tensor:
    """One test image of each class, as far as there are `count`."""
    assert data.test.labels is not None
    numbers = [
        int(np.flatnonzero(data.test.labels == number)[3]) for number in range(min(count, len(data.test.classes)))
    ]
    return _pixels(data.test)[numbers]


def _tokenizer_pictures(recipe: recipes.Experiment, data: Data) -> Any:
    tokenizer = load_tokenizer(recipe.tokenizer.output)
    images = _examples(data)
    decoded = tokenizer.decode(tokenizer.tokens(images), tokenizer.grid((images.shape[2], images.shape[3])))
    return figures.picture_rows([("original", _as_pictures(images)), ("from codes", _as_pictures(decoded))])


def _photograph_pictures(folder: Path) -> Any:
    tokenizer = load_tokenizer(folder)
    photos = FolderImages(embedded.photographs())
    rng = np.random.default_rng(0)
    crops = []
    for index in np.linspace(0, len(photos) - 1, 10).astype(int):
        image = photos.read(int(index))
        box = crop_box(rng, image.size, (0.2, 0.3), (1, 1))
        crops.append(view(image, box, (64, 64), Image.Resampling.LANCZOS, False))
    images = torch.from_numpy(np.stack(crops))
    decoded = tokenizer.decode(tokenizer.tokens(images), tokenizer.grid((64, 64)))
    return figures.picture_rows([("original", _as_pictures(images)), ("from codes", _as_pictures(decoded))])


@torch.inference_mode()
def _reconstructions(recipe: recipes.Experiment, data: Data) -> Any:
    tokenizer = load_tokenizer(recipe.tokenizer.output)
    model = BeitForMaskedImageModeling.from_pretrained(recipe.pretrain.output)
    images = _examples(data)
    rng = np.random.default_rng(1)
    mask_of = BlockMask(model.config.grid, *mask_sizes(recipe.pretrain, model.config))
    mask = torch.from_numpy(np.stack([mask_of(rng).reshape(-1) for _ in range(len(images))]))
    true = tokenizer.tokens(images)
    logits = model(_normalised(images, recipe.pretrain.mean, recipe.pretrain.std), mask).logits
    tokens = torch.where(mask, logits.argmax(-1), true)
    grid = model.config.grid
    hidden = mask.view(-1, 1, *grid).float()
    hidden = torch.nn.functional.interpolate(hidden, size=images.shape[2:], mode="nearest")
    masked = images * (1 - hidden) + torch.tensor([0.55, 0.6, 0.7]).view(1, 3, 1, 1) * hidden
    return figures.picture_rows(
        [
            ("original", _as_pictures(images)),
            ("masked", _as_pictures(masked)),
            ("predicted", _as_pictures(tokenizer.decode(tokens, grid))),
            ("true codes", _as_pictures(tokenizer.decode(true, grid))),
        ]
    )


def _normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return torch.from_numpy(normalise(images.numpy(), mean, std))


@torch.inference_mode()
def _attention(recipe: recipes.Experiment, data: Data) -> Any:
    model = BeitForImageClassification.from_pretrained(recipe.finetune.output)
    processor = BeitImageProcessor.from_pretrained(recipe.finetune.output)
    images = _examples(data)
    pixels = _normalised(images, tuple(processor.image_mean), tuple(processor.image_std))
    output = model(pixels, output_attentions=True)
    height, width = model.config.grid
    maps = output.attentions[-1][:, :, 0, 1:].mean(1).view(-1, height, width).numpy()
    names = [model.config.id2label[int(number)] for number in output.logits.argmax(-1)]
    return figures.attention_maps(_as_pictures(images), maps / maps.max(axis=(1, 2), keepdims=True), names)

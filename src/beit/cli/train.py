"""`beit tokenizer`, `beit tokenize`, `beit pretrain`, `beit finetune`: train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from beit.cli.parsing import at_least_one, last_line, parse, run_action, say, say_next
from beit.core.errors import require
from beit.core.settings import Settings


@dataclass(kw_only=True)
class EvaluateTokenizer(Settings):
    """Measure a tokenizer: the codes in use, and the error of images decoded from tokens."""

    tokenizer: str
    """Tokenizer folder or Hub id."""
    images: Path
    """Folder of images."""
    image_size: int = 64
    """Side in pixels to which images are cropped and resized."""


def tokenizer_command(arguments: list[str]) -> None:
    actions = {
        "train": (_train_tokenizer, "train a tokenizer on a folder of images"),
        "evaluate": (_evaluate_tokenizer, "measure which codes are in use, and the error of decoded images"),
    }
    run_action("tokenizer", actions, arguments)


def _train_tokenizer(arguments: list[str]) -> None:
    from beit.train.settings import TokenizerSettings

    settings = parse(TokenizerSettings, "tokenizer train", arguments)
    require("torch", "train", "beit tokenizer")
    from beit.train.tokenizer import train_tokenizer

    last = last_line(settings, train_tokenizer(settings))
    say(
        f"Saved {settings.output}: {last['codes_used']:.0%} of {settings.vocab_size} codes in use, perplexity "
        f"{last['perplexity']:.0f}, {last['reconstruction']:.1%} of the pixels' variance lost."
    )
    say_next(["pretrain", "--tokenizer", settings.output, "--images", settings.images, "--output", "NEW"])


def _evaluate_tokenizer(arguments: list[str]) -> None:
    chosen = parse(EvaluateTokenizer, "tokenizer evaluate", arguments)
    at_least_one("image_size", chosen.image_size)
    require("torch", "train", "beit tokenizer")
    from beit.data.sources.images import FolderImages
    from beit.train.tokenizer import evaluate_tokenizer

    found = evaluate_tokenizer(chosen.tokenizer, FolderImages(chosen.images), chosen.image_size)
    print(
        f"{found['codes_used']:.0%} of the codes in use, perplexity {found['perplexity']:.0f}; mean squared error of "
        f"decoded pictures {found['error']:.4f} (of the mean picture: {found['blank']:.4f})"
    )


def tokenize_command(arguments: list[str]) -> None:
    from beit.train.settings import TokenizeSettings

    settings = parse(TokenizeSettings, "tokenize", arguments)
    require("torch", "train", "beit tokenize")
    from beit.train.tokenize import tokenize

    cache = tokenize(settings)
    say(
        f"Wrote {settings.output}: {cache.crops} crops of {len(cache)} images, {cache.grid[0]}x{cache.grid[1]} tokens each."
    )
    sizes = {"model": settings.model, "image-size": settings.image_size, "patch-size": settings.patch_size}
    grid = [word for name, value in sizes.items() if value is not None for word in (f"--{name}", value)]
    say_next(["pretrain", "--token-cache", settings.output, "--images", settings.images, *grid, "--output", "NEW"])


def _require(framework: str, purpose: str) -> None:
    if framework == "flax":
        require("optax", "flax", purpose)
    else:
        require("torch", "train", purpose)


def _with(framework: str) -> list[str]:
    return [] if framework == "torch" else ["--framework", framework]


def pretrain_command(arguments: list[str]) -> None:
    from beit.train.settings import PretrainSettings

    settings = parse(PretrainSettings, "pretrain", arguments)
    _require(settings.framework, "beit pretrain")
    from beit.train.pretrain import pretrain
    from beit.train.targets import target_class

    last = last_line(settings, pretrain(settings))
    say(target_class(settings.target, settings.framework).summary(settings.output, last))
    labelled = ["--model", settings.output, "--images", "LABELLED"]
    say_next(["probe", *labelled], ["finetune", *labelled, *_with(settings.framework), "--output", "NEW"])


def finetune_command(arguments: list[str]) -> None:
    from beit.train.settings import FinetuneSettings

    settings = parse(FinetuneSettings, "finetune", arguments)
    _require(settings.framework, "beit finetune")
    from beit.train.finetune import finetune

    history, result = finetune(settings)
    last = last_line(settings, history)
    reached = f"training accuracy {last['accuracy']:.1%}" if "accuracy" in last else f"training loss {last['loss']:.4g}"
    say(f"Saved {settings.output}: {reached}.")
    if result is not None:
        say(f"Validation: {result.summary()}")
        measured = sum(any(name.startswith("validation_") for name in line) for line in history)
        if settings.result == "best" and measured > 1:
            say(f"The model is the best of {measured} by these same images, so the figures are a little optimistic.")
    report = settings.output / "report.html"
    if report.exists():
        say(f"Open {report}")
    model = ["--model", settings.output, *_with(settings.framework)]
    say_next(["evaluate", *model, "--images", "LABELLED"], ["predict", "IMAGES", *model])

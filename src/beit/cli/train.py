"""`beit tokenizer`, `beit tokenize`, `beit pretrain`, `beit finetune`: train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from beit.cli.parsing import at_least_one, last_line, parse, say
from beit.core.errors import ConfigError, require


@dataclass(kw_only=True)
class EvaluateTokenizer:
    """Measure a tokenizer: the codes in use, and the error of images decoded from tokens."""

    tokenizer: str
    """Tokenizer folder or Hub id."""
    images: Path
    """Folder of images."""
    image_size: int = 64
    """Side in pixels to which images are cropped and resized."""


def tokenizer_command(arguments: list[str]) -> None:
    actions = "usage: beit tokenizer {train,evaluate} …\n\n  train     train a tokenizer on a folder of images\n"
    actions += "  evaluate  measure which codes are in use, and the error of decoded images\n"
    if not arguments or arguments[0] in ("-h", "--help"):
        print(actions)
        return
    action, *rest = arguments
    if action == "train":
        from beit.train.settings import TokenizerSettings

        settings = parse(TokenizerSettings, "tokenizer train", rest)
        require("torch", "train", "beit tokenizer")
        from beit.train.tokenizer import train_tokenizer

        last = last_line(settings, train_tokenizer(settings))
        say(
            f"Saved {settings.output}: {last['codes_used']:.0%} of {settings.vocab_size} codes in use, perplexity "
            f"{last['perplexity']:.0f}, {last['reconstruction']:.1%} of the pixels' variance lost."
        )
    elif action == "evaluate":
        chosen = parse(EvaluateTokenizer, "tokenizer evaluate", rest)
        at_least_one("image_size", chosen.image_size)
        require("torch", "train", "beit tokenizer")
        from beit.data.sources.images import FolderImages
        from beit.train.tokenizer import evaluate_tokenizer

        found = evaluate_tokenizer(chosen.tokenizer, FolderImages(chosen.images), chosen.image_size)
        print(
            f"{found['codes_used']:.0%} of the codes in use, perplexity {found['perplexity']:.0f}; mean squared error of "
            f"decoded pictures {found['error']:.4f} (of the mean picture: {found['blank']:.4f})"
        )
    else:
        raise ConfigError(f"beit tokenizer has no action {action!r}. Choose train or evaluate.")


def tokenize_command(arguments: list[str]) -> None:
    from beit.train.settings import TokenizeSettings

    settings = parse(TokenizeSettings, "tokenize", arguments)
    require("torch", "train", "beit tokenize")
    from beit.train.tokenize import tokenize

    cache = tokenize(settings)
    say(
        f"Wrote {settings.output}: {cache.crops} crops of {len(cache)} images, {cache.grid[0]}x{cache.grid[1]} tokens each. "
        f"Pre-train with them: beit pretrain --token-cache {settings.output} …"
    )


def _require(framework: str, purpose: str) -> None:
    if framework == "flax":
        require("optax", "flax", purpose)
    else:
        require("torch", "train", purpose)


def pretrain_command(arguments: list[str]) -> None:
    from beit.train.settings import PretrainSettings

    settings = parse(PretrainSettings, "pretrain", arguments)
    _require(settings.framework, "beit pretrain")
    from beit.train.pretrain import pretrain
    from beit.train.targets import target_class

    last = last_line(settings, pretrain(settings))
    say(target_class(settings.target, settings.framework).summary(settings.output, last))


def finetune_command(arguments: list[str]) -> None:
    from beit.train.settings import FinetuneSettings

    settings = parse(FinetuneSettings, "finetune", arguments)
    _require(settings.framework, "beit finetune")
    from beit.train.finetune import finetune

    history, result = finetune(settings)
    say(f"Saved {settings.output}: training accuracy {last_line(settings, history)['accuracy']:.1%}.")
    if result is not None:
        say(f"Validation: {result.summary()}")
    report = settings.output / "report.html"
    if report.exists():
        say(f"Open {report}")

"""Recipes: functions that return a run's settings. Loads no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beit.train.settings import FinetuneSettings, PretrainSettings, TokenizerSettings


@dataclass(frozen=True)
class Experiment:
    """Tokenizer → pre-training → fine-tuning, and the same network from scratch with the same fine-tuning budget."""

    tokenizer: TokenizerSettings
    pretrain: PretrainSettings
    finetune: FinetuneSettings
    scratch: FinetuneSettings


# Mean and standard deviation of Fashion-MNIST's training pixels, the same for the three channels of a grey image.
_GREY_MEAN, _GREY_STD = (0.286, 0.286, 0.286), (0.353, 0.353, 0.353)


def garments(output: Path, seed: int = 0, length: float = 1.0) -> Experiment:
    """Fashion-MNIST at 28 pixels, 1,000 labels, on two CPU cores: `beit demo`.

    On the embedded subset (5,000 images without labels) in about eight minutes: see docs/results.md for the figures.
    What matters at this size, found by trying: absolute positions (without them 14 points are lost), few codes (128
    rather than 512: with 49 patches of 4 pixels there is little to tell apart), a stronger crop in pre-training than in
    fine-tuning, and a learning rate far above the paper's, as fits a narrow model.

    Args:
        output: folder for the four runs.
        seed: of everything random.
        length: factor on all numbers of steps; 1 takes about eight minutes on two cores.
    """
    images = Path("embedded:fashion_mnist_subset")

    def steps(number: int) -> int:
        return max(round(number * length), 4)

    tokenizer = TokenizerSettings(
        images=images,
        output=output / "tokenizer",
        image_size=28,
        factor=4,
        vocab_size=128,
        width=16,
        steps=steps(500),
        crop_scale=(0.6, 1.0),
        seed=seed,
    )
    pretrain = PretrainSettings(
        images=images,
        output=output / "pretrain",
        tokenizer=str(tokenizer.output),
        model="tiny",
        steps=steps(2200),
        learning_rate=3e-3,
        warmup=0.1,
        crop_scale=(0.6, 1.0),
        jitter=0.0,
        drop_path=0.0,
        mean=_GREY_MEAN,
        std=_GREY_STD,
        seed=seed,
    )
    tuning: dict[str, Any] = {
        "images": images,
        "steps": steps(600),
        "batch_size": 64,
        "learning_rate": 2e-3,
        "warmup": 0.1,
        "crop_scale": (0.85, 1.0),
        "erase": 0.25,
        "mean": _GREY_MEAN,
        "std": _GREY_STD,
        "seed": seed,
    }
    finetune = FinetuneSettings(**tuning, output=output / "finetune", model=str(pretrain.output), layer_decay=0.65)
    scratch = FinetuneSettings(**tuning, output=output / "scratch", model="tiny", layer_decay=0.65)
    return Experiment(tokenizer, pretrain, finetune, scratch)


def photographs(images: Path, output: Path, seed: int = 0, length: float = 1.0) -> TokenizerSettings:
    """A tokenizer of 128 codes for 32-pixel crops of photographs; under a minute on two cores."""
    return TokenizerSettings(
        images=images,
        output=output,
        image_size=32,
        factor=4,
        vocab_size=128,
        width=16,
        steps=max(round(300 * length), 4),
        crop_scale=(0.02, 0.25),
        workers=0,
        seed=seed,
    )

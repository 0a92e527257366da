"""Recipes: functions that return a run's settings. Loads no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beit.train.settings import FinetuneSettings, PretrainSettings, SegmentSettings, TokenizerSettings


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


def ade20k_base(data: Path, output: Path, model: str, batch_size: int = 16) -> SegmentSettings:
    """BEiT-B on ADE20K at 512 pixels from self-supervised pre-training (published mIoU: Bao et al., 2021, table 3).
    Rate 7e-4, layer decay .65.

    Args:
        data: ADEChallengeData2016 as it is unpacked: images/{training,validation}, annotations/{training,validation},
            objectInfo150.txt.
        output: folder for the result.
        model: the pre-trained model, of the size at which it is to be trained.
        batch_size: images a step; the learning rate goes with it, and the number of steps against it.
    """
    return _ade20k(data, output, model, batch_size, learning_rate=7e-4, layer_decay=0.65, drop_path=0.1)


def ade20k_base_labels(data: Path, output: Path, model: str, batch_size: int = 16) -> SegmentSettings:
    """BEiT-B on ADE20K from a model fine-tuned on the labels of ImageNet-22k; published: 53.6 mIoU at 640 pixels, 54.2
    with several scales and flips. Rate 3e-5, layer decay .9. Arguments as `ade20k_base`.
    """
    return _ade20k(data, output, model, batch_size, learning_rate=3e-5, layer_decay=0.9, drop_path=0.1)


def ade20k_large_labels(data: Path, output: Path, model: str, batch_size: int = 16) -> SegmentSettings:
    """BEiT-L on ADE20K from a model fine-tuned on the labels of ImageNet-22k; published: 56.7 mIoU at 640 pixels, 57.0
    with several scales and flips. Rate 2e-5, layer decay .95. Arguments as `ade20k_base`.
    """
    return _ade20k(data, output, model, batch_size, learning_rate=2e-5, layer_decay=0.95, drop_path=0.2)


def _ade20k(
    data: Path, output: Path, model: str, batch_size: int, learning_rate: float, **rest: Any
) -> SegmentSettings:
    """What the authors' rows share: 160,000 updates of 16 images, no clipping (microsoft/unilm, beit/semantic_segmentation)."""
    return SegmentSettings(
        images=data / "images/training",
        maps=data / "annotations/training",
        validation_images=data / "images/validation",
        validation_maps=data / "annotations/validation",
        reduce_labels=True,
        output=output,
        model=model,
        batch_size=batch_size,
        steps=round(160_000 * 16 / batch_size),
        learning_rate=learning_rate * batch_size / 16,
        clip=0.0,
        **rest,
    )


def pasted_garments(output: Path, seed: int = 0, length: float = 1.0) -> SegmentSettings:
    """Garments pasted on photographs, a tiny model from scratch at 96 pixels on two CPU cores: `beit segment demo`.

    In under three minutes 19.2 % mIoU on the test part (always guessing background: 7.2 %): it sees where garments are, and
    in part what they are. At this size many pictures count for more than fine patches; of 8 pixels, a quarter as many pass in
    the same time.

    Args:
        output: folder for the model.
        seed: of everything random.
        length: factor on the number of steps.
    """
    images = Path("embedded:pasted_garments")
    return SegmentSettings(
        images=images,
        validation_images=images,
        output=output,
        model="tiny",
        image_size=96,
        patch_size=16,
        steps=max(round(1000 * length), 2),
        learning_rate=2e-3,
        warmup=0.05,
        layer_decay=1.0,
        drop_path=0.0,
        scale=(1.0, 1.0),
        cat_max=1.0,
        workers=0,  # making a picture takes less than the step; a worker would take a core from it
        seed=seed,
    )

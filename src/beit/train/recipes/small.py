"""Recipes for a single GPU, or none: functions that return the settings of one run, or of an `Experiment`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from beit.train.recipes.pretrain import ALL_IMAGES, IMAGENET_MEAN, IMAGENET_STD, parts, scaled
from beit.train.settings import FinetuneSettings, PretrainSettings, TokenizerSettings


@dataclass(frozen=True)
class Experiment:
    """Tokenizer → pre-training → fine-tuning, and the same network trained from scratch with the same fine-tuning budget."""

    tokenizer: TokenizerSettings
    pretrain: PretrainSettings
    finetune: FinetuneSettings
    scratch: FinetuneSettings


# Mean and standard deviation of Fashion-MNIST's training pixels, the same for all three channels since the images are grey.
_GREY_MEAN, _GREY_STD = (0.286, 0.286, 0.286), (0.353, 0.353, 0.353)


def garments(output: Path, seed: int = 0, length: float = 1.0) -> Experiment:
    """Fashion-MNIST at 28 pixels, 1,000 labels, on two CPU cores: `beit demo`.

    Command: beit demo --output runs/demo
    Hardware: two CPU cores.
    Time: 8 minutes (measured), on the embedded subset of 5,000 images without labels.
    Published: nothing; docs/results.md has our figures.

    Experiments showed what matters at this size: absolute positions (without them accuracy is 14 points lower), few codes (128
    rather than 512: patches of 4 pixels differ little), a stronger crop in pre-training than in fine-tuning, and a learning rate
    far above the paper's, because the model is narrow.

    Args:
        output: folder for the four runs.
        seed: of everything random.
        length: factor by which all numbers of steps are multiplied; 1 takes about eight minutes on two cores.
    """
    images = "embedded:fashion_mnist_subset"

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
        **ALL_IMAGES,
        "crop_scale": (0.85, 1.0),
        "erase": 0.25,
        "mean": _GREY_MEAN,
        "std": _GREY_STD,
        "seed": seed,
    }
    finetune = FinetuneSettings(**tuning, output=output / "finetune", model=str(pretrain.output), layer_decay=0.65)
    scratch = FinetuneSettings(**tuning, output=output / "scratch", model="tiny", layer_decay=0.65)
    return Experiment(tokenizer, pretrain, finetune, scratch)


def photographs(images: str | Path, output: Path, seed: int = 0, length: float = 1.0) -> TokenizerSettings:
    """A tokenizer of 128 codes for 32-pixel crops of photographs.

    Command: beit tokenizer train --recipe photographs --images photographs --output runs/tokenizer
    Hardware: two CPU cores.
    Time: under a minute (measured).
    Published: nothing.

    Args:
        images: a folder of photographs.
        output: folder for the result.
        seed: of everything random.
        length: factor by which the number of steps is multiplied.
    """
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


# Mean and standard deviation of CIFAR-10's training pixels.
_CIFAR_MEAN, _CIFAR_STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


def small_images(
    images: str | Path,
    output: Path,
    target: Literal["tokens", "pixels"] = "tokens",
    labels_per_class: int | None = None,
    seed: int = 0,
    length: float = 1.0,
) -> Experiment:
    """CIFAR-10, or other photographs of 32 pixels, with the tiny model: an evening on a CPU.

    Command: beit tokenizer train --recipe small-images --images cifar/train --output runs/cifar/tokenizer
    Command: beit pretrain --recipe small-images --images cifar/train --output runs/cifar/pretrain
        --tokenizer runs/cifar/tokenizer
    Command: beit finetune --recipe small-images --images cifar/train --output runs/cifar/finetune
        --model runs/cifar/pretrain
    Hardware: two CPU cores.
    Time: half an hour at 475 images/s (measured), a minute or two more for the tokenizer.
    Published: nothing.

    Tokenizer and pre-training are as in `garments`, with twice as many codes, and three times as many steps for ten times as many
    images. Fine-tuning is as there, and not tuned for these images.

    Args:
        images: training images, one subfolder per class (pre-training ignores the classes).
        output: folder for the four runs.
        target: what is predicted; for pixels no tokenizer is needed.
        labels_per_class: fine-tune, and train from scratch, on only the first N images of each class.
        seed: of everything random.
        length: factor by which all numbers of steps are multiplied.
    """

    def steps(number: int) -> int:
        return max(round(number * length), 4)

    tokenizer = TokenizerSettings(
        images=images,
        output=output / "tokenizer",
        image_size=32,
        factor=4,
        vocab_size=256,
        width=16,
        steps=steps(800),
        crop_scale=(0.6, 1.0),
        seed=seed,
    )
    pretrain = PretrainSettings(
        images=images,
        output=output / "pretrain",
        tokenizer=str(tokenizer.output) if target == "tokens" else None,
        target=target,
        model="tiny",
        image_size=32,
        steps=steps(6000),
        batch_size=128,
        learning_rate=3e-3,
        warmup=0.1,
        crop_scale=(0.6, 1.0),
        jitter=0.0,
        drop_path=0.0,
        mean=_CIFAR_MEAN,
        std=_CIFAR_STD,
        seed=seed,
    )
    tuning: dict[str, Any] = {
        "images": images,
        "labels_per_class": labels_per_class,
        "steps": steps(600),
        "batch_size": 64,
        "learning_rate": 2e-3,
        "warmup": 0.1,
        **ALL_IMAGES,
        "crop_scale": (0.6, 1.0),
        "erase": 0.25,
        "mean": _CIFAR_MEAN,
        "std": _CIFAR_STD,
        "layer_decay": 0.65,
        "seed": seed,
    }
    finetune = FinetuneSettings(**tuning, output=output / "finetune", model=str(pretrain.output))
    scratch = FinetuneSettings(**tuning, output=output / "scratch", model="tiny", image_size=32)
    return Experiment(tokenizer, pretrain, finetune, scratch)


def small_photos(
    images: str | Path, output: Path, batch_size: int = 256, devices: int = 1, seed: int = 0
) -> Experiment:
    """The small model at 96 pixels on a folder of about 100,000 photographs: a night on one consumer GPU.

    Command: beit tokenizer train --recipe small-photos --images photos --output runs/photos/tokenizer
    Command: beit pretrain --recipe small-photos --images photos --output runs/photos/pretrain
        --tokenizer runs/photos/tokenizer
    Command: beit finetune --recipe small-photos --images photos --output runs/photos/finetune --model runs/photos/pretrain
    Hardware: one GPU of 24 GB, and 8 CPU cores to read the photographs.
    Time: 6 hours (estimated: 200 epochs of 14 gigaflop per image at 15 teraflop/s, 1,000 images/s).
    Published: nothing; not tried at this length. The rate is the one for our narrow models, the rest is the paper's.

    Args:
        images: a folder of photographs. With one subfolder per class it can be used for fine-tuning too.
        output: folder for the four runs.
        batch_size: images per step of pre-training and fine-tuning; the learning rates are scaled with it.
        devices: how many share a batch.
        seed: of everything random.
    """
    workers: dict[str, Any] = {"images": images, "workers": 8, "log_every": 50, "seed": seed}
    accumulate = parts(batch_size, devices, 256)
    tokenizer = TokenizerSettings(
        **workers,
        output=output / "tokenizer",
        image_size=96,
        factor=8,
        vocab_size=1024,
        width=32,
        epochs=5,
        save_every=1000,
    )
    pretrain = PretrainSettings(
        **workers,
        output=output / "pretrain",
        tokenizer=str(tokenizer.output),
        model="small",
        epochs=200,
        batch_size=batch_size,
        accumulate=accumulate,
        learning_rate=scaled(1.5e-3, batch_size, 256),
        warmup=0.05,
        crop_scale=(0.2, 1.0),
        drop_path=0.1,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        save_every=2000,
    )
    tuning: dict[str, Any] = {
        **workers,
        "epochs": 50,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "learning_rate": scaled(2e-3, batch_size, 256),
        "warmup": 0.1,
        **ALL_IMAGES,
        "layer_decay": 0.65,
        "augment": "rand",
        "erase": 0.25,
        "mixup": 0.8,
        "cutmix": 1.0,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "save_every": 2000,
    }
    finetune = FinetuneSettings(**tuning, output=output / "finetune", model=str(pretrain.output))
    scratch = FinetuneSettings(**tuning, output=output / "scratch", model="small")
    return Experiment(tokenizer, pretrain, finetune, scratch)


def base_100(
    images: str | Path, output: Path, tokenizer: str, batch_size: int = 1024, devices: int = 1
) -> PretrainSettings:
    """BEiT-B on ImageNet-100, or as many other photographs (127,000), 300 epochs: a long weekend on one consumer GPU.

    Command: beit pretrain --recipe base-100 --images imagenet100/train --output runs/base-100 --tokenizer dall-e
    Hardware: one GPU of 24 GB with bf16; 64 images at a time, activations computed twice.
    Time: 50 hours (estimated: 195 gigaflop per image at 40 teraflop/s, 200 images/s).
    Published: nothing; not tried at this length. Fine-tune by finetune-base.

    The tokenizer takes a quarter of the time; `beit tokenize` computes its tokens only once.

    Args:
        images: the photographs; labels are not used.
        output: folder for the result.
        tokenizer: folder with OpenAI's encoder.pkl and decoder.pkl, or another tokenizer.
        batch_size: images per step; the learning rate is scaled with it.
        devices: how many share a batch.
    """
    return PretrainSettings(
        images=images,
        output=output,
        tokenizer=tokenizer,
        model="base",
        epochs=300,
        batch_size=batch_size,
        accumulate=parts(batch_size, devices, 64),
        learning_rate=scaled(1.5e-3, batch_size, 2048),
        warmup=round(10 / 300, 6),
        drop_path=0.1,
        layer_scale=0.1,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        precision="bf16",
        gradient_checkpointing=True,
        workers=8,
        log_every=50,
        save_every=1000,
    )

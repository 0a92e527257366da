"""Published recipes for pre-training on ImageNet-1k and -22k: functions that return a run's settings.

Values are those of the paper (Bao et al., 2021, arXiv 2106.08254, section 2.5 and appendix G) and of the authors' commands
(microsoft/unilm, beit/README.md). For another batch size the learning rate is scaled in proportion; the epochs, and the warm-up
as a fraction of the steps, stay the same. If a device gets more images than one of the authors' GPUs held, a batch passes through
the model in parts.

The authors trained in fp16. `auto` takes bf16 where a GPU has it; on a V100, which does not, add --precision fp16.

Times that were not published are estimated from the model's operations (`beit plan --no-measure` counts them), at 23.7 teraflop/s
per V100. This speed follows from the published five days of `pretrain_base_in1k`, including the tokenizer's 52 gigaflop per image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beit.core.errors import ConfigError
from beit.train.settings import PretrainSettings

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGES_IN_22K = 14_197_122
# Of fine-tuning: all images are learned from, and the last model is the result, as for a published accuracy.
ALL_IMAGES: dict[str, Any] = {"hold_out": 0.0, "validate_every": 0, "result": "last"}
# A step takes about a second: a log line every minute or two, a checkpoint every hour or two, enough processes for large images.
LONG_RUN: dict[str, Any] = {"workers": 10, "log_every": 100, "save_every": 5000}


def scaled(rate: float, batch_size: int, of: int) -> float:
    """The learning rate for `batch_size`, in proportion to `rate`, which is for `of` images; six digits, to print well."""
    return float(f"{rate * batch_size / of:.6g}")


def parts(batch_size: int, devices: int, most: int) -> int:
    """Into how many equal parts a batch is divided, so that each device holds at most `most` images at a time.

    Raises:
        ConfigError: the batch cannot be divided among the devices.
    """
    if batch_size < 1 or devices < 1 or batch_size % devices:
        raise ConfigError(f"A batch of {batch_size} cannot be divided among {devices} devices; choose a multiple.")
    share = batch_size // devices
    return next(number for number in range(1, share + 1) if share % number == 0 and share // number <= most)


def pretrain_base_in1k(
    images: str | Path, output: Path, tokenizer: str, batch_size: int = 2048, devices: int = 16
) -> PretrainSettings:
    """BEiT-B on the images of ImageNet-1k, 800 epochs.

    Command: torchrun --nproc-per-node 16 -m beit.cli pretrain --recipe pretrain-base-in1k --images imagenet/train
        --output runs/base-1k --tokenizer dall-e
    Hardware: 16 V100 of 32 GB, 128 images each.
    Time: 5 days (published: section 2.5).
    Published: 83.2 top-1 on ImageNet-1k after finetune-base (table 1).

    Args:
        images: the training images; labels are not used.
        output: folder for the result.
        tokenizer: folder with OpenAI's encoder.pkl and decoder.pkl, or another tokenizer.
        batch_size: images per step, over all devices.
        devices: how many share a batch.
    """
    return _imagenet_1k(images, output, tokenizer, batch_size, devices, 128, model="base", layer_scale=0.1)


def pretrain_large_in1k(
    images: str | Path, output: Path, tokenizer: str, batch_size: int = 2048, devices: int = 32
) -> PretrainSettings:
    """BEiT-L on the images of ImageNet-1k, 800 epochs. Gradients are clipped at 1 (table 12), at base size at 3.

    Command: torchrun --nnodes 2 --nproc-per-node 16 -m beit.cli pretrain --recipe pretrain-large-in1k --images
        imagenet/train --output runs/large-1k --tokenizer dall-e
    Hardware: 32 V100 of 32 GB, 64 images each (our assumption; the authors do not say).
    Time: 7 days (estimated: 425 gigaflop per image).
    Published: 85.2 top-1 on ImageNet-1k after finetune-large (table 1).

    Arguments as `pretrain_base_in1k`.
    """
    return _imagenet_1k(images, output, tokenizer, batch_size, devices, 64, model="large", layer_scale=1e-5, clip=1.0)


def pretrain_base_in22k(
    images: str | Path, output: Path, tokenizer: str, batch_size: int = 2048, devices: int = 16
) -> PretrainSettings:
    """BEiT-B on the 14 million images of ImageNet-22k, 150 epochs.

    Command: torchrun --nproc-per-node 16 -m beit.cli pretrain --recipe pretrain-base-in22k --images imagenet22k --output
        runs/base-22k --tokenizer dall-e
    Hardware: 16 V100 of 32 GB, 128 images each.
    Time: 10 days (estimated: 160 gigaflop per image).
    Published: 83.7 top-1 on ImageNet-1k after finetune-base (the authors' table of models).

    Arguments as `pretrain_base_in1k`.
    """
    return _imagenet_22k(images, output, tokenizer, batch_size, devices, 128, model="base", layer_scale=0.1)


def pretrain_large_in22k(
    images: str | Path, output: Path, tokenizer: str, batch_size: int = 2048, devices: int = 32
) -> PretrainSettings:
    """BEiT-L on the 14 million images of ImageNet-22k, 150 epochs. Clipped at 1, as at that size on ImageNet-1k.

    Command: torchrun --nnodes 2 --nproc-per-node 16 -m beit.cli pretrain --recipe pretrain-large-in22k --images
        imagenet22k --output runs/large-22k --tokenizer dall-e
    Hardware: 32 V100 of 32 GB, 64 images each (our assumption; the authors do not say).
    Time: 14 days (estimated: 425 gigaflop per image).
    Published: 86.0 top-1 on ImageNet-1k after finetune-large (the authors' table of models).

    Arguments as `pretrain_base_in1k`.
    """
    return _imagenet_22k(images, output, tokenizer, batch_size, devices, 64, model="large", layer_scale=1e-5, clip=1.0)


def _imagenet_1k(*where: Any, **rest: Any) -> PretrainSettings:
    """10 of 800 epochs are warm-up; pixels are normalised with ImageNet's mean and standard deviation."""
    return _pretrain(*where, epochs=800, warmup=10 / 800, mean=IMAGENET_MEAN, std=IMAGENET_STD, **rest)


def _imagenet_22k(
    images: str | Path, output: Path, tokenizer: str, batch_size: int, devices: int, most: int, **rest: Any
) -> PretrainSettings:
    """10,000 of the authors' 1.04 million steps are warm-up; mean and standard deviation are 0.5."""
    warmup = round(10_000 / (150 * (_IMAGES_IN_22K // 2048)), 6)
    return _pretrain(images, output, tokenizer, batch_size, devices, most, epochs=150, warmup=warmup, **rest)


def _pretrain(
    images: str | Path, output: Path, tokenizer: str, batch_size: int, devices: int, most: int, **rest: Any
) -> PretrainSettings:
    return PretrainSettings(
        images=images,
        output=output,
        tokenizer=tokenizer,
        batch_size=batch_size,
        accumulate=parts(batch_size, devices, most),
        learning_rate=scaled(1.5e-3, batch_size, 2048),
        min_learning_rate=1e-5,
        drop_path=0.1,
        **{**LONG_RUN, **rest},
    )

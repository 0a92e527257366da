"""Published recipes for fine-tuning on ImageNet-1k, and for the linear probe: functions that return settings.

Values are those of the paper (Bao et al., 2021, arXiv 2106.08254, appendices D and H) and of the authors' commands
(microsoft/unilm, beit/get_started_for_image_classification.md, which also names the hardware). They are scaled to batch and
devices, and times are estimated, as in `recipes/pretrain.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from beit.train.recipes.pretrain import ALL_IMAGES, LONG_RUN, parts, scaled
from beit.train.settings import FinetuneSettings

if TYPE_CHECKING:
    from beit.evaluation.settings import Probe


def finetune_base(
    images: str | Path,
    output: Path,
    model: str,
    validation: Path | None = None,
    batch_size: int = 1024,
    devices: int = 8,
) -> FinetuneSettings:
    """BEiT-B on ImageNet-1k from self-supervised pre-training, 100 epochs.

    Command: torchrun --nproc-per-node 8 -m beit.cli finetune --recipe finetune-base --images imagenet/train --validation
        imagenet/val --model runs/base-1k --output runs/base-1k-tuned
    Hardware: 8 V100 of 16 GB, 128 images each.
    Time: 20 hours (estimated: 105 gigaflop per image).
    Published: 83.2 top-1 from pretrain-base-in1k (table 1), 83.7 from pretrain-base-in22k.

    Args:
        images: training images, one subfolder per class.
        output: folder for the result.
        model: the pre-trained model.
        validation: images to measure on at the end.
        batch_size: images per step, over all devices.
        devices: how many share a batch.
    """
    return _from_pixels(
        images,
        output,
        model,
        validation,
        batch_size,
        devices,
        128,
        rate=4e-3,
        epochs=100,
        warmup=20 / 100,
        layer_decay=0.65,
        drop_path=0.1,
    )


def finetune_large(
    images: str | Path,
    output: Path,
    model: str,
    validation: Path | None = None,
    batch_size: int = 1024,
    devices: int = 8,
) -> FinetuneSettings:
    """BEiT-L on ImageNet-1k from self-supervised pre-training, 50 epochs.

    Command: torchrun --nproc-per-node 8 -m beit.cli finetune --recipe finetune-large --images imagenet/train --validation
        imagenet/val --model runs/large-22k --output runs/large-22k-tuned
    Hardware: 8 V100 of 16 GB, 64 images each in 2 parts.
    Time: 35 hours (estimated: 369 gigaflop per image).
    Published: 85.2 top-1 from pretrain-large-in1k (table 1), 86.0 from pretrain-large-in22k.

    Arguments as `finetune_base`.
    """
    return _from_pixels(
        images,
        output,
        model,
        validation,
        batch_size,
        devices,
        64,
        rate=1e-3,
        epochs=50,
        warmup=5 / 50,
        layer_decay=0.75,
        drop_path=0.2,
    )


def finetune_base_labels(
    images: str | Path,
    output: Path,
    model: str,
    validation: Path | None = None,
    batch_size: int = 512,
    devices: int = 8,
) -> FinetuneSettings:
    """BEiT-B on ImageNet-1k from a model fine-tuned on the labels of ImageNet-22k, 30 epochs.

    Command: torchrun --nproc-per-node 8 -m beit.cli finetune --recipe finetune-base-labels --images imagenet/train
        --validation imagenet/val --model microsoft/beit-base-patch16-224-pt22k-ft22k --output runs/base-labels
    Hardware: 8 V100 of 16 GB, 64 images each.
    Time: 6 hours (estimated: 105 gigaflop per image).
    Published: 85.2 top-1 (the authors' table of models).

    Arguments as `finetune_base`.
    """
    return _from_labels(images, output, model, validation, batch_size, devices, 64, layer_decay=0.85, drop_path=0.1)


def finetune_large_labels(
    images: str | Path,
    output: Path,
    model: str,
    validation: Path | None = None,
    batch_size: int = 512,
    devices: int = 8,
) -> FinetuneSettings:
    """BEiT-L on ImageNet-1k from a model fine-tuned on the labels of ImageNet-22k, 30 epochs.

    Command: torchrun --nproc-per-node 8 -m beit.cli finetune --recipe finetune-large-labels --images imagenet/train
        --validation imagenet/val --model microsoft/beit-large-patch16-224-pt22k-ft22k --output runs/large-labels
    Hardware: 8 V100 of 16 GB, 32 images each in 2 parts.
    Time: 21 hours (estimated: 369 gigaflop per image).
    Published: 87.4 top-1 (the authors' table of models).

    Arguments as `finetune_base`.
    """
    return _from_labels(images, output, model, validation, batch_size, devices, 32, layer_decay=0.9, drop_path=0.4)


def finetune_base_384(
    images: str | Path,
    output: Path,
    model: str,
    validation: Path | None = None,
    batch_size: int = 512,
    devices: int = 8,
) -> FinetuneSettings:
    """BEiT-B on ImageNet-1k at 384 pixels from a model fine-tuned on the labels of ImageNet-22k, 30 epochs.

    Command: torchrun --nproc-per-node 8 -m beit.cli finetune --recipe finetune-base-384 --images imagenet/train
        --validation imagenet/val --model microsoft/beit-base-patch16-224-pt22k-ft22k --output runs/base-384
    Hardware: 8 V100 of 16 GB, 16 images each in 4 parts.
    Time: 19 hours (estimated: 332 gigaflop per image).
    Published: 86.8 top-1 (the authors' table of models).

    The relative-position tables of the start are resized for 384 pixels, from 27 x 27 + 3 rows to 47 x 47 + 3. The authors only
    say to change the size, so all other values are those for 224 pixels. Arguments as `finetune_base`.
    """
    return _from_labels(
        images, output, model, validation, batch_size, devices, 16, image_size=384, layer_decay=0.85, drop_path=0.1
    )


def finetune_large_384(
    images: str | Path,
    output: Path,
    model: str,
    validation: Path | None = None,
    batch_size: int = 512,
    devices: int = 8,
) -> FinetuneSettings:
    """BEiT-L on ImageNet-1k at 384 pixels from a model fine-tuned on the labels of ImageNet-22k, 30 epochs.

    Command: torchrun --nproc-per-node 8 -m beit.cli finetune --recipe finetune-large-384 --images imagenet/train
        --validation imagenet/val --model microsoft/beit-large-patch16-224-pt22k-ft22k --output runs/large-384
    Hardware: 8 V100 of 16 GB, 8 images each in 8 parts.
    Time: 65 hours (estimated: 1,145 gigaflop per image).
    Published: 88.4 top-1 (the authors' table of models).

    Arguments as `finetune_base`.
    """
    return _from_labels(
        images, output, model, validation, batch_size, devices, 8, image_size=384, layer_decay=0.9, drop_path=0.4
    )


def finetune_large_512(
    images: str | Path,
    output: Path,
    model: str,
    validation: Path | None = None,
    batch_size: int = 512,
    devices: int = 8,
) -> FinetuneSettings:
    """BEiT-L on ImageNet-1k at 512 pixels from a model fine-tuned on the labels of ImageNet-22k, 30 epochs.

    Command: torchrun --nproc-per-node 8 -m beit.cli finetune --recipe finetune-large-512 --images imagenet/train
        --validation imagenet/val --model microsoft/beit-large-patch16-224-pt22k-ft22k --output runs/large-512
    Hardware: 8 V100 of 16 GB, 4 images each in 16 parts.
    Time: 5 days (estimated: 2,170 gigaflop per image).
    Published: 88.6 top-1 (the authors' table of models).

    Arguments as `finetune_base`.
    """
    return _from_labels(
        images, output, model, validation, batch_size, devices, 4, image_size=512, layer_decay=0.9, drop_path=0.4
    )


def _from_pixels(*where: Any, **rest: Any) -> FinetuneSettings:
    """From self-supervised pre-training: batches are mixed, weights decay."""
    return _finetune(*where, of=1024, weight_decay=0.05, mixup=0.8, cutmix=1.0, **rest)


def _from_labels(*where: Any, **rest: Any) -> FinetuneSettings:
    """After the labels of ImageNet-22k: small steps, nothing mixed, nearly no decay."""
    return _finetune(*where, rate=2e-5, of=512, epochs=30, warmup=round(5 / 30, 6), weight_decay=1e-8, **rest)


def _finetune(
    images: str | Path,
    output: Path,
    model: str,
    validation: Path | None,
    batch_size: int,
    devices: int,
    most: int,
    *,
    rate: float,
    of: int,
    **rest: Any,
) -> FinetuneSettings:
    """What all have in common. Gradients are not clipped: in this the authors' fine-tuning differs from their pre-training.

    A device takes at most `most` images at a time; `rate` is the learning rate for batches of `of` images.
    """
    return FinetuneSettings(
        images=images,
        output=output,
        model=model,
        validation=validation,
        batch_size=batch_size,
        accumulate=parts(batch_size, devices, most),
        learning_rate=scaled(rate, batch_size, of),
        min_learning_rate=1e-6,
        clip=0.0,
        augment="rand",
        jitter=0.4,
        erase=0.25,
        label_smoothing=0.1,
        **{**LONG_RUN, **ALL_IMAGES, "log_every": 50, "save_every": 2500, **rest},
    )


# --- linear probe ------------------------------------------------------------------------------------------------


def probe_base(images: Path, model: str, validation: Path | None = None, batch_size: int = 1024) -> Probe:
    """Linear probe of every layer of BEiT-B on ImageNet-1k, 100 epochs.

    Command: beit probe --recipe probe-base --images imagenet/train --validation imagenet/val --model runs/base-1k
    Hardware: one GPU, and 50 GB of memory for the features of all layers.
    Time: 1 hour (estimated: one pass of 35 gigaflop per image at 15 teraflop/s).
    Published: 56.7 top-1, at layer 9, with new crops in each of 50 epochs (table 9). Here features are computed once, of the
        middle of each image; --views adds random crops.

    Args:
        images: training images, one subfolder per class.
        model: the pre-trained model.
        validation: images to measure on.
        batch_size: images per step of the linear layers; the learning rate is scaled with it.
    """
    from beit.evaluation.settings import Probe

    rate = scaled(4e-3, batch_size, 1024)
    return Probe(
        images=images,
        model=model,
        validation=validation,
        epochs=100,
        linear_batch_size=batch_size,
        learning_rate=rate,
    )

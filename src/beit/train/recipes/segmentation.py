"""Recipes for semantic segmentation: functions that return a run's settings.

Those for ADE20K are the authors' (microsoft/unilm, beit/semantic_segmentation; Bao et al., 2021, table 7). Their times are
estimated as in `recipes/pretrain.py`. The model's positions are resized to the size at which it is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beit.train.recipes.pretrain import scaled
from beit.train.settings import SegmentSettings


def ade20k_base(data: Path, output: Path, model: str, batch_size: int = 16) -> SegmentSettings:
    """BEiT-B on ADE20K at 512 pixels from self-supervised pre-training. Rate 7e-4, layer decay .65.

    Command: torchrun --nproc-per-node 8 -m beit.cli segment train --recipe ade20k-base --model runs/base --output
        runs/ade-base
    Hardware: 8 V100 of 32 GB, 2 images each.
    Time: 14 hours (estimated: 3.6 teraflop per image).
    Published: 45.6 mIoU with the head of SETR (table 3); none for this head.

    Args:
        data: the folder ADEChallengeData2016 as it is unpacked: images/{training,validation}, annotations/{training,validation},
            objectInfo150.txt.
        output: folder for the result.
        model: the pre-trained model.
        batch_size: images per step. The learning rate is scaled with it, the number of steps inversely.
    """
    return _ade20k(data, output, model, batch_size, image_size=512, learning_rate=7e-4, layer_decay=0.65, drop_path=0.1)


def ade20k_base_labels(data: Path, output: Path, model: str, batch_size: int = 16) -> SegmentSettings:
    """BEiT-B on ADE20K at 640 pixels from a model fine-tuned on the labels of ImageNet-22k. Rate 3e-5, layer decay .9.

    Command: torchrun --nproc-per-node 8 -m beit.cli segment train --recipe ade20k-base-labels --model
        beit-base-patch16-224-pt22k-ft22k --output runs/ade-base-labels
    Hardware: 8 V100 of 32 GB, 2 images each.
    Time: 22 hours (estimated: 5.8 teraflop per image).
    Published: 53.6 mIoU at 640 pixels, 54.2 with several scales and flips (table 7).

    Arguments as `ade20k_base`.
    """
    return _ade20k(data, output, model, batch_size, image_size=640, learning_rate=3e-5, layer_decay=0.9, drop_path=0.1)


def ade20k_large_labels(data: Path, output: Path, model: str, batch_size: int = 16) -> SegmentSettings:
    """BEiT-L on ADE20K at 640 pixels from a model fine-tuned on the labels of ImageNet-22k. Rate 2e-5, layer decay .95.

    Command: torchrun --nnodes 2 --nproc-per-node 8 -m beit.cli segment train --recipe ade20k-large-labels --model
        beit-large-patch16-224-pt22k-ft22k --output runs/ade-large-labels
    Hardware: 16 V100 of 32 GB, 1 image each.
    Time: 22 hours (estimated: 12 teraflop per image).
    Published: 56.7 mIoU at 640 pixels, 57.0 with several scales and flips (table 7).

    Arguments as `ade20k_base`.
    """
    return _ade20k(data, output, model, batch_size, image_size=640, learning_rate=2e-5, layer_decay=0.95, drop_path=0.2)


def _ade20k(
    data: Path, output: Path, model: str, batch_size: int, learning_rate: float, **rest: Any
) -> SegmentSettings:
    """What all have in common: 160,000 steps of 16 images, no clipping (microsoft/unilm, beit/semantic_segmentation)."""
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
        learning_rate=scaled(learning_rate, batch_size, 16),
        clip=0.0,
        **rest,
    )


def pasted_garments(output: Path, seed: int = 0, length: float = 1.0) -> SegmentSettings:
    """Garments pasted on photographs, a tiny model from scratch at 96 pixels: `beit segment demo`.

    Command: beit segment train --recipe pasted-garments --output runs/pasted
    Hardware: two CPU cores.
    Time: under 3 minutes (measured).
    Published: nothing; 19.2 % mIoU on the test part (always guessing background: 7.2 %).

    The model finds where garments are, and often which they are. At this size it helps more to see many pictures than to have
    small patches: with patches of 8 pixels, the model sees a quarter as many pictures in the same time.

    Args:
        output: folder for the model.
        seed: of everything random.
        length: factor by which the number of steps is multiplied.
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
        workers=0,  # a picture is made faster than a step is computed, so a worker would only take a core away
        seed=seed,
    )

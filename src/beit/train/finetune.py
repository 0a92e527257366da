"""Fine-tuning: a classifier from a pre-trained model, or from scratch (BEiT, section 2.5; `beit finetune`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from beit import geometry
from beit.config import PRESETS, BeitConfig
from beit.data.draw import Draw
from beit.data.images import BadImages, FolderImages, Images, count_of, hold_in_memory
from beit.data.label_maps import read_classes
from beit.data.loader import Batch, Loader, Order
from beit.data.sources import open_images
from beit.data.streams import Stream
from beit.data.views import (
    batch_jitter,
    batch_view,
    centre_crop,
    crop_box,
    erase_rectangle,
    jitter_colours,
    jitter_factors,
    mirror,
    mixup,
    normalise,
    pixels_of,
    resized_crop,
    simple_crop,
)
from beit.errors import ConfigError, DataError, require
from beit.evaluate import Evaluation, evaluate
from beit.hub import has_file
from beit.models.pytorch_beit import BeitForImageClassification
from beit.processing import FILE_NAME as PROCESSOR_FILE
from beit.processing import BeitImageProcessor
from beit.train.log import Metrics
from beit.train.loop import Job, train
from beit.train.optim import adamw, parameter_groups
from beit.train.pretrain import make_processor, normalisation, size_changes
from beit.train.run import open_run
from beit.train.settings import FinetuneSettings


class FinetuneViews:
    """Crop → flip → augmentation or colour jitter → normalisation → erasing, in this order (timm/data/transforms_factory.py,
    with which the authors fine-tune). Batches are mixed in the loop."""

    def __init__(
        self, settings: FinetuneSettings, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self.settings, self.size, self.mean, self.std = settings, size, mean, std

    def one(self, image: Image.Image, target: int, draw: Draw) -> Batch:
        """`pixel_values (3, H, W)`, `labels ()`."""
        settings, rng = self.settings, draw.rng()
        image = self._cropped(image, rng)
        if rng.random() < settings.flip:
            image = mirror(image)
        pixels = normalise(pixels_of(self._augmented(image, rng)), self.mean, self.std)
        if rng.random() < settings.erase:
            erase_rectangle(pixels, rng)
        return {"pixel_values": pixels, "labels": torch.tensor(target)}

    def _cropped(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        settings = self.settings
        if settings.crop == "simple":
            return simple_crop(image, self.size, rng)
        if settings.crop == "centre":
            return centre_crop(image, self.size)
        box = crop_box(rng, image.size, settings.crop_scale, settings.crop_ratio)
        return resized_crop(image, box, self.size, Image.Resampling.BICUBIC)

    def _augmented(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        settings = self.settings
        if settings.augment != "none":
            from beit.data import augment  # torchvision takes a second to load, and most commands do without

            if settings.augment == "rand":
                return augment.rand_augment(image, rng, self.mean)
            return augment.three_augment(image, rng, settings.jitter or augment.THREE_JITTER)
        return jitter_colours(image, settings.jitter, rng) if settings.jitter else image

    def batch(self, images: Tensor, labels: Tensor, draws: list[Draw]) -> Batch:
        """The same for a batch of small images.

        Augmentations and the other crops take them one by one: .14 to .32 ms an image of 32 pixels instead of .07.
        """
        settings, size = self.settings, (images.shape[3], images.shape[2])
        if settings.augment != "none" or settings.crop != "resized":
            arrays = images.mul(255).round_().byte().permute(0, 2, 3, 1).numpy()
            each = [self.one(Image.fromarray(a), int(b), c) for a, b, c in zip(arrays, labels, draws, strict=True)]
            return {name: torch.stack([found[name] for found in each]) for name in each[0]}
        rngs = [draw.rng() for draw in draws]
        boxes = np.array([crop_box(rng, size, settings.crop_scale, settings.crop_ratio) for rng in rngs])
        if settings.jitter:
            images = batch_jitter(images, np.stack([jitter_factors(settings.jitter, rng) for rng in rngs]))
        flips = np.array([rng.random() for rng in rngs]) < settings.flip
        pixels = batch_view(images, boxes, flips, self.size)
        pixels = normalise(pixels, self.mean, self.std)
        for image, rng in zip(pixels, rngs, strict=True):
            if rng.random() < settings.erase:
                erase_rectangle(image, rng)
        return {"pixel_values": pixels, "labels": labels}


def finetune(
    settings: FinetuneSettings, images: Images | Stream | None = None, validation: Images | None = None
) -> tuple[list[dict[str, float]], Evaluation | None]:
    """Fine-tune a classifier and save it in `settings.output`.

    Args:
        settings: what to do.
        images: labelled images, used instead of those that the settings name.
        validation: images to measure on at the end, used instead of the folder.

    Returns:
        The lines of the log, and the evaluation on the validation images, if any.

    Raises:
        BeitError: as `beit.train.loop.train`, and for settings or images that cannot be used.
    """
    torch.manual_seed(settings.seed)
    if settings.jitter or settings.augment != "none":
        require("torchvision", "train", "augmentation")
    if validation is not None or settings.validation is not None:  # before hours of training, not after
        require("torchmetrics", "train", "evaluation")
    run = open_run(settings)
    source = images if images is not None else _labelled(settings)
    if not source.labelled if isinstance(source, Stream) else source.labels is None:
        raise DataError("Fine-tuning needs labelled images: one subfolder a class.")
    if len(source.classes) < 2:
        raise DataError(f"There is only one class, {source.classes[0]}; a classifier needs two: one subfolder each.")
    if validation is None and settings.validation is not None:
        validation = FolderImages(settings.validation, labelled=True, classes=source.classes)
    if settings.labels_per_class is not None:
        if isinstance(source, Stream):
            raise ConfigError(
                "labels_per_class is for folders and arrays: a stream would be read to its end to choose."
            )
        source = first_of_each_class(source, settings.labels_per_class)
    model = classifier(settings, source.classes, run.checkpoint)
    processor = _processor(settings, model.config, run.checkpoint)
    if isinstance(source, FolderImages | Stream):
        source.smallest_side = max(geometry.pair(model.config.patch_size))
    bad = BadImages(count_of(source))
    source = hold_in_memory(source, bad, min(geometry.pair(model.config.image_size)))

    order = Order.of(source, settings)
    size = geometry.pair(model.config.image_size)
    views = FinetuneViews(settings, size, *normalisation(processor))
    loader = Loader(source, views, order, bad, settings.workers, run.rank, run.world)

    def optimizer() -> torch.optim.Optimizer:
        groups = parameter_groups(model, settings.weight_decay, settings.layer_decay, model.config.num_hidden_layers)
        return adamw(groups, settings.beta2)

    def mix(batch: Batch, step: int) -> Batch:
        targets = F.one_hot(batch["labels"], model.config.num_labels).float()
        rng = np.random.default_rng((settings.seed, step, run.rank, 1))
        pixels, targets = mixup(
            batch["pixel_values"], targets, settings.mixup, settings.cutmix, rng, settings.mix_probability
        )
        return {"pixel_values": pixels, "targets": targets}

    def loss(module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        targets = batch["targets"]
        logits = module(batch["pixel_values"]).logits.float()
        value = F.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
        return value, {"accuracy": (logits.argmax(-1) == targets.argmax(-1)).float().mean()}

    def save(module: Any, folder: Path) -> None:
        module.save_pretrained(folder)
        processor.save_pretrained(folder)

    job = Job(model, optimizer, loader, settings.total_steps(loader.steps_per_epoch), loss, save, prepare=mix)
    history = train(run, job)
    result = None
    if validation is not None and run.accelerator.is_main_process:
        model = BeitForImageClassification.from_pretrained(settings.output)  # what was saved, whole
        result = evaluate(model, processor, validation, device=run.accelerator.device)
        result.save(settings.output)
    return history, result


def _labelled(settings: FinetuneSettings) -> Images | Stream:
    classes = None if settings.classes is None else read_classes(settings.classes)
    return open_images(settings.images, labelled=True, classes=classes, shuffle_buffer=settings.shuffle_buffer)


def classifier(settings: FinetuneSettings, classes: list[str], checkpoint: Path | None) -> BeitForImageClassification:
    """The model to fine-tune: loaded, with a new head for `classes`; or new, when the settings name a size."""
    if checkpoint is not None:
        return BeitForImageClassification.from_pretrained(checkpoint)
    # A classifier has nothing to mask; a parameter without a gradient would stop data-parallel training.
    changes: dict[str, Any] = {
        "use_mask_token": False,
        "id2label": dict(enumerate(classes)),
        "drop_path_rate": settings.drop_path,
    }
    if settings.model in PRESETS:
        changes |= {"use_relative_position_bias": True, **size_changes(settings.image_size, settings.patch_size)}
        return BeitForImageClassification(BeitConfig.preset(settings.model, **changes))
    if settings.image_size is not None or settings.patch_size is not None:
        raise ConfigError(f"image_size and patch_size are for training from scratch; {settings.model} has its own.")
    config = BeitConfig.from_pretrained(settings.model)
    if config.use_shared_relative_position_bias:  # pre-training shares one table; fine-tuning gives each layer a copy
        changes |= {"use_shared_relative_position_bias": False, "use_relative_position_bias": True}
    return BeitForImageClassification.from_pretrained(settings.model, ignore_mismatched_sizes=True, **changes)


def _processor(settings: FinetuneSettings, config: BeitConfig, checkpoint: Path | None) -> BeitImageProcessor:
    if checkpoint is not None:
        return BeitImageProcessor.from_pretrained(checkpoint)
    if settings.model not in PRESETS and has_file(settings.model, PROCESSOR_FILE):
        return BeitImageProcessor.from_pretrained(settings.model)
    return make_processor(config, settings.mean, settings.std)


def first_of_each_class(images: Images, count: int) -> Images:
    """The first `count` images of each class, in the order of the folder or array.

    Raises:
        DataError: a class has fewer.
    """
    assert images.labels is not None
    chosen = []
    for number, name in enumerate(images.classes):
        found = np.flatnonzero(images.labels == number)
        if len(found) < count:
            raise DataError(f"Class {name} has {len(found)} images; {count} were asked for (labels_per_class).")
        chosen.append(found[:count])
    return images.subset(np.sort(np.concatenate(chosen)))

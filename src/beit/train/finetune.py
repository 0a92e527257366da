"""Fine-tuning: a classifier from a pre-trained model, or from scratch (BEiT, section 2.5; `beit finetune`).

The outline, for any framework. Its parts are functions of `torch_finetune` and `flax_finetune`:

    processes(settings), pool, check(folder), model(run, config, origin)    as in `pretrain`
    engine(run, model)                          → an `engine.Engine` of batches `pixel_values` and `targets (B, classes)`
    evaluation(run, processor, images)          → the `Evaluation` of the classifier in the run's output folder
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beit.config import PRESETS, BeitConfig
from beit.core import geometry
from beit.core.errors import ConfigError, DataError
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.processor import BeitImageProcessor
from beit.data.sources import open_images
from beit.data.sources.bad_images import BadImages
from beit.data.sources.class_names import read_classes
from beit.data.sources.images import FolderImages, Images
from beit.data.sources.in_memory import hold_in_memory
from beit.data.sources.stream import Stream, count_of
from beit.data.transforms.finetune import FinetuneViews
from beit.data.transforms.mixing import mixup
from beit.data.transforms.views import Batch
from beit.train.loop import Job, train
from beit.train.pretrain import make_processor, normalisation, origin_of, size_changes
from beit.train.run import Run, open_run
from beit.train.settings import FinetuneSettings

if TYPE_CHECKING:
    from beit.evaluation.classification import Evaluation


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
    framework = importlib.import_module(f"beit.train.{settings.framework}.finetune")
    run = open_run(settings, framework.processes(settings), framework.check)
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
    config = classifier_config(settings, source.classes, run.checkpoint)
    processor = _processor(settings, config, run.checkpoint)
    if isinstance(source, FolderImages | Stream):
        source.smallest_side = max(geometry.pair(config.patch_size))
    bad = BadImages(count_of(source))
    size = geometry.pair(config.image_size)
    source = hold_in_memory(source, bad, min(size))
    views = FinetuneViews(settings, size, *normalisation(processor))
    loader = Loader(
        source, views, Order.of(source, settings), bad, settings.workers, run.rank, run.world, framework.pool
    )

    model = framework.model(run, config, origin_of(settings.model, run.checkpoint))

    def save(trained: Any, folder: Path) -> None:
        trained.save_pretrained(folder)
        processor.save_pretrained(folder)

    job = Job(
        lambda run: framework.engine(run, model),
        loader,
        settings.total_steps(loader.steps_per_epoch),
        save,
        prepare=lambda batch, step: mix(batch, step, run, settings, config.num_labels),
    )
    history = train(run, job)
    result = None
    if validation is not None and run.main:
        result = framework.evaluation(run, processor, validation)
        result.save(settings.output)
    return history, result


def mix(batch: Batch, step: int, run: Run, settings: FinetuneSettings, classes: int) -> Batch:
    """Images and labels `(B,)` → images and `targets (B, classes)`, mixed by mixup or cutmix where the settings say so."""
    rng = np.random.default_rng((settings.seed, step, run.rank, 1))
    labels = np.asarray(batch["labels"])
    targets = np.zeros((len(labels), classes), np.float32)
    targets[np.arange(len(labels)), labels] = 1
    pixels, targets = mixup(
        np.asarray(batch["pixel_values"]), targets, settings.mixup, settings.cutmix, rng, settings.mix_probability
    )
    return {"pixel_values": pixels, "targets": targets}


def _labelled(settings: FinetuneSettings) -> Images | Stream:
    classes = None if settings.classes is None else read_classes(settings.classes)
    return open_images(settings.images, labelled=True, classes=classes, shuffle_buffer=settings.shuffle_buffer)


def classifier_config(settings: FinetuneSettings, classes: list[str], checkpoint: Path | None) -> BeitConfig:
    """The config of the model to fine-tune: a head for `classes` on the model, or the size, that the settings name."""
    if checkpoint is not None:
        return BeitConfig.from_pretrained(checkpoint)
    # A classifier has nothing to mask; a parameter without a gradient would stop data-parallel training.
    changes: dict[str, Any] = {
        "use_mask_token": False,
        "id2label": dict(enumerate(classes)),
        "drop_path_rate": settings.drop_path,
    }
    if settings.model in PRESETS:
        changes |= {"use_relative_position_bias": True, **size_changes(settings.image_size, settings.patch_size)}
        return BeitConfig.preset(settings.model, **changes)
    if settings.patch_size is not None:
        raise ConfigError(f"patch_size is for training from scratch; {settings.model} has its own. Leave it out.")
    changes |= size_changes(settings.image_size, None)  # positions are resized
    config = BeitConfig.from_pretrained(settings.model)
    if config.use_shared_relative_position_bias:  # pre-training shares one table; fine-tuning gives each layer a copy
        changes |= {"use_shared_relative_position_bias": False, "use_relative_position_bias": True}
    return BeitConfig.from_pretrained(settings.model, **changes)


def _processor(settings: FinetuneSettings, config: BeitConfig, checkpoint: Path | None) -> BeitImageProcessor:
    if checkpoint is not None:
        return BeitImageProcessor.from_pretrained(checkpoint)
    stored = None if settings.model in PRESETS else BeitImageProcessor.stored_in(settings.model)
    if stored is None:
        return make_processor(config, settings.mean, settings.std)
    return stored if settings.image_size is None else make_processor(config, *normalisation(stored))


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

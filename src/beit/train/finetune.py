"""Fine-tuning: a classifier from a pre-trained model, or from scratch (BEiT, section 2.5; `beit finetune`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beit.checkpoints.catalogue import RECOMMENDED
from beit.config import BeitConfig
from beit.core import geometry
from beit.core.errors import ConfigError
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.class_checks import check_class_folders, warn_of_absent_classes
from beit.data.sources.images import FolderImages, Images
from beit.data.sources.in_memory import hold_in_memory
from beit.data.sources.stream import Stream, count_of
from beit.data.sources.table_images import TableImages
from beit.data.sources.table_labels import REGRESSION, SINGLE
from beit.data.transforms.finetune import FinetuneViews
from beit.data.transforms.mixing import mixup
from beit.data.transforms.views import Batch
from beit.evaluation.reports import report_on_run
from beit.models.parameters import shapes_of
from beit.train.card import Card
from beit.train.framework import finetuning
from beit.train.loop import Job, train
from beit.train.parts import Parts, parts_of
from beit.train.pictures import of_views
from beit.train.run import Run, from_last_good, open_run
from beit.train.settings import FinetuneSettings
from beit.train.start import (
    Start,
    make_processor,
    one_table_per_layer,
    open_start,
    warn_of_other_classes,
    with_normalisation,
)
from beit.train.task import Task
from beit.train.validation import METRICS, measure_while_training, validation_of

if TYPE_CHECKING:
    from beit.evaluation.evaluate import Measured


@from_last_good
def finetune(
    settings: FinetuneSettings, images: Images | Stream | None = None, validation: Images | None = None
) -> tuple[list[dict[str, float]], Measured | None]:
    """Fine-tune a model on classes, several labels an image, or numbers, and save it in `settings.output`.

    Args:
        settings: what to do.
        images: labelled images, used instead of those that the settings name.
        validation: images to measure on at the end, used instead of the folder.

    Returns:
        The lines of the log, and the evaluation on the validation images, if any.

    Raises:
        BeitError: as `beit.train.loop.train`, and for settings or images that cannot be used.
    """
    framework = finetuning(settings.framework)
    run = open_run(settings, framework.processes(settings), framework.check)
    parts = parts_of(settings, images, validation, run.main)
    source, validation = parts.learn, parts.measure
    if validation is not None and run.main:
        warn_of_absent_classes(validation, source.classes)
    with run.going_on():
        start = open_start(settings, run.opened)
    if start.checkpoint is None and (settings.freeze or settings.lora):
        raise ConfigError(
            f"{'freeze' if settings.freeze else 'lora'} leaves layers as they are, and those of --model {settings.model} are random. "
            "Give a trained model."
        )
    task = Task.of(source, settings)
    decided = run.settings.decided(count_of(source)).with_task(task.kind != SINGLE)
    settings = run.settings = with_normalisation(decided, start)
    config = classifier_config(settings, start, source.classes, task.kind)
    if not start.resumed and run.main:
        check_class_folders(source)
        if task.kind != REGRESSION and "BeitForImageClassification" in (start.config.architectures or []):
            warn_of_other_classes(start.config, source.classes, settings.model or RECOMMENDED)
    processor = _processor(settings, start, config)

    if isinstance(source, FolderImages | TableImages | Stream):
        # A smaller image has no full patch, and counts as damaged.
        source.smallest_side = max(geometry.pair(config.patch_size))
    bad = BadImages(count_of(source))
    size = geometry.pair(config.image_size)
    source = hold_in_memory(source, bad, min(size))
    views = FinetuneViews(settings, size, settings.mean, settings.std)
    order = Order.of(source, settings, balanced=settings.balanced)
    loader = Loader(source, views, order, bad, settings.workers, run.rank, run.world, framework.pool)

    with run.going_on():
        model = framework.model(run, start, config, task)

    def save(trained: Any, folder: Path) -> None:
        framework.as_used(trained, task).save_pretrained(folder)
        processor.save_pretrained(folder)

    job = Job(
        engine=lambda: framework.engine(run, model, task),
        loader=loader,
        steps=settings.total_steps(loader.steps_per_epoch),
        save=save,
        prepare=lambda batch, step: mix(batch, step, run, task, config.num_labels),
        averaged=settings.result == "ema",
        begin=parts.save,
        pictures=of_views(settings.mean, settings.std),
        header=_header(run, parts, start, config, loader),
    )
    if validation is not None and run.main:
        held = hold_in_memory(validation, BadImages(len(validation)), min(size))
        measured = validation_of(processor, held, max(settings.batch_size // run.world, 1))
        measure_while_training(
            job, settings, lambda trained, step: measured(framework.as_used(trained, task), step), *METRICS[task.kind]
        )
    elif validation is not None or parts.elsewhere:  # takes part at the same steps, and measures nothing
        measure_while_training(job, settings, lambda *_: {}, *METRICS[task.kind])
    history = train(run, job)
    if not run.main:
        return history, None
    evaluation = None if validation is None else framework.evaluation(run, processor, validation)
    if evaluation is not None:
        evaluation.save(settings.output)
    report_on_run(settings.output, evaluation, history, "Fine-tuning")
    Card(
        settings=settings,
        data=str(parts),
        history=history,
        classes=source.classes,
        result=evaluation,
        remark=job.selection.remark() if job.selection is not None else "",
    ).save()
    return history, evaluation


def _header(run: Run[FinetuneSettings], parts: Parts, start: Start, config: BeitConfig, loader: Loader) -> str:
    """What the run is about, in two lines."""
    settings = run.settings
    count = sum(math.prod(shape) for shape in shapes_of(config, "BeitForImageClassification").values())
    origin = f"from {start.checkpoint.source}" if start.checkpoint is not None else "new"
    device = getattr(run.processes, "device", None)
    where = "" if device is None else f"; on {device}" + f", {run.world} processes" * (run.world > 1)
    steps = settings.total_steps(loader.steps_per_epoch)
    again = f", from step {run.first} on" if run.first else ""
    batch = min(settings.batch_size, count_of(parts.learn) or settings.batch_size)
    trained = ", of which the head alone is trained" if settings.freeze else ""
    if settings.lora:
        trained = f", trained by updates of rank {settings.lora} (LoRA)"
    return (
        f"{parts}\n{count / 1e6:.1f} million parameters, {origin}{trained}{where}; {steps:,} steps of {batch} images"
        f"{again}, highest learning rate {settings.learning_rate:.2g}"
    )


def mix(batch: Batch, step: int, run: Run[FinetuneSettings], task: Task, classes: int) -> Batch:
    """Images and labels → images and `targets (B, classes)`, mixed by mixup or cutmix where the settings say so."""
    settings = run.settings
    # A stream of its own (the 1): the seed and step of other draws must not give the same numbers.
    rng = np.random.default_rng((settings.seed, step, run.rank, 1))
    targets = task.targets(np.asarray(batch["labels"]), classes)
    pixels, targets = mixup(
        np.asarray(batch["pixel_values"]), targets, settings.mixup, settings.cutmix, rng, settings.mix_probability
    )
    return {"pixel_values": pixels, "targets": targets}


# --- the model -------------------------------------------------------------------------------------------------------


def classifier_config(settings: FinetuneSettings, start: Start, classes: list[str], kind: str = SINGLE) -> BeitConfig:
    """The config of the model to fine-tune: the start's, with a head for `classes` and the `problem_type` `kind`."""
    if start.resumed:
        return start.config
    changes: dict[str, Any] = {
        # A classifier has nothing to mask, and a parameter without a gradient would stop data-parallel training.
        "use_mask_token": False,
        "id2label": dict(enumerate(classes)),
        "drop_path_rate": settings.drop_path,
        **one_table_per_layer(start.config),
    }
    if kind != SINGLE or start.config.problem_type is not None:  # whatever the start was trained for
        changes["problem_type"] = kind
    if start.checkpoint is None:  # as in the paper; a checkpoint says itself which positions it has
        changes["use_relative_position_bias"] = True
    return start.config.replace(**changes)


def _processor(settings: FinetuneSettings, start: Start, config: BeitConfig) -> BeitImageProcessor:
    """The image processor that is saved with the model: the start's own, unless the settings name another image size."""
    if start.processor is not None and (start.resumed or settings.image_size is None):
        return start.processor
    return make_processor(config, settings.mean, settings.std)

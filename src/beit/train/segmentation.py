"""Semantic segmentation: UPerNet on a pre-trained model, or from scratch (BEiT, section 3.2; `beit segment train`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from beit.config import BeitConfig
from beit.core import geometry
from beit.core.errors import DataError, require
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.class_names import read_classes
from beit.data.sources.label_map_scan import check_maps, numbered_classes
from beit.data.sources.open_segmented import open_segmented
from beit.data.sources.segmented import SegmentedImages
from beit.data.transforms.segmentation import SegmentViews
from beit.evaluation.reports import report_on_run
from beit.train.card import Card
from beit.train.framework import segmenting
from beit.train.loop import Job, train
from beit.train.run import Run, from_last_good, open_run
from beit.train.settings import SegmentSettings
from beit.train.start import Start, one_table_per_layer, open_start, warn_of_other_classes, with_normalisation
from beit.train.validation import MIOU, map_validation_of, measure_while_training

if TYPE_CHECKING:
    from beit.evaluation.segmentation import SegmentationEvaluation


@from_last_good
def segment(
    settings: SegmentSettings, images: Any = None, validation: Any = None
) -> tuple[list[dict[str, float]], SegmentationEvaluation | None]:
    """Train segmentation and save it in `settings.output`.

    Args:
        settings: what to do.
        images: `Images` whose targets are label maps, with `classes`; used instead of the folders that the settings name.
        validation: the same, to measure on at the end.

    Returns:
        The lines of the log (`accuracy`: fraction of the labelled pixels that are right, at the size of the logits), and the
        evaluation on the validation images, if any.

    Raises:
        BeitError: as `beit.train.loop.train`, and for settings, images or label maps that cannot be used.
    """
    if validation is not None or settings.validation_images is not None:
        # The evaluation needs these. Better to fail now than after hours of training.
        require("torchmetrics", "train", "evaluation")
        require("matplotlib", "train", "the pictures of a report")
    framework = segmenting()
    run = open_run(settings, framework.processes(settings), framework.check)
    with run.going_on():
        start = open_start(settings, run.opened)
    settings = run.settings = with_normalisation(run.settings, start)
    source, validation, classes = _images_and_classes(run, start, images, validation)
    config = segmenter_config(settings, start, classes)
    processor = _processor(settings, start, config)
    if isinstance(source, SegmentedImages):
        source.smallest_side = max(geometry.pair(config.patch_size))

    size = geometry.pair(config.image_size)
    views = SegmentViews(
        size,
        settings.mean,
        settings.std,
        short_side=settings.short_side or min(size),
        scale=settings.scale,
        cat_max=settings.cat_max,
        flip=settings.flip,
        distortion=settings.distortion,
        ignore_index=settings.ignore_index,
    )
    order = Order(len(source), min(settings.batch_size, len(source)), settings.seed)
    bad = BadImages(len(source))
    loader = Loader(source, views, order, bad, settings.workers, run.rank, run.world, framework.pool)

    with run.going_on():
        model = framework.model(run, start, config)

    def save(trained: Any, folder: Path) -> None:
        trained.save_pretrained(folder)
        processor.save_pretrained(folder)

    job = Job(
        engine=lambda: framework.engine(run, model),
        loader=loader,
        steps=settings.total_steps(loader.steps_per_epoch),
        save=save,
        averaged=settings.result == "ema",
    )
    if validation is not None:
        measure_while_training(
            job, settings, map_validation_of(processor, validation, settings.short_side), metric=MIOU, tie=""
        )
    history = train(run, job)
    if not run.main:
        return history, None
    evaluation = None
    if validation is not None:
        evaluation = framework.evaluation(run, processor, validation)
        evaluation.save(settings.output)
    report_on_run(settings.output, evaluation, history, "Segmentation")
    remark = job.selection.remark() if job.selection is not None else ""
    data = f"{len(source):,} images with label maps"
    Card(settings=settings, data=data, history=history, classes=classes, result=evaluation, remark=remark).save()
    return history, evaluation


# --- images and their classes ----------------------------------------------------------------------------------------


def _images_and_classes(
    run: Run[SegmentSettings], start: Start, images: Any, validation: Any
) -> tuple[Any, Any, list[str]]:
    """(images to learn from, images to measure on or None, names of the classes); label maps in folders are checked."""
    settings = run.settings
    form = settings.label_form()
    if images is None:
        images = open_segmented(settings.images, settings.maps, settings.annotations, None, form, test=False)
    if validation is None and settings.validation_images is not None:
        beside = settings.validation_maps, settings.annotations_to_measure()
        validation = open_segmented(settings.validation_images, *beside, None, form, test=True)
    if len(images) < 2:
        raise DataError("There is only one image; batch norm needs at least two in a step.")
    named = _named_classes(settings, start, images)
    classes = numbered_classes(images) if named is None else named  # the former looks at all maps
    images, validation = _with_classes(images, classes), _with_classes(validation, classes)
    if not start.resumed and run.main:
        # Before the first step, so that a wrong number costs seconds and not hours. If classes are numbered, the maps to learn
        # from were looked at already, to find out how many classes there are.
        if named is not None and isinstance(images, SegmentedImages):
            check_maps(images)
        if isinstance(validation, SegmentedImages):
            check_maps(validation, refuse=False)
        if _segments(start.config):
            warn_of_other_classes(start.config, classes, settings.model)
    return images, validation, classes


def _named_classes(settings: SegmentSettings, start: Start, images: Any) -> list[str] | None:
    """Names of the classes: a resumed run's, the images' own, a file's or the model's; None where only the maps tell."""
    if not start.resumed:
        named = isinstance(images, SegmentedImages) and bool(images.names)  # by the labels, so that any order will do
        if settings.classes is not None and (named or not images.classes):
            return read_classes(settings.classes)
        if named and _segments(start.config) and sorted(images.names) == sorted(start.config.class_names):
            return start.config.class_names  # the order that the head has learned
        if images.classes:
            return list(images.classes)
        if not _segments(start.config):
            return None
    return start.config.class_names


def _with_classes(images: Any, classes: list[str]) -> Any:
    """The images with these classes. Raises DataError when they have others."""
    if isinstance(images, SegmentedImages):
        return images.with_classes(classes)
    if images is not None and list(images.classes) != classes:
        raise DataError(
            f"The images have {len(images.classes)} classes ({', '.join(images.classes[:3])}, …), the model has {len(classes)} "
            f"({', '.join(classes[:3])}, …). They must be the same."
        )
    return images


# --- the model -------------------------------------------------------------------------------------------------------


def _segments(config: BeitConfig) -> bool:
    return "BeitForSemanticSegmentation" in (config.architectures or [])


def segmenter_config(settings: SegmentSettings, start: Start, classes: list[str]) -> BeitConfig:
    """The config of the model to train: the start's, with heads for `classes`."""
    if start.resumed:
        return start.config
    changes: dict[str, Any] = {
        # Nothing is masked, and a parameter without a gradient would stop data-parallel training.
        "use_mask_token": False,
        "id2label": dict(enumerate(classes)),
        "drop_path_rate": settings.drop_path,
        "decode_dropout_prob": settings.head_dropout,
        "use_auxiliary_head": settings.auxiliary_weight > 0,
        "auxiliary_loss_weight": settings.auxiliary_weight,
        "auxiliary_channels": settings.auxiliary_channels,
        "semantic_loss_ignore_index": settings.ignore_index,
        **one_table_per_layer(start.config),
    }
    if start.checkpoint is None:
        changes["use_relative_position_bias"] = True
    elif not _segments(start.config):
        # The Hub's classifiers name layers for heads that they do not have; new heads see the layers that the authors chose.
        changes |= {"segmentation_layers": None, "out_indices": None, "out_features": None}
    return start.config.replace(**changes)


def _processor(settings: SegmentSettings, start: Start, config: BeitConfig) -> BeitImageProcessor:
    """The image processor that is saved with the model. It does not crop, because predictions cover the whole image."""
    if start.resumed and start.processor is not None:
        return start.processor
    height, width = geometry.pair(config.image_size)
    return BeitImageProcessor(
        size={"height": height, "width": width},
        resample=Image.Resampling.BILINEAR,
        do_center_crop=False,
        crop_size={"height": height, "width": width},
        image_mean=list(settings.mean),
        image_std=list(settings.std),
        do_reduce_labels=settings.reduce_labels,
        semantic_loss_ignore_index=settings.ignore_index,
    )

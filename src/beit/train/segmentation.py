"""Semantic segmentation: UPerNet on a pre-trained model, or from scratch (BEiT, section 3.2; `beit segment train`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from beit.config import PRESETS, BeitConfig
from beit.core import geometry
from beit.core.errors import ConfigError, DataError, require
from beit.data.label_maps import LabelRules
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.class_names import read_classes
from beit.data.sources.label_map_scan import check_maps, numbered_classes
from beit.data.sources.labelled_folders import LabelledFolders
from beit.data.sources.opening import open_segmented
from beit.data.transforms.segmentation import SegmentViews
from beit.data.workers.torch import in_torch_workers
from beit.evaluation.report_segmentation import write_report
from beit.evaluation.segmentation import SegmentationEvaluation, evaluate_segmentation
from beit.inference.sliding_window import SlidingWindow
from beit.models.torch.segmentation import BeitForSemanticSegmentation
from beit.train.loop import Job, train
from beit.train.pretrain import normalisation, size_changes
from beit.train.run import Run, open_run
from beit.train.settings import SegmentSettings
from beit.train.torch.distributed import Accelerated
from beit.train.torch.engine import Batch, Metrics, TorchEngine, check
from beit.train.torch.optim import adamw, parameter_groups


def segment(
    settings: SegmentSettings, images: Any = None, validation: Any = None
) -> tuple[list[dict[str, float]], SegmentationEvaluation | None]:
    """Train segmentation and save it in `settings.output`.

    Args:
        settings: what to do.
        images: `Images` whose targets are label maps, with `classes`; used instead of the folders that the settings name.
        validation: the same, to measure on at the end.

    Returns:
        The lines of the log (`accuracy`: part of the labelled pixels that are right, at the size of the logits), and the
        evaluation on the validation images, if any.

    Raises:
        BeitError: as `beit.train.loop.train`, and for settings, images or label maps that cannot be used.
    """
    torch.manual_seed(settings.seed)
    rules = LabelRules(settings.ignore_index, settings.reduce_labels)
    measures = validation is not None or settings.validation_images is not None
    if measures:  # before hours of training, not after
        require("torchmetrics", "train", "evaluation")
        require("matplotlib", "train", "the pictures of a report")
    processes = Accelerated()
    run = open_run(settings, processes, check)
    source = (
        images if images is not None else open_segmented(Path(settings.images), settings.maps, None, rules, test=False)
    )
    if validation is None and settings.validation_images is not None:
        validation = open_segmented(settings.validation_images, settings.validation_maps, None, rules, test=True)
    if len(source) < 2:
        raise DataError("There is only one image; batch norm needs at least two in a step.")
    named = _classes(settings, source, run)
    classes = named if named is not None else numbered_classes(source)
    source, validation = (_with_classes(part, classes) for part in (source, validation))
    if run.checkpoint is None and run.main:
        for part in (source, validation) if named is not None else (validation,):  # whose numbers are not known yet
            if isinstance(part, LabelledFolders):
                check_maps(part)
    model = segmenter(settings, classes, run.checkpoint)
    if run.world > 1 and processes.device.type == "cuda":
        # Statistics over all processes, as the authors' (torch has none for a CPU; there each process has its own).
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    config = model.config
    processor = _processor(settings, config, run.checkpoint)
    if isinstance(source, LabelledFolders):
        source.smallest_side = max(geometry.pair(config.patch_size))

    bad = BadImages(len(source))
    order = Order(len(source), min(settings.batch_size, len(source)), settings.seed)
    size = geometry.pair(config.image_size)
    views = SegmentViews(
        size,
        *normalisation(processor),
        short_side=settings.short_side or min(size),
        scale=settings.scale,
        cat_max=settings.cat_max,
        flip=settings.flip,
        distortion=settings.distortion,
        ignore_index=settings.ignore_index,
    )
    loader = Loader(source, views, order, bad, settings.workers, run.rank, run.world, in_torch_workers)

    def optimizer() -> torch.optim.Optimizer:
        groups = parameter_groups(model, settings.weight_decay, settings.layer_decay, config.num_hidden_layers)
        return adamw(groups, settings.beta2)

    def loss(module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        output = module(batch["pixel_values"], labels=batch["labels"])
        return output.loss, {"accuracy": pixel_accuracy(output.logits.detach(), batch["labels"], settings.ignore_index)}

    def save(module: Any, folder: Path) -> None:
        module.save_pretrained(folder)
        processor.save_pretrained(folder)

    job = Job(
        lambda run: TorchEngine(run, model, optimizer, loss),
        loader,
        settings.total_steps(loader.steps_per_epoch),
        save,
    )
    history = train(run, job)
    result = None
    if validation is not None and run.main:
        window = SlidingWindow(short_side=settings.short_side)
        saved = BeitForSemanticSegmentation.from_pretrained(settings.output)  # what was saved, whole
        result = evaluate_segmentation(saved, processor, validation, window, processes.device)
        result.save(settings.output)
        write_report(settings.output, result)
    return history, result


def pixel_accuracy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Part of the labelled pixels that are right, at the size of the logits; 0 without labels.

    Args:
        logits: `(B, classes, h, w)`.
        labels: `(B, H, W)` int64.
        ignore_index: no label.
    """
    small = F.interpolate(labels[:, None].float(), size=logits.shape[2:], mode="nearest-exact")[:, 0].long()
    counted = small != ignore_index
    return ((logits.argmax(1) == small) & counted).sum() / counted.sum().clamp(min=1)


def _classes(settings: SegmentSettings, source: Any, run: Run) -> list[str] | None:
    """Names of the classes: a checkpoint's, of the images themselves, of a file, of the model; None where only maps tell."""
    if run.checkpoint is not None:
        return _names(BeitConfig.from_pretrained(run.checkpoint))
    if source.classes:
        return list(source.classes)
    if settings.classes is not None:
        return read_classes(settings.classes)
    if settings.model not in PRESETS:
        config = BeitConfig.from_pretrained(settings.model)
        if _segments(config):
            return _names(config)
    return None


def _with_classes(source: Any, classes: list[str]) -> Any:
    if isinstance(source, LabelledFolders):
        return source.with_classes(classes)
    if source is not None and list(source.classes) != classes:
        raise DataError(
            f"The images have {len(source.classes)} classes ({', '.join(source.classes[:3])}, …), the model has {len(classes)} "
            f"({', '.join(classes[:3])}, …). They must be the same."
        )
    return source


def _segments(config: BeitConfig) -> bool:
    return "BeitForSemanticSegmentation" in (config.architectures or [])


def _names(config: BeitConfig) -> list[str]:
    return [config.id2label[number] for number in range(config.num_labels)]


def segmenter(settings: SegmentSettings, classes: list[str], checkpoint: Path | None) -> BeitForSemanticSegmentation:
    """The model to train: loaded, with new heads where it has none for `classes`; or new, when the settings name a size."""
    if checkpoint is not None:
        model = BeitForSemanticSegmentation.from_pretrained(checkpoint)
    elif settings.model in PRESETS:
        sizes = size_changes(settings.image_size, settings.patch_size)
        changes = {"use_relative_position_bias": True, **sizes, **_changes(settings, classes)}
        model = BeitForSemanticSegmentation(BeitConfig.preset(settings.model, **changes))
    else:
        if settings.patch_size is not None:
            raise ConfigError(f"patch_size is for training from scratch; {settings.model} has its own. Leave it out.")
        changes = {**_changes(settings, classes), **size_changes(settings.image_size, None)}  # positions are resized
        config = BeitConfig.from_pretrained(settings.model)
        if (
            config.use_shared_relative_position_bias
        ):  # pre-training shares one table; fine-tuning gives each layer a copy
            changes |= {"use_shared_relative_position_bias": False, "use_relative_position_bias": True}
        if not _segments(config):  # the Hub's models name layers for heads that they lack; new heads see the authors'
            changes |= {"segmentation_layers": None, "out_indices": None, "out_features": None}
        model = BeitForSemanticSegmentation.from_pretrained(settings.model, ignore_mismatched_sizes=True, **changes)
    model.beit.layernorm.requires_grad_(False)  # the heads see the layers' outputs, before this norm
    return model


def _changes(settings: SegmentSettings, classes: list[str]) -> dict[str, Any]:
    """Overrides of a config."""
    return {
        # Nothing is masked; a parameter without a gradient would stop data-parallel training.
        "use_mask_token": False,
        "id2label": dict(enumerate(classes)),
        "drop_path_rate": settings.drop_path,
        "decode_dropout_prob": settings.head_dropout,
        "use_auxiliary_head": settings.auxiliary_weight > 0,
        "auxiliary_loss_weight": settings.auxiliary_weight,
        "auxiliary_channels": settings.auxiliary_channels,
        "semantic_loss_ignore_index": settings.ignore_index,
    }


def _processor(settings: SegmentSettings, config: BeitConfig, checkpoint: Path | None) -> BeitImageProcessor:
    """Resizes to the model's size, without a crop: predictions cover the whole image."""
    if checkpoint is not None:
        return BeitImageProcessor.from_pretrained(checkpoint)
    mean, std = settings.mean, settings.std
    stored = None if settings.model in PRESETS else BeitImageProcessor.stored_in(settings.model)
    if stored is not None:
        mean, std = normalisation(stored)
    height, width = geometry.pair(config.image_size)
    return BeitImageProcessor(
        size={"height": height, "width": width},
        resample=Image.Resampling.BILINEAR,
        do_center_crop=False,
        crop_size={"height": height, "width": width},
        image_mean=list(mean),
        image_std=list(std),
        do_reduce_labels=settings.reduce_labels,
        semantic_loss_ignore_index=settings.ignore_index,
    )

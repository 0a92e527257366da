"""What a run begins from, opened once and passed on: a checkpoint, its config and its image processor.

settings, and the run's own checkpoint on a resume → `open_start` → `Start` → config, processor and model of the run

Which checkpoint a resumed run continues from is decided in `run.py`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from beit.checkpoints import Checkpoint, catalogue, missing
from beit.config import PRESETS, BeitConfig
from beit.core import geometry
from beit.core.errors import CheckpointError, ConfigError
from beit.data.processor import BeitImageProcessor
from beit.train.settings import FinetuneSettings, PaperRate, PretrainSettings, RunSettings, SegmentSettings

logger = logging.getLogger("beit")
Triple = tuple[float, float, float]
_NARROW = 512  # models below this width learn with a higher rate
_NO_MODEL = """{error}

No --model was given, and the recommended checkpoint, {model}, cannot be had here. Choose one of
  --model FOLDER or FILE    a checkpoint that you have (beit models lists the published ones and where they are)
  --model small             a small network from scratch: for thousands of images, not for hundreds
  --model PRETRAIN_FOLDER   your own, from images without labels: beit pretrain --images FOLDER --output PRETRAIN_FOLDER"""
ImageSettingsT = TypeVar("ImageSettingsT", PretrainSettings, FinetuneSettings, SegmentSettings)


class ModelSettings(Protocol):
    """The settings that name a model."""

    @property
    def model(self) -> str | None: ...

    @property
    def image_size(self) -> int | None: ...

    @property
    def patch_size(self) -> int | None: ...


@dataclass(frozen=True)
class Start:
    """What a run begins from.

    Attributes:
        checkpoint: where the weights come from; None for new ones. A model that is loaded from it reads no file again.
        config: the checkpoint's own, or that of a preset, with the sizes that the settings name.
        processor: the image processor stored with the checkpoint; None where there is none.
        resumed: whether the checkpoint is this run's own. Then its config, processor and weights are taken as they are.
    """

    checkpoint: Checkpoint | None
    config: BeitConfig
    processor: BeitImageProcessor | None
    resumed: bool = False


def open_start(settings: ModelSettings, resumed: Checkpoint | None = None) -> Start:
    """Open what a run begins from.

    Args:
        settings: name a preset, or a checkpoint, and sizes that override its own.
        resumed: the checkpoint of this run to continue from; the model in the settings is then ignored.

    Raises:
        ConfigError: a patch size for a checkpoint, whose patches are fixed; or sizes that do not fit.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    if resumed is not None:
        config, processor = BeitConfig.from_pretrained(resumed), BeitImageProcessor.from_pretrained(resumed)
        return Start(resumed, config, processor, resumed=True)
    sizes = {"image_size": settings.image_size, "patch_size": settings.patch_size}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    model = settings.model or catalogue.RECOMMENDED
    if model in PRESETS:
        return Start(None, BeitConfig.preset(model, **sizes), None)
    if settings.patch_size is not None:
        raise ConfigError(f"patch_size is for training from scratch; {model} has patches of its own. Leave it out.")
    missing.check_word(model, PRESETS)
    # The sizes are given to the checkpoint too: a file without a config.json may not show which grid its positions are of.
    try:
        checkpoint = Checkpoint(model, given=sizes)
    except CheckpointError as error:
        if settings.model is not None:
            raise
        raise CheckpointError(_NO_MODEL.format(model=model, error=error)) from error
    return Start(checkpoint, BeitConfig.from_pretrained(checkpoint), BeitImageProcessor.stored_in(checkpoint))


def one_table_per_layer(config: BeitConfig) -> dict[str, bool]:
    """Changes of a config from pre-training to fine-tuning.

    In pre-training all layers share one relative-position table; in fine-tuning each layer has its own, which starts as a
    copy of the shared one.
    """
    if not config.use_shared_relative_position_bias:
        return {}
    return {"use_shared_relative_position_bias": False, "use_relative_position_bias": True}


def warn_of_other_classes(config: BeitConfig, classes: Sequence[str], model: str) -> None:
    """Log that a trained head, which is kept because it has as many classes, was trained for classes of other names.

    Args:
        config: of the checkpoint that the run begins from; it has a trained head.
        classes: of the run.
        model: what to call the checkpoint.
    """
    before = config.class_names
    unnamed = all(name in (f"LABEL_{number}", str(number)) for number, name in enumerate(before))
    if unnamed or len(before) != len(classes) or before == list(classes):
        return
    number = next(number for number in range(len(classes)) if before[number] != classes[number])
    logger.warning(
        "%s was trained for other classes: its class %d is %s, here it is %s. Its head is kept, since it has as many classes, and "
        "learns the new ones. If they are meant to be the same, bring names and order into agreement.",
        model,
        number,
        before[number],
        classes[number],
    )


# --- settings that the start decides --------------------------------------------------------------------------------


def fill_paper_rate(settings: RunSettings) -> None:
    """Set the learning rate for narrow models where none was given and `model` is the folder of one.

    Settings open no file when they are made, so until now such a folder has counted as a model of the paper's sizes.
    """
    if isinstance(settings.learning_rate, PaperRate) and _is_narrow(getattr(settings, "model", None)):
        settings.learning_rate = settings.paper_learning_rate(narrow=True)


def _is_narrow(model: str | None) -> bool:
    """Whether this is a local folder with a narrow model."""
    try:
        values = json.loads((Path(model or "") / "config.json").read_text(encoding="utf-8"))
        return int(values["hidden_size"]) < _NARROW
    except (OSError, ValueError, KeyError, TypeError):
        return False  # an id on the Hub, or no model folder; opening it will say so


def with_normalisation(settings: ImageSettingsT, start: Start) -> ImageSettingsT:
    """The settings with the mean and the standard deviation that the run uses.

    A model continues with pixels normalised as before: if an image processor is stored with it, the settings' values are ignored.
    """
    if start.processor is None:
        if start.checkpoint is not None:
            logger.warning(
                "%s has no preprocessor_config.json. Its pixels are normalised with mean %s and std %s, as --mean and --std say.",
                start.checkpoint.source,
                settings.mean,
                settings.std,
            )
        return settings
    mean, std = normalisation(start.processor)
    return replace(settings, mean=mean, std=std)


# --- images as the model takes them ----------------------------------------------------------------------------------


def normalisation(processor: BeitImageProcessor) -> tuple[Triple, Triple]:
    """(mean, standard deviation) of the three channels."""

    def triple(value: Any) -> Triple:
        red, green, blue = np.broadcast_to(value, 3).tolist()
        return red, green, blue

    return triple(processor.image_mean), triple(processor.image_std)


def make_processor(config: BeitConfig, mean: tuple[float, ...], std: tuple[float, ...]) -> BeitImageProcessor:
    """The image processor for evaluation and use: resizes, and crops the centre unless images are small or large.

    The crop keeps 224/256 of each side, as in the authors' evaluation. From 384 pixels up, and below 64, nothing is cropped.
    """
    height, width = geometry.pair(config.image_size)
    cropped = 64 <= min(height, width) < 384
    ratio = 256 / 224 if cropped else 1.0
    return BeitImageProcessor(
        size={"height": round(height * ratio), "width": round(width * ratio)},
        do_center_crop=cropped,
        crop_size={"height": height, "width": width},
        image_mean=list(mean),
        image_std=list(std),
    )


def smallest_view(config: BeitConfig, token_size: tuple[int, int] | None) -> int:
    """Shortest side in pixels of what the model, and the tokenizer, see of an image."""
    return min(*(token_size or ()), *geometry.pair(config.image_size))

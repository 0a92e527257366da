"""Pre-training: predict the visual tokens of masked patches (BEiT, section 2.3; `beit pretrain`).

The outline, for any framework. Its parts are functions of `torch_pretrain` and `flax_pretrain`:

    processes(settings)              → `processes.Processes` that share the batches
    pool                             the `Pool` of the loader
    check(folder)                    raises CheckpointError when the engine's files in a checkpoint cannot be read
    make_target(settings, config)    → a `targets.Pixels` or `targets.Tokens` with the framework's loss
    model(run, config, origin)       → a model of `config` with `save_pretrained`: its weights from the folder or id `origin`
                                     (all of them where `run.checkpoint` is not None, else new where shapes differ), or
                                     new ones from `run.settings.seed` where `origin` is None
    engine(run, model, target)       → an `engine.Engine` of batches `pixel_values`, `mask`, `token_pixels` or `tokens`
    probe(run, processor, images)    → (model, step) → what its features are worth
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from beit.config import PRESETS, BeitConfig
from beit.core import geometry
from beit.core.errors import ConfigError
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.processor import BeitImageProcessor
from beit.data.sources import open_images
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import FolderImages, Images
from beit.data.sources.in_memory import hold_in_memory
from beit.data.sources.stream import Stream, count_of
from beit.data.transforms.pretrain import PretrainViews
from beit.train.loop import Job, train
from beit.train.run import open_run
from beit.train.settings import PretrainSettings


def pretrain(settings: PretrainSettings, images: Images | Stream | None = None) -> list[dict[str, float]]:
    """Pre-train a model and save it in `settings.output`.

    Args:
        settings: what to do.
        images: used instead of those that the settings name.

    Returns:
        The lines of the log. With tokens as target: loss, `masked_accuracy` (part of the masked patches whose token is
        guessed), `commonest_token` (the accuracy of always guessing the commonest token, the bar to beat),
        `token_entropy` and `prediction_entropy` in nats (of the tokens to guess and of the guesses) and `codes_used` (part
        of the codebook). With pixels: loss and `explained` (part of the variance within patches that is predicted). With
        a labelled folder to probe, at every `probe_every` steps also the k-NN and linear accuracy of each layer.

    Raises:
        BeitError: as `beit.train.loop.train`, and for settings or images that cannot be used.
    """
    framework = importlib.import_module(f"beit.train.{settings.framework}.pretrain")
    run = open_run(settings, framework.processes(settings), framework.check)
    origin = origin_of(settings.model, run.checkpoint)
    target = framework.make_target(settings, _patches(settings, run.checkpoint))
    config = _config(settings, target.width, run.checkpoint)
    stored = None if origin is None else BeitImageProcessor.stored_in(origin)
    if stored is not None:  # go on with the pixels that the model knows
        mean, std = normalisation(stored)
        settings = replace(settings, mean=mean, std=std)
    processor = make_processor(config, settings.mean, settings.std)

    token_size = target.view_size(config.grid)
    source = images if images is not None else _open(settings, config)
    probe_images = None if settings.probe is None else FolderImages(settings.probe, labelled=True)
    target.check(settings, source)
    bad = BadImages(count_of(source))
    # With a cache, images are held as it held them.
    shown = token_size if target.cache is None else target.cache.view_size
    source = hold_in_memory(source, bad, smallest_view(config, shown))
    views = PretrainViews(settings, config, token_size, target.cache)
    loader = Loader(
        source, views, Order.of(source, settings), bad, settings.workers, run.rank, run.world, framework.pool
    )

    model = framework.model(run, config, origin)

    def save(trained: Any, folder: Path) -> None:
        trained.save_pretrained(folder)
        processor.save_pretrained(folder)

    job = Job(
        lambda run: framework.engine(run, model, target),
        loader,
        settings.total_steps(loader.steps_per_epoch),
        save,
        extra=lambda: target.line(run.processes),
        probe=None if probe_images is None else framework.probe(run, processor, probe_images),
        probe_every=settings.probe_every,
    )
    return train(run, job)


def _open(settings: PretrainSettings, config: BeitConfig) -> Images | Stream:
    smallest = max(geometry.pair(config.patch_size))
    return open_images(settings.images, smallest_side=smallest, shuffle_buffer=settings.shuffle_buffer)


def _patches(settings: PretrainSettings, checkpoint: Path | None) -> BeitConfig:
    """A config with the model's patches."""
    if checkpoint is not None:
        return BeitConfig.from_pretrained(checkpoint)
    return start_config(settings.model, settings.image_size, settings.patch_size)


def _config(settings: PretrainSettings, vocab_size: int, checkpoint: Path | None) -> BeitConfig:
    """The config of the model to train."""
    if checkpoint is not None:
        return BeitConfig.from_pretrained(checkpoint)
    changes: dict[str, Any] = {"use_mask_token": True, "vocab_size": vocab_size}
    changes.update(size_changes(settings.image_size, settings.patch_size))
    if settings.drop_path is not None:
        changes["drop_path_rate"] = settings.drop_path
    if settings.layer_scale is not None:
        changes["layer_scale_init_value"] = settings.layer_scale
    if settings.model in PRESETS:
        changes = {"use_shared_relative_position_bias": True, "mask_keeps_position": True, **changes}
        return BeitConfig.preset(settings.model, **changes)
    return BeitConfig.from_pretrained(settings.model, **changes)


def origin_of(model: str, checkpoint: Path | None) -> str | Path | None:
    """Folder or id whose weights a run begins with; None for new ones, where `model` is a size."""
    return checkpoint or (None if model in PRESETS else model)


def start_config(model: str, image_size: int | None, patch_size: int | None) -> BeitConfig:
    """The config of a size in `PRESETS`, with these sizes; or of a checkpoint, whose patches stay as they are.

    Raises:
        ConfigError: a checkpoint, and a size of patches.
        CheckpointError: no such checkpoint.
    """
    changes = size_changes(image_size, patch_size)
    if model in PRESETS:
        return BeitConfig.preset(model, **changes)
    if patch_size is not None:
        raise ConfigError(f"{model} has patches of its own: patch_size is for models from scratch. Leave it out.")
    return BeitConfig.from_pretrained(model, **changes)


def size_changes(image_size: int | None, patch_size: int | None) -> dict[str, int]:
    """Overrides of a config."""
    sizes = {"image_size": image_size, "patch_size": patch_size}
    return {name: value for name, value in sizes.items() if value is not None}


def smallest_view(config: BeitConfig, token_size: tuple[int, int] | None) -> int:
    """Shortest side in pixels of what is shown of an image."""
    return min(*(token_size or ()), *geometry.pair(config.image_size))


def normalisation(processor: BeitImageProcessor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(mean, std) of the three channels."""

    def triple(value: Any) -> tuple[float, float, float]:
        red, green, blue = np.broadcast_to(value, 3).tolist()
        return red, green, blue

    return triple(processor.image_mean), triple(processor.image_std)


def make_processor(config: BeitConfig, mean: tuple[float, ...], std: tuple[float, ...]) -> BeitImageProcessor:
    """What evaluation and use do to images: resize and centre crop; small images are resized only.

    The crop keeps 224/256 of each side, as in the authors' evaluation; from 384 pixels up, and below 64, all of it.
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

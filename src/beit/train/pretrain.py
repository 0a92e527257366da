"""Pre-training: predict the visual tokens of masked patches (BEiT, section 2.3; `beit pretrain`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from beit import geometry
from beit.config import PRESETS, BeitConfig
from beit.data.draw import Draw
from beit.data.images import BadImages, FolderImages, Images, count_of, hold_in_memory
from beit.data.loader import Batch, Loader, Order
from beit.data.sources import open_images
from beit.data.streams import Stream
from beit.data.token_cache import TokenCache
from beit.data.views import (
    Box,
    batch_jitter,
    batch_view,
    crop_box,
    jitter_colours,
    jitter_factors,
    normalise,
    view,
)
from beit.errors import ConfigError, require
from beit.hub import has_file
from beit.masking import BlockMask, RandomMask
from beit.models.pytorch_beit import BeitForMaskedImageModeling
from beit.processing import FILE_NAME as PROCESSOR_FILE
from beit.processing import BeitImageProcessor
from beit.train.loop import Job, train
from beit.train.optim import adamw, parameter_groups
from beit.train.run import open_run
from beit.train.settings import PretrainSettings
from beit.train.targets import make_target


@dataclass(frozen=True)
class Crops:
    """Colour jitter → flip → one box: what both views of an image share, in the order of the authors' transform.

    Attributes:
        scale: part of the area that a box keeps.
        jitter: amount of colour jitter; 0 for none.
        flip: probability of a horizontal flip.
    """

    scale: tuple[float, float]
    jitter: float
    flip: float

    def one(self, image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Box, bool]:
        """(image with other colours, box, whether to flip)."""
        if self.jitter:
            image = jitter_colours(image, self.jitter, rng)
        box = crop_box(rng, image.size, self.scale, (3 / 4, 4 / 3))
        return image, box, bool(rng.random() < self.flip)

    def batch(self, images: Tensor, rngs: list[np.random.Generator]) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """The same for a batch of small images `(B, 3, H, W)`: images, boxes `(B, 4)`, flips `(B,)`."""
        if self.jitter:
            images = batch_jitter(images, np.stack([jitter_factors(self.jitter, rng) for rng in rngs]))
        size = (images.shape[3], images.shape[2])
        boxes = np.array([crop_box(rng, size, self.scale, (3 / 4, 4 / 3)) for rng in rngs])
        return images, boxes, np.array([rng.random() for rng in rngs]) < self.flip


class PretrainViews:
    """Two views of one crop, and a mask.

    The patch view is resized bicubically and normalised; the tokenizer's view is resized with Lanczos to one token a
    patch and stays in [0, 1], since each tokenizer owns its preprocessing (microsoft/unilm, beit/datasets.py). With a cache
    its tokens take the place of the second view. The mask has a Generator of its own: with `settings.crops` crops come
    again, and then their tokens do, but masks never.

    Args:
        settings: crops, colours, masks.
        config: of the model: sizes.
        token_size: height and width in pixels of the tokenizer's view; None for no such view.
        cache: where tokens are read, or None.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        config: BeitConfig,
        token_size: tuple[int, int] | None,
        cache: TokenCache | None = None,
    ) -> None:
        self.settings, self.cache, self.token_size = settings, cache, token_size
        self.size = geometry.pair(config.image_size)
        self.crops = Crops(settings.crop_scale, settings.jitter, settings.flip)
        self.mask = make_mask(settings, config)

    def one(self, image: Image.Image, target: int, draw: Draw) -> Batch:
        """`pixel_values (3, H, W)`, `mask (N,)`, and `token_pixels (3, h, w)` or `tokens (N,)`."""
        crop = self._crop(draw)
        image, box, flip = self.crops.one(image, crop.rng())
        patches = view(image, box, self.size, Image.Resampling.BICUBIC, flip)
        batch = {
            "pixel_values": normalise(patches, self.settings.mean, self.settings.std),
            "mask": torch.from_numpy(self.mask(draw.rng(1)).reshape(-1)),
        }
        if self.cache is not None:
            batch["tokens"] = torch.from_numpy(self.cache.tokens(draw.key, crop.visit))
        elif self.token_size is not None:
            batch["token_pixels"] = view(image, box, self.token_size, Image.Resampling.LANCZOS, flip)
        return batch

    def batch(self, images: Tensor, labels: Tensor, draws: list[Draw]) -> Batch:
        """The same for a batch of small images."""
        crops = [self._crop(draw) for draw in draws]
        images, boxes, flips = self.crops.batch(images, [crop.rng() for crop in crops])
        patches = batch_view(images, boxes, flips, self.size)
        batch = {
            "pixel_values": normalise(patches, self.settings.mean, self.settings.std),
            "mask": torch.from_numpy(np.stack([self.mask(draw.rng(1)).reshape(-1) for draw in draws])),
        }
        if self.cache is not None:
            tokens = [self.cache.tokens(crop.key, crop.visit) for crop in crops]
            batch["tokens"] = torch.from_numpy(np.stack(tokens))
        elif self.token_size is not None:
            same = self.token_size == self.size
            batch["token_pixels"] = patches if same else batch_view(images, boxes, flips, self.token_size)
        return batch

    def _crop(self, draw: Draw) -> Draw:
        """What jitter, box and flip follow from: the pass's own draw, or that of the crop whose turn it is."""
        if self.cache is not None:
            return replace(draw, seed=self.cache.seed, visit=draw.visit % self.cache.crops)
        return draw if self.settings.crops is None else replace(draw, visit=draw.visit % self.settings.crops)


def make_mask(settings: PretrainSettings, config: BeitConfig) -> BlockMask | RandomMask:
    """Draws the masks that the settings name."""
    budget, smallest = mask_sizes(settings, config)
    return BlockMask(config.grid, budget, smallest) if settings.mask == "block" else RandomMask(config.grid, budget)


def mask_sizes(settings: PretrainSettings, config: BeitConfig) -> tuple[int, int]:
    """(budget, smallest block) in patches; the paper's 75 and 16 of 196 in proportion."""
    budget = max(round(settings.mask_ratio * config.num_patches), 1)
    smallest = settings.min_block if settings.min_block is not None else max(round(16 / 196 * config.num_patches), 1)
    return budget, smallest


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
    torch.manual_seed(settings.seed)
    if settings.jitter:
        require("torchvision", "train", "colour jitter")
    run = open_run(settings)
    start = (
        start_config(settings.model, settings.image_size, settings.patch_size)
        if run.checkpoint is None
        else BeitConfig.from_pretrained(run.checkpoint)
    )
    target = make_target(settings, start)
    model = _model(settings, target.width, run.checkpoint)
    config = model.config
    origin = run.checkpoint or (None if settings.model in PRESETS else settings.model)
    if origin is not None and has_file(origin, PROCESSOR_FILE):  # go on with the pixels that the model knows
        mean, std = normalisation(BeitImageProcessor.from_pretrained(origin))
        settings = replace(settings, mean=mean, std=std)
    token_size = target.view_size(config.grid)
    source = images if images is not None else _open(settings, config)
    probe_images = None if settings.probe is None else FolderImages(settings.probe, labelled=True)
    target.check(settings, source)
    bad = BadImages(count_of(source))
    shown = (
        token_size if target.cache is None else target.cache.view_size
    )  # with a cache images are held as it held them
    source = hold_in_memory(source, bad, smallest_view(config, shown))
    views = PretrainViews(settings, config, token_size, target.cache)
    loader = Loader(source, views, Order.of(source, settings), bad, settings.workers, run.rank, run.world)
    target.to(run.accelerator.device)
    processor = make_processor(config, settings.mean, settings.std)

    def optimizer() -> torch.optim.Optimizer:
        return adamw(parameter_groups(model, settings.weight_decay), settings.beta2)

    def save(module: Any, folder: Path) -> None:
        module.save_pretrained(folder)
        processor.save_pretrained(folder)

    def probe(module: Any, step: int) -> dict[str, float]:
        assert probe_images is not None
        from beit.probe import live_probe

        return live_probe(module, processor, probe_images, settings.seed, device=run.accelerator.device)

    job = Job(
        model,
        optimizer,
        loader,
        settings.total_steps(loader.steps_per_epoch),
        target.loss,
        save,
        extra=lambda: target.line(run),
        weight=lambda batch: batch["mask"].sum().float(),  # the loss is a mean over masked patches
        probe=probe if probe_images is not None else None,
        probe_every=settings.probe_every,
    )
    return train(run, job)


def _open(settings: PretrainSettings, config: BeitConfig) -> Images | Stream:
    smallest = max(geometry.pair(config.patch_size))
    return open_images(settings.images, smallest_side=smallest, shuffle_buffer=settings.shuffle_buffer)


def _model(settings: PretrainSettings, vocab_size: int, checkpoint: Path | None) -> BeitForMaskedImageModeling:
    if checkpoint is not None:
        return BeitForMaskedImageModeling.from_pretrained(checkpoint)
    changes: dict[str, Any] = {"use_mask_token": True, "vocab_size": vocab_size}
    changes.update(size_changes(settings.image_size, settings.patch_size))
    if settings.drop_path is not None:
        changes["drop_path_rate"] = settings.drop_path
    if settings.layer_scale is not None:
        changes["layer_scale_init_value"] = settings.layer_scale
    if settings.model in PRESETS:
        changes = {"use_shared_relative_position_bias": True, "mask_keeps_position": True, **changes}
        return BeitForMaskedImageModeling(BeitConfig.preset(settings.model, **changes))
    return BeitForMaskedImageModeling.from_pretrained(settings.model, ignore_mismatched_sizes=True, **changes)


def start_config(model: str, image_size: int | None, patch_size: int | None) -> BeitConfig:
    """The config of a size in `PRESETS`, with these sizes; or of a model folder, which has sizes of its own.

    Raises:
        ConfigError: a folder, and a size.
        CheckpointError: no such folder.
    """
    changes = size_changes(image_size, patch_size)
    if model in PRESETS:
        return BeitConfig.preset(model, **changes)
    if changes:
        raise ConfigError(
            f"{model} has a size of its own: image_size and patch_size are for models from scratch. Leave them out."
        )
    return BeitConfig.from_pretrained(model)


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

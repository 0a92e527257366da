"""Pre-training: predict the visual tokens of masked patches (BEiT, section 2.3; `beit pretrain`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from beit import geometry
from beit.config import PRESETS, BeitConfig
from beit.data.images import BadImages, FolderImages, Images, hold_in_memory
from beit.data.loader import Batch, Loader, Order
from beit.data.views import batch_jitter, batch_view, crop_box, jitter_colours, normalise, view
from beit.errors import ConfigError, require
from beit.hub import has_file
from beit.masking import BlockMask, RandomMask
from beit.models.pytorch_beit import BeitForMaskedImageModeling
from beit.processing import FILE_NAME as PROCESSOR_FILE
from beit.processing import BeitImageProcessor
from beit.tokenizers import load_tokenizer
from beit.train.loop import Job, Metrics, open_run, total_steps, train
from beit.train.optim import adamw, parameter_groups
from beit.train.settings import PretrainSettings


class PretrainViews:
    """Two views of one crop, and a mask: colour jitter → flip → one box, resized twice.

    The patch view is resized bicubically and normalised; the tokenizer's view is resized with Lanczos to one token a
    patch and stays in [0, 1], since each tokenizer owns its preprocessing (microsoft/unilm, beit/datasets.py).
    """

    def __init__(self, settings: PretrainSettings, config: BeitConfig, token_size: tuple[int, int]) -> None:
        self.settings = settings
        self.size = geometry.pair(config.image_size)
        self.token_size = token_size
        budget, smallest = mask_sizes(settings, config)
        self.mask: Callable[[np.random.Generator], np.ndarray] = (
            BlockMask(config.grid, budget, smallest) if settings.mask == "block" else RandomMask(config.grid, budget)
        )

    def one(self, image: Image.Image, label: int, rng: np.random.Generator) -> Batch:
        """`pixel_values (3, H, W)`, `token_pixels (3, h, w)`, `mask (N,)`."""
        settings = self.settings
        if settings.jitter:
            image = jitter_colours(image, settings.jitter, rng)
        box = crop_box(rng, image.size, settings.crop_scale, (3 / 4, 4 / 3))
        flip = bool(rng.random() < settings.flip)
        patches = view(image, box, self.size, Image.Resampling.BICUBIC, flip)
        return {
            "pixel_values": normalise(patches, settings.mean, settings.std),
            "token_pixels": view(image, box, self.token_size, Image.Resampling.LANCZOS, flip),
            "mask": torch.from_numpy(self.mask(rng).reshape(-1)),
        }

    def batch(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Batch:
        """The same for a batch of small images."""
        settings, count = self.settings, len(images)
        if settings.jitter:
            images = batch_jitter(images, settings.jitter, rng)
        size = (images.shape[3], images.shape[2])
        boxes = np.array([crop_box(rng, size, settings.crop_scale, (3 / 4, 4 / 3)) for _ in range(count)])
        flips = rng.random(count) < settings.flip
        patches = batch_view(images, boxes, flips, self.size)
        tokens = patches if self.token_size == self.size else batch_view(images, boxes, flips, self.token_size)
        masks = np.stack([self.mask(rng).reshape(-1) for _ in range(count)])
        return {
            "pixel_values": normalise(patches, settings.mean, settings.std),
            "token_pixels": tokens,
            "mask": torch.from_numpy(masks),
        }


def mask_sizes(settings: PretrainSettings, config: BeitConfig) -> tuple[int, int]:
    """(budget, smallest block) in patches; the paper's 75 and 16 of 196 in proportion."""
    budget = max(round(settings.mask_ratio * config.num_patches), 1)
    smallest = settings.min_block if settings.min_block is not None else max(round(16 / 196 * config.num_patches), 1)
    return budget, smallest


def pretrain(settings: PretrainSettings, images: Images | None = None) -> list[dict[str, float]]:
    """Pre-train a model and save it in `settings.output`.

    Args:
        settings: what to do.
        images: used instead of the folder that the settings name.

    Returns:
        The lines of the log: loss, `masked_accuracy` (part of the masked patches whose token is guessed), and
        `commonest_token` (the accuracy of always guessing the commonest token, the bar to beat).

    Raises:
        BeitError: as `beit.train.loop.train`, and for settings or images that cannot be used.
    """
    torch.manual_seed(settings.seed)
    if settings.jitter:
        require("torchvision", "train", "colour jitter")
    run = open_run(settings)
    tokenizer = load_tokenizer(settings.tokenizer)
    model = _model(settings, tokenizer.vocab_size, run.checkpoint)
    config = model.config
    origin = run.checkpoint or (None if settings.model in PRESETS else settings.model)
    if origin is not None and has_file(origin, PROCESSOR_FILE):  # go on with the pixels that the model knows
        mean, std = normalisation(BeitImageProcessor.from_pretrained(origin))
        settings = replace(settings, mean=mean, std=std)
    token_size = token_view_size(tokenizer, config.grid)

    source = (
        images
        if images is not None
        else FolderImages(settings.images, smallest_side=max(geometry.pair(config.patch_size)))
    )
    bad = BadImages(len(source))
    source = hold_in_memory(source, bad, min(*token_size, *geometry.pair(config.image_size)))
    order = Order(len(source), min(settings.batch_size, len(source)), settings.seed)
    views = PretrainViews(settings, config, token_size)
    loader = Loader(source, views, order, bad, settings.workers, run.rank, run.world)
    optimizer = adamw(parameter_groups(model, settings.weight_decay), settings.beta2)
    tokenizer.to(run.accelerator.device)
    counts = torch.zeros(tokenizer.vocab_size, dtype=torch.long, device=run.accelerator.device)

    def loss(module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        with torch.autocast(run.accelerator.device.type, enabled=False):  # the same targets whatever the precision
            labels = tokenizer.tokens(batch["token_pixels"])[batch["mask"]]
        output = module(batch["pixel_values"], batch["mask"], labels=labels, masked_logits_only=True)
        counts.add_(torch.bincount(labels, minlength=len(counts)))
        return output.loss, {"masked_accuracy": (output.logits.argmax(-1) == labels).float().mean()}

    def commonest() -> dict[str, float]:
        found = run.accelerator.reduce(counts, reduction="sum")  # over all processes
        line = {"commonest_token": float(found.max() / found.sum())}
        counts.zero_()
        return line

    processor = make_processor(config, settings.mean, settings.std)

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    return train(run, Job(model, optimizer, loader, total_steps(settings, loader), loss, save, commonest))


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
    if settings.image_size is not None or settings.patch_size is not None:
        raise ConfigError(
            f"{settings.model} has a size of its own: image_size and patch_size are for models from scratch. Leave them out."
        )
    return BeitForMaskedImageModeling.from_pretrained(settings.model, ignore_mismatched_sizes=True, **changes)


def size_changes(image_size: int | None, patch_size: int | None) -> dict[str, int]:
    """Overrides of a config."""
    sizes = {"image_size": image_size, "patch_size": patch_size}
    return {name: value for name, value in sizes.items() if value is not None}


def token_view_size(tokenizer: Any, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of the tokenizer's view, so that it gives one token a patch.

    Raises:
        ConfigError: no size does.
    """
    for factor in (2**i for i in range(8)):
        size = grid[0] * factor, grid[1] * factor
        try:
            found = tuple(tokenizer.grid(size))
        except ValueError:
            continue
        if found == grid:
            return size
    raise ConfigError(
        f"The tokenizer gives no grid of {grid[0]}x{grid[1]} tokens, one a patch, at any size of its view."
    )


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

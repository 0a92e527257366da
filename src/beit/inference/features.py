"""Features of every layer of a frozen network, in one pass over the images (`beit probe`, `beit knn`)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from beit.core import geometry
from beit.core.errors import DataError, require
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import Images
from beit.data.transforms.crops import crop_box, view
from beit.data.transforms.sample_seed import SampleSeed
from beit.evaluation.classification import batches_of, finite
from beit.models.torch.beit import BeitModel, BeitPreTrainedModel

_LARGEST_HALF = torch.finfo(torch.float16).max


def bar(show: bool, **keywords: Any) -> Any:
    """A progress bar; none without a terminal."""
    tqdm = require("tqdm", "train", "a probe").tqdm
    return tqdm(disable=None if show else True, file=sys.stderr, **keywords)


@dataclass
class Features:
    """What `layer_features` found.

    Attributes:
        layers: numbers of the layers, from 1.
        tokens: `(n, L, 2C)`, cls token and mean of the patches of each layer, on the CPU. float16, because all images
            are held at once (50,000 of BEiT-base: 1.8 GB instead of 3.7) and its rounding, 5e-4 of a value, is far below
            what tells images apart; float32 where a value is beyond 65,504.
        views: `(V, n, L, 2C)`, the same of random crops.
        numbers: which images these are, `(n,)` int64.
        labels: their classes, `(n,)` int64.
        skipped: why the other images could not be read.
    """

    layers: list[int]
    tokens: Tensor
    views: Tensor
    numbers: np.ndarray
    labels: np.ndarray
    skipped: list[str] = field(default_factory=list)


@torch.no_grad()  # not inference_mode: the probe is trained on these tensors
def layer_features(
    model: BeitPreTrainedModel,
    processor: BeitImageProcessor,
    images: Images,
    layers: Sequence[int] | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    views: int = 0,
    seed: int = 0,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    progress: bool = True,
) -> Features:
    """Cls token and mean of the patches, as every block puts them out, without a norm.

    Each image is read once. Its random crops (aspect 3:4 to 4:3, half of them mirrored) follow from
    (seed, number of the view, number of the image).

    Args:
        model: any BEiT model; its modules stay in the mode they are in.
        processor: its image processor.
        images: labelled images.
        layers: 1 … L, whose output is taken; None for all.
        batch_size: images at a time.
        device: where to compute; where the model is, if not given.
        views: random crops of each image beside the image itself.
        seed: of the crops.
        crop_scale: part of an image's area that a crop keeps.
        progress: show a bar, if there is a terminal.

    Raises:
        DataError: no labels, no such layer, or more than a tenth of the images cannot be read.
        CheckpointError: the model answers NaN.
    """
    if images.labels is None:
        raise DataError("A probe needs labelled images: one subfolder a class.")
    body = body_of(model)
    depth = body.config.num_hidden_layers
    layers = list(range(1, depth + 1)) if layers is None else list(layers)
    for layer in layers:
        if not 1 <= layer <= depth:
            raise DataError(f"There is no layer {layer}; choose one from 1 to {depth}.")
    size = geometry.pair(body.config.image_size)
    kept: list[int] = []
    bad = BadImages(len(images))
    found = torch.empty(1 + views, len(images), len(layers), 2 * body.config.hidden_size, dtype=torch.float16)
    with bar(progress, total=len(images), desc="features", unit="image") as shown, _in_evaluation(body, device):
        for numbers, pictures in batches_of(images, batch_size, lambda _, reason: bad.add(reason)):
            for visit in range(1 + views):
                if visit == 0:
                    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
                else:
                    crops = [
                        _random_crop(picture, size, crop_scale, SampleSeed(seed, visit - 1, number).rng())
                        for number, picture in zip(numbers, pictures, strict=True)
                    ]
                    pixels = processor(crops, do_resize=False, do_center_crop=False, return_tensors="pt")[
                        "pixel_values"
                    ]
                states = body(pixels.to(body.device), output_hidden_states=True).hidden_states
                batch = torch.stack([torch.cat((states[i][:, 0], states[i][:, 1:].mean(1)), -1) for i in layers], 1)
                batch = finite(batch.float().cpu())
                if found.dtype == torch.float16 and float(batch.abs().max()) > _LARGEST_HALF:
                    found = found.float()
                found[visit, len(kept) : len(kept) + len(numbers)] = batch
            kept += numbers
            shown.update(len(numbers))
    if not kept:
        raise DataError("None of the images can be read:\n" + str(bad))
    found = found[:, : len(kept)]
    return Features(layers, found[0], found[1:], np.array(kept), images.labels[kept], list(bad.reasons))


def body_of(model: BeitPreTrainedModel) -> BeitModel:
    """The model without its head."""
    body = getattr(model, "beit", model)
    assert isinstance(body, BeitModel)
    return body


def _random_crop(
    picture: Image.Image, size: tuple[int, int], scale: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """uint8 `(3, H, W)`, so that the processor rescales and normalises it as it does the image itself."""
    box = crop_box(rng, picture.size, scale, (3 / 4, 4 / 3))
    crop = view(picture, box, size, Image.Resampling.BICUBIC, bool(rng.random() < 0.5))
    return np.round(crop * 255).astype(np.uint8)


@contextlib.contextmanager
def _in_evaluation(model: nn.Module, device: torch.device | str | None) -> Iterator[None]:
    """Every module in evaluation mode, then in the mode it was in: parts may be frozen while others train."""
    modes = {module: module.training for module in model.modules()}
    if device is not None:
        model.to(device)
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode

"""Features by a PyTorch model: of one batch, or of every layer in one pass over many images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from beit.core import geometry
from beit.core.errors import DataError
from beit.core.progress import progress_bar
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import Images
from beit.data.transforms.crops import crop_box, view
from beit.data.transforms.sample_seed import SampleSeed
from beit.inference.batches import batches_of
from beit.inference.checks import check_layers, require_finite
from beit.models.torch.beit import BeitModel, BeitPreTrainedModel

_LARGEST_HALF = torch.finfo(torch.float16).max


@torch.inference_mode()
def pooled_features(
    model: BeitPreTrainedModel,
    processor: BeitImageProcessor,
    pictures: Sequence[Any],
    layer: int | None = None,
    device: torch.device | str | None = None,
) -> np.ndarray:
    """float32 `(n, C)` of one batch; `beit.inference.features.batch_features` explains the arguments."""
    body = body_of(model)
    body = body.to(device or body.device).eval()
    pixels = processor(pictures, return_tensors="pt")["pixel_values"].to(body.device)
    output = body(pixels, output_hidden_states=layer is not None)
    if layer is not None:
        pooled = output.hidden_states[layer][:, 1:].mean(1)  # hidden_states[0] are the embeddings
    elif output.pooler_output is not None:
        pooled = output.pooler_output
    else:
        pooled = output.last_hidden_state[:, 1:].mean(1)
    return pooled.float().cpu().numpy()


@dataclass
class Features:
    """Features of every layer.

    Attributes:
        layers: numbers of the layers, from 1.
        tokens: `(n, L, 2C)` on the CPU: the cls token and the mean of the patches of each layer. float16, because the features
            of all images are held at once (50,000 images of BEiT-base: 1.8 GB instead of 3.7) and its rounding error, 5e-4 of
            a value, is far below the differences between images; float32 where a value is beyond 65,504.
        views: `(V, n, L, 2C)`, the same of random crops.
        numbers: `(n,)` int64, which images these are.
        labels: `(n,)` int64, their classes.
        skipped: why the other images could not be read.
    """

    layers: list[int]
    tokens: Tensor
    views: Tensor
    numbers: np.ndarray
    labels: np.ndarray
    skipped: list[str] = field(default_factory=list)


@torch.no_grad()  # not inference_mode: the linear probe is trained on these tensors
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
    """The cls token and the mean of the patches after every layer, before any final norm.

    Each image is read once. Its random crops (aspect ratio 3:4 to 4:3, half of them mirrored) follow from
    (seed, number of the view, number of the image).

    Args:
        model: any BEiT model. It is left in the mode, training or evaluation, in which it was.
        processor: its image processor.
        images: labelled images.
        layers: 1 … L, the layers to take; None for all.
        batch_size: images per forward pass.
        device: where to compute; where the model is, if not given.
        views: random crops of each image, beside the image itself.
        seed: of the crops.
        crop_scale: smallest and largest fraction of an image's area that a crop covers.
        progress: show a progress bar, if there is a terminal.

    Raises:
        DataError: no labels, no such layer, or more than a tenth of the images cannot be read.
        CheckpointError: the model answers NaN or infinity.
    """
    if images.labels is None:
        raise DataError("A probe needs labelled images: one subfolder per class.")
    body = body_of(model)
    depth = body.config.num_hidden_layers
    layers = list(range(1, depth + 1)) if layers is None else list(layers)
    check_layers(layers, depth)
    size = geometry.pair(body.config.image_size)
    kept: list[int] = []
    bad = BadImages(len(images))
    found = torch.empty(1 + views, len(images), len(layers), 2 * body.config.hidden_size, dtype=torch.float16)
    with (
        progress_bar(purpose="a probe", shown=progress, total=len(images), desc="features", unit="image") as bar,
        _evaluating(body, device),
    ):
        for numbers, pictures in batches_of(images, processor, batch_size, lambda _, reason: bad.add(reason)):
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
                batch = batch.float().cpu()
                require_finite(bool(torch.isfinite(batch).all()))
                if found.dtype == torch.float16 and float(batch.abs().max()) > _LARGEST_HALF:
                    found = found.float()  # what was rounded already stays so
                found[visit, len(kept) : len(kept) + len(numbers)] = batch
            kept += numbers
            bar.update(len(numbers))
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
    """A crop as uint8 `(3, H, W)`, so that the processor rescales and normalises it as it does the image itself."""
    box = crop_box(rng, picture.size, scale, (3 / 4, 4 / 3))
    crop = view(picture, box, size, Image.Resampling.BICUBIC, bool(rng.random() < 0.5))
    return np.round(crop * 255).astype(np.uint8)


@contextlib.contextmanager
def _evaluating(model: nn.Module, device: torch.device | str | None) -> Iterator[None]:
    """Put every module into evaluation mode, and afterwards back into its own: parts may be frozen while others train."""
    modes = {module: module.training for module in model.modules()}
    if device is not None:
        model.to(device)
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode

"""Figures that show what the models of the demonstration have learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from beit.data import embedded
from beit.data.masking import BlockMask, mask_sizes
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import ArrayImages, FolderImages
from beit.data.transforms.crops import crop_box, view
from beit.data.transforms.pixels import normalise
from beit.demo.torch.pixels import as_pictures, pixels_of
from beit.evaluation import figures
from beit.models.torch.beit import BeitForImageClassification, BeitForMaskedImageModeling
from beit.tokenizers import load_tokenizer
from beit.train.settings import PretrainSettings

_HIDDEN = (0.55, 0.6, 0.7)  # the colour of masked patches


def decoded_garments(tokenizer: Path, test: ArrayImages) -> Any:
    """One test image of each class, and the same images decoded from their codes."""
    return _decoded(tokenizer, _one_of_each_class(test))


def decoded_photographs(tokenizer: Path) -> Any:
    """Crops of the embedded photographs, and the same crops decoded from their codes."""
    photos = FolderImages(embedded.photographs())
    rng = np.random.default_rng(0)
    crops = []
    for index in np.linspace(0, len(photos) - 1, 10).astype(int):
        image = photos.read(int(index))
        box = crop_box(rng, image.size, (0.2, 0.3), (1, 1))
        crops.append(view(image, box, (64, 64), Image.Resampling.LANCZOS, False))
    return _decoded(tokenizer, torch.from_numpy(np.stack(crops)))


def _decoded(folder: Path, images: Tensor) -> Any:
    tokenizer = load_tokenizer(folder)
    decoded = tokenizer.decode(tokenizer.tokens(images), tokenizer.grid((images.shape[2], images.shape[3])))
    return figures.picture_rows([("original", as_pictures(images)), ("from codes", as_pictures(decoded))])


@torch.inference_mode()
def reconstructions(tokenizer_folder: Path, pretrain: PretrainSettings, test: ArrayImages) -> Any:
    """Test images, masked, decoded from the predicted codes, and decoded from all true codes."""
    tokenizer = load_tokenizer(tokenizer_folder)
    model = BeitForMaskedImageModeling.from_pretrained(pretrain.output)
    images = _one_of_each_class(test)
    rng = np.random.default_rng(1)
    mask_of = BlockMask(model.config.grid, *mask_sizes(pretrain, model.config))
    mask = torch.from_numpy(np.stack([mask_of(rng).reshape(-1) for _ in range(len(images))]))
    true = tokenizer.tokens(images)
    logits = model(_normalised(images, pretrain.mean, pretrain.std), mask).logits
    tokens = torch.where(mask, logits.argmax(-1), true)
    grid = model.config.grid
    hidden = mask.view(-1, 1, *grid).float()
    hidden = torch.nn.functional.interpolate(hidden, size=images.shape[2:], mode="nearest")
    masked = images * (1 - hidden) + torch.tensor(_HIDDEN).view(1, 3, 1, 1) * hidden
    return figures.picture_rows(
        [
            ("original", as_pictures(images)),
            ("masked", as_pictures(masked)),
            ("predicted", as_pictures(tokenizer.decode(tokens, grid))),
            ("true codes", as_pictures(tokenizer.decode(true, grid))),
        ]
    )


@torch.inference_mode()
def attention(classifier: Path, test: ArrayImages) -> Any:
    """Test images, and the attention of the cls token in the last layer, averaged over its heads."""
    model = BeitForImageClassification.from_pretrained(classifier)
    processor = BeitImageProcessor.from_pretrained(classifier)
    images = _one_of_each_class(test)
    pixels = _normalised(images, tuple(processor.image_mean), tuple(processor.image_std))
    output = model(pixels, output_attentions=True)
    height, width = model.config.grid
    maps = output.attentions[-1][:, :, 0, 1:].mean(1).view(-1, height, width).numpy()
    names = [model.config.class_names[int(number)] for number in output.logits.argmax(-1)]
    return figures.attention_maps(as_pictures(images), maps / maps.max(axis=(1, 2), keepdims=True), names)


def _one_of_each_class(test: ArrayImages) -> Tensor:
    """A test image of each of the first ten classes."""
    assert test.labels is not None
    numbers = [int(np.flatnonzero(test.labels == number)[3]) for number in range(min(10, len(test.classes)))]
    return pixels_of(test)[numbers]


def _normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return torch.from_numpy(normalise(images.numpy(), mean, std))

"""Parameters of a run's model, and its floating-point operations per image, counted without running it on numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from beit.config import BeitConfig
from beit.core import geometry
from beit.data.masking import mask_sizes
from beit.data.sources.class_names import read_classes
from beit.data.sources.images import FolderImages
from beit.models.torch.beit import BeitForImageClassification, BeitForMaskedImageModeling
from beit.models.torch.segmentation import BeitForSemanticSegmentation
from beit.train.finetune import classifier_config
from beit.train.plan.work import Work
from beit.train.pretrain import model_config
from beit.train.segmentation import segmenter_config
from beit.train.settings import FinetuneSettings, PretrainSettings, RunSettings, SegmentSettings, TokenizerSettings
from beit.train.start import open_start
from beit.train.targets import make_target
from beit.train.targets.torch import TorchTarget
from beit.train.torch import tokenizer as tokenizer_training


@dataclass
class _Counted:
    """A model without numbers, and how it is run.

    Attributes:
        model: on the meta device.
        run: computes something that all trained outputs enter.
        images: how many images `run` computes.
        head: operations per image, forward, that `run` leaves out.
        tokenizer: operations to compute an image's tokens.
    """

    model: nn.Module
    run: Callable[[], Tensor]
    images: int = 1
    head: int = 0
    tokenizer: int = 0


def count(settings: RunSettings) -> Work:
    """What an image costs. Only matrix products and convolutions are counted, as is usual.

    Raises:
        BeitError: the settings name no model, or no tokenizer.
    """
    counted = _COUNTED[type(settings)](settings)
    counted.model.train()
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        output = counted.run()
        forward = counter.get_total_flops()
        output.sum().backward()
    both = counter.get_total_flops()
    forward, backward = forward // counted.images, (both - forward) // counted.images
    forward, backward = forward + counted.head, backward + 2 * counted.head
    if settings.gradient_checkpointing:  # the backward pass computes the forward pass again
        backward += forward
    parameters = sum(parameter.numel() for parameter in counted.model.parameters())
    return Work(parameters, forward, backward, counted.tokenizer)


def _pretraining(settings: PretrainSettings) -> _Counted:
    start = open_start(settings)
    target = cast(TorchTarget, make_target(settings, start.config, framework="torch"))
    config = model_config(settings, start, target.width)
    with torch.device("meta"):
        model = BeitForMaskedImageModeling(config)
        pixels = _pixels(config)
    # The head sees masked patches only.
    head = 2 * mask_sizes(settings, config)[0] * config.hidden_size * config.vocab_size
    return _Counted(
        model, lambda: model.beit(pixels).last_hidden_state, head=head, tokenizer=_label_operations(target, config)
    )


def _label_operations(target: TorchTarget, config: BeitConfig) -> int:
    """Operations to compute what is predicted of one image; 0 where nothing but the image itself is needed."""
    view = target.view_size(config.grid)
    if view is None:
        return 0
    batch = {"pixel_values": _pixels(config), "token_pixels": torch.zeros(1, 3, *view)}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        target.labels(batch)
    return int(counter.get_total_flops())


def _classifier(settings: FinetuneSettings) -> _Counted:
    start = open_start(settings)
    classes = _names(start.config)
    if settings.classes is not None:
        classes = read_classes(settings.classes)
    elif Path(settings.images).is_dir():
        classes = FolderImages(settings.images, labelled=True).classes
    config = classifier_config(settings, start, classes)
    with torch.device("meta"):
        model = BeitForImageClassification(config)
        pixels = _pixels(config)
    return _Counted(model, lambda: model(pixels).logits)


def _segmenter(settings: SegmentSettings) -> _Counted:
    start = open_start(settings)
    classes = _names(start.config) if settings.classes is None else read_classes(settings.classes)
    config = segmenter_config(settings, start, classes)
    with torch.device("meta"):
        model = BeitForSemanticSegmentation(config)
        pixels = _pixels(config).expand(2, -1, -1, -1)  # batch norm wants two images
    return _Counted(model, lambda: model(pixels).logits, images=2)


def _tokenizer(settings: TokenizerSettings) -> _Counted:
    side = settings.image_size
    with torch.device("meta"):
        model = tokenizer_training.new(settings)
        pixels = torch.zeros(1, 3, side, side)
        codes = torch.zeros(1, settings.vocab_size, *model.grid(side), requires_grad=True)
    return _Counted(model, lambda: model.encoder(pixels).sum() + model.decoder(codes))


_COUNTED: dict[type[RunSettings], Callable[[Any], _Counted]] = {
    PretrainSettings: _pretraining,
    FinetuneSettings: _classifier,
    SegmentSettings: _segmenter,
    TokenizerSettings: _tokenizer,
}


def _pixels(config: BeitConfig) -> Tensor:
    return torch.zeros(1, config.num_channels, *geometry.pair(config.image_size))


def _names(config: BeitConfig) -> list[str]:
    return config.class_names

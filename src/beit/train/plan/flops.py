"""What a run's model costs: parameters, and floating-point operations an image, counted without running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beit.config import PRESETS, BeitConfig
from beit.train.settings import FinetuneSettings, PretrainSettings, RunSettings, SegmentSettings, TokenizerSettings


@dataclass
class Work:
    """What one image costs.

    Attributes:
        parameters: that are trained.
        forward: floating-point operations of the model, forward.
        backward: the same, backward; what gradient checkpointing computes again included.
        tokenizer: of computing an image's visual tokens.
    """

    parameters: int
    forward: int
    backward: int
    tokenizer: int = 0

    @property
    def total(self) -> int:
        """Operations an image."""
        return self.forward + self.backward + self.tokenizer


def count(settings: RunSettings) -> Work:
    """Parameters and operations an image of a run's model; multiplication and addition are two operations.

    The model is made on PyTorch's meta device, without numbers. Only matrix products and convolutions count, as is usual.

    Raises:
        BeitError: the settings name no model, or no tokenizer.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model, run = _model(settings)
        model.train()
        with FlopCounterMode(display=False) as counter:
            output = run()
            forward = counter.get_total_flops()
            output.sum().backward()
    both = counter.get_total_flops()
    copies = 2 if isinstance(settings, SegmentSettings) else 1  # batch norm wants two images
    parameters = sum(parameter.numel() for parameter in model.parameters())
    forward, backward = forward // copies, (both - forward) // copies
    if isinstance(settings, PretrainSettings):  # the head, on masked patches only
        from beit.data.masking import mask_sizes

        head = 2 * mask_sizes(settings, model.config)[0] * model.config.hidden_size * model.config.vocab_size
        forward, backward = forward + head, backward + 2 * head
    if settings.gradient_checkpointing:
        backward += forward
    return Work(parameters, forward, backward, _tokenizer_work(settings, model))


def _model(settings: RunSettings) -> tuple[Any, Callable[[], Any]]:
    """(model, a function that runs it once)."""
    import torch

    from beit.core import geometry
    from beit.models.torch.beit import BeitForImageClassification, BeitForMaskedImageModeling
    from beit.models.torch.segmentation import BeitForSemanticSegmentation

    if isinstance(settings, TokenizerSettings):
        from beit.train.tokenizer import new_tokenizer

        tokenizer, side = new_tokenizer(settings), settings.image_size
        height, width = tokenizer.grid(side)
        codes = torch.zeros(1, settings.vocab_size, height, width, requires_grad=True)
        return tokenizer, lambda: tokenizer.encoder(torch.zeros(1, 3, side, side)).sum() + tokenizer.decoder(codes)

    config = _config(settings)
    pixels = torch.zeros(1, config.num_channels, *geometry.pair(config.image_size))
    if isinstance(settings, PretrainSettings):
        model = BeitForMaskedImageModeling(config)
        return model, lambda: model.beit(pixels).last_hidden_state
    if isinstance(settings, SegmentSettings):
        segmenter = BeitForSemanticSegmentation(config)
        pixels = pixels.expand(2, -1, -1, -1)
        return segmenter, lambda: segmenter(pixels).logits
    classifier = BeitForImageClassification(config)
    return classifier, lambda: classifier(pixels).logits


def _config(settings: Any) -> BeitConfig:
    from beit.train.pretrain import size_changes

    start = (
        BeitConfig.preset(settings.model) if settings.model in PRESETS else BeitConfig.from_pretrained(settings.model)
    )
    shared = isinstance(settings, PretrainSettings)
    changes: dict[str, Any] = {"use_mask_token": shared, **size_changes(settings.image_size, settings.patch_size)}
    if settings.model in PRESETS or start.use_shared_relative_position_bias:
        changes |= {"use_shared_relative_position_bias": shared, "use_relative_position_bias": not shared}
    if isinstance(settings, SegmentSettings):
        changes["use_auxiliary_head"] = settings.auxiliary_weight > 0
    if not shared and settings.classes is not None:
        from beit.data.sources.class_names import read_classes

        changes["num_labels"] = len(read_classes(settings.classes))
    elif isinstance(settings, FinetuneSettings) and Path(settings.images).is_dir():
        from beit.data.sources.images import FolderImages

        changes["num_labels"] = len(FolderImages(settings.images, labelled=True).classes)
    config = start.replace(**changes)
    if isinstance(settings, PretrainSettings):
        from beit.train.targets import target_width

        config = config.replace(vocab_size=target_width(settings, config))
    return config


def _tokenizer_work(settings: RunSettings, model: Any) -> int:
    if not isinstance(settings, PretrainSettings) or settings.tokenizer is None or settings.token_cache is not None:
        return 0
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from beit.tokenizers import load_tokenizer
    from beit.train.targets import token_view_size

    tokenizer = load_tokenizer(settings.tokenizer)
    size = token_view_size(tokenizer, model.config.grid)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tokenizer.tokens(torch.zeros(1, 3, *size))
    return int(counter.get_total_flops())

"""Semantic segmentation in PyTorch, to be read from top to bottom: pyramid → heads → models.

    four layers' outputs (B, 1+N, C) → maps (B, C, h, w) → pyramid at 4, 2, 1, 1/2 times (h, w) → UPerHead → logits
    (B, num_labels, 4h, 4w); in training a second, small head on the third map adds to the loss

Papers: Bao et al., BEiT, 2021 (arXiv 2106.08254, section 3.2); Xiao et al., Unified Perceptual Parsing (UPerNet), 2018
(arXiv 1807.10221). Numbers follow transformers 4.37.2 to 1e-5. Modules are named as on disk. Without gradients on a CPU,
pyramid and head are computed by `kernels/upernet.py` instead of by the formulas below; `models/flax/segmentation.py` is the
twin, part by part.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit.config import BeitConfig
from beit.core.errors import ConfigError
from beit.models import validation
from beit.models.outputs import BackboneOutput, SemanticSegmenterOutput
from beit.models.torch import inputs
from beit.models.torch.beit import AttentionOptions, BeitEmbeddings, BeitEncoder, BeitModel, BeitPreTrainedModel
from beit.models.torch.kernels.upernet import FoldedUperNet


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`(B, C, h, w)` → `(B, C, *size)`, bilinear, corners not aligned."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """`(B, 1+N, C)` → the patches as a map `(B, C, h, w)`."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)


# --- the pyramid ---------------------------------------------------------------------------------------------------


def add_pyramid(model: nn.Module, width: int) -> None:
    """Give `model` the four steps `fpn1` … `fpn4` from maps of one size to maps of 4, 2, 1 and 1/2 times its sides."""
    model.fpn1 = nn.Sequential(
        nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
        nn.BatchNorm2d(width),
        nn.GELU(),
        nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
    )
    model.fpn2 = nn.Sequential(nn.ConvTranspose2d(width, width, kernel_size=2, stride=2))
    model.fpn3 = nn.Identity()
    model.fpn4 = nn.MaxPool2d(kernel_size=2, stride=2)


def pyramid(model: Any, maps: list[Tensor]) -> list[Tensor]:
    """Four maps `(B, C, h, w)` → `(B, C, 4h, 4w)`, `(B, C, 2h, 2w)`, `(B, C, h, w)`, `(B, C, h/2, w/2)`."""
    steps = (model.fpn1, model.fpn2, model.fpn3, model.fpn4)
    return [step(x) for step, x in zip(steps, maps, strict=True)]


# --- heads ---------------------------------------------------------------------------------------------------------


class ConvModule(nn.Module):
    """Convolution that keeps the size, batch norm, ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class BeitUperHead(nn.Module):
    """UPerNet: pyramid pooling of the coarsest map, a path from coarse to fine, all four maps fused, a classifier."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        width, scales = config.hidden_size, config.pool_scales
        self.scales = scales
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvModule(width, width, 1)) for scale in scales
        )
        self.bottleneck = ConvModule(width * (1 + len(scales)), width, 3)
        self.lateral_convs = nn.ModuleList(ConvModule(width, width, 1) for _ in range(3))
        self.fpn_convs = nn.ModuleList(ConvModule(width, width, 3) for _ in range(3))
        self.fpn_bottleneck = ConvModule(4 * width, width, 3)
        self.dropout = nn.Dropout2d(config.decode_dropout_prob)
        self.classifier = nn.Conv2d(width, config.num_labels, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Four maps from fine to coarse, the finest `(B, C, H, W)` → logits `(B, num_labels, H, W)`."""
        fine, coarsest = maps[:3], maps[3]
        if self.training:
            validation.check_batch_norm(len(coarsest), self.scales)
        pooled = [resize(module(coarsest), _size(coarsest)) for module in self.psp_modules]
        top = self.bottleneck(torch.cat((coarsest, *pooled), dim=1))
        laterals = [lateral(x) for lateral, x in zip(self.lateral_convs, fine, strict=True)] + [top]
        for i in (2, 1, 0):  # from coarse to fine
            laterals[i] = laterals[i] + resize(laterals[i + 1], _size(laterals[i]))
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals[:3], strict=True)] + [top]
        size = _size(outputs[0])
        x = self.fpn_bottleneck(torch.cat((outputs[0], *(resize(x, size) for x in outputs[1:])), dim=1))
        return self.classifier(self.dropout(x))


class BeitFCNHead(nn.Module):
    """The auxiliary head: convolutions on the third map, a classifier. It only adds to the loss."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        width, channels, count = config.hidden_size, config.auxiliary_channels, config.auxiliary_num_convs
        self.convs = nn.Sequential(*(ConvModule(channels if i else width, channels, 3) for i in range(count)))
        self.conv_cat = None
        if config.auxiliary_concat_input:
            self.conv_cat = ConvModule(width + (channels if count else width), channels, 3)
        self.dropout = nn.Dropout2d(config.decode_dropout_prob)
        self.classifier = nn.Conv2d(channels, config.num_labels, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The pyramid's maps → logits `(B, num_labels, h, w)` of the third."""
        x = self.convs(maps[2])
        if self.conv_cat is not None:
            x = self.conv_cat(torch.cat((maps[2], x), dim=1))
        return self.classifier(self.dropout(x))


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


# --- models --------------------------------------------------------------------------------------------------------


class BeitForSemanticSegmentation(BeitPreTrainedModel):
    """Gives every pixel a class by UPerNet on four layers (section 3.2).

    Which layers: `BeitConfig.segmentation_layers`. A new model with neither that nor `out_indices` uses the authors'.

    Args:
        config: the architecture; `num_labels` classes, at least two.

    Attributes:
        fast: whether evaluation without gradients may use `kernels/upernet.py`, which gives the same logits up to rounding;
            set it to False for the plain formulas.

    Raises:
        ConfigError: `out_indices` name no four layers, or fewer than two classes.
    """

    def __init__(self, config: BeitConfig) -> None:
        config, layers = validation.segmentation_config(config)
        super().__init__(config)
        self.num_labels = config.num_labels
        self.layers = layers
        self.fast = True
        self.beit = BeitModel(config, add_pooling_layer=False)
        add_pyramid(self, config.hidden_size)
        self.decode_head = BeitUperHead(config)
        self.auxiliary_head = BeitFCNHead(config) if config.use_auxiliary_head else None
        self.init_weights(only=self._head_parameters())  # the body initialised itself
        self.folded = FoldedUperNet(parts=(BeitUperHead, ConvModule))

    def forward(
        self,
        pixel_values: Tensor | None = None,
        head_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SemanticSegmenterOutput | tuple[Any, ...]:
        """Segment images. Arguments that are not listed: see `BeitModel.forward`.

        Args:
            pixel_values: `(B, channels, H, W)`, of at least two patches each way.
            labels: `(B, H', W')` class numbers, of any size: logits are resized to it. Pixels with
                `config.semantic_loss_ignore_index` do not count. The loss is the mean cross-entropy of the other pixels,
                plus `auxiliary_loss_weight` times that of the auxiliary head; 0, with a warning, when all are ignored.
                Where images are padded (`config.pad_to_patch`), logits cover the padded image. Labels of the image's own
                size are padded as well, with pixels that do not count; labels of other sizes are refused.

        Raises:
            InputError: as `BeitModel`; or labels of another shape, or outside the classes; or a single image in training.
        """
        attentions, hidden, as_dict = self._flags(output_attentions, output_hidden_states, return_dict)
        pixels = inputs.check_pixels(pixel_values, self.config)
        validation.check_pyramid(pixels.shape, self.config)
        x = self.beit.embeddings(pixels)
        grid = self.config.grid_of(pixels.shape[2:])
        options = AttentionOptions(attentions, inputs.expand_head_mask(head_mask, x, self.config))
        # Layers above the highest that the heads see would be computed for nothing.
        depth = None if attentions or hidden else max(self.layers)
        encoded = self.beit.encoder(x, grid, options, True, depth)
        tokens = [encoded.hidden_states[layer] for layer in self.layers]
        # The faster way is plugged in here: the same logits, up to rounding, by much less work.
        if labels is None and self.fast and self.folded.applies(self, tokens[0]):
            logits, auxiliary = self.folded(self, tokens, grid), None
        else:
            maps = pyramid(self, [as_map(x, grid) for x in tokens])
            logits = self.decode_head(maps)
            # The auxiliary head never changes the logits: it only adds to the loss.
            auxiliary = None if labels is None or self.auxiliary_head is None else self.auxiliary_head(maps)
        loss = None if labels is None else self._loss(logits, auxiliary, labels, pixels.shape[2:])
        output = SemanticSegmenterOutput(
            loss, logits, encoded.hidden_states if hidden else None, encoded.attentions if attentions else None
        )
        return output if as_dict else output.to_tuple()

    def _loss(self, logits: Tensor, auxiliary: Tensor | None, labels: Tensor, size: Sequence[int]) -> Tensor:
        inputs.check_is_tensor("labels", labels)
        whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        validation.check_label_maps(labels.shape, labels.dtype, whole, logits.shape[0])
        ignore = self.config.semantic_loss_ignore_index
        below, right = validation.label_padding(labels.shape, size, self.config)
        labels = F.pad(labels.to(logits.device).long(), (0, right, 0, below), value=ignore)
        inputs.check_classes(labels, logits.shape[1], "num_labels", ignore)
        counted = (labels != ignore).sum()
        if not torch.compiler.is_compiling() and int(counted) == 0:
            warnings.warn(validation.all_ignored(ignore), stacklevel=3)

        def cross_entropy(scores: Tensor) -> Tensor:
            scores = resize(scores, (labels.shape[1], labels.shape[2])).float()
            # The mean over the pixels that count; where none do, it is 0 and not 0/0.
            return F.cross_entropy(scores, labels, ignore_index=ignore, reduction="sum") / counted.clamp(min=1)

        loss = cross_entropy(logits)
        return loss if auxiliary is None else loss + self.config.auxiliary_loss_weight * cross_entropy(auxiliary)


class BeitBackbone(BeitPreTrainedModel):
    """The encoder as a source of feature maps for detectors and other frameworks.

    Args:
        config: the architecture; `out_features` or `out_indices` choose the stages, `add_fpn` adds the pyramid,
            `reshape_hidden_states=False` gives tokens instead of maps.

    Attributes:
        stage_names: `stem`, `stage1`, … `stageL`: all that can be chosen.
        out_features: names of the chosen stages.
        out_indices: the same by number, 0 for `stem`.
        num_features: channels of every stage.
        channels: channels of the chosen stages.

    Raises:
        ConfigError: `add_fpn` with other than four stages, or with `reshape_hidden_states=False`.
    """

    def __init__(self, config: BeitConfig) -> None:
        super().__init__(config)
        self.stage_names = config.stage_names
        self.num_features = [config.hidden_size] * len(self.stage_names)
        self.embeddings = BeitEmbeddings(config)
        self.encoder = BeitEncoder(config)
        if config.add_fpn:
            if len(self.out_features) != 4 or not config.reshape_hidden_states or min(config.grid) < 2:
                raise ConfigError(
                    "add_fpn makes a pyramid of four maps of at least 2x2 patches. This config has the stages "
                    f"{', '.join(self.out_features)}, {config.grid[0]}x{config.grid[1]} patches and "
                    f"reshape_hidden_states={config.reshape_hidden_states}. Choose four stages, such as "
                    "out_indices=[3, 5, 7, 11] of 12 layers, and reshape_hidden_states=True."
                )
            add_pyramid(self, config.hidden_size)
        self.init_weights()

    @property
    def out_features(self) -> list[str]:
        """Names of the chosen stages. Setting them chooses others."""
        return self.config.stages()[0]

    @out_features.setter
    def out_features(self, names: list[str]) -> None:
        self._choose(out_features=names, out_indices=None)

    @property
    def out_indices(self) -> list[int]:
        """Numbers of the chosen stages. Setting them chooses others."""
        return self.config.stages()[1]

    @out_indices.setter
    def out_indices(self, numbers: list[int]) -> None:
        self._choose(out_features=None, out_indices=numbers)

    def _choose(self, **stages: Any) -> None:
        config = self.config.replace(**stages)
        if config.add_fpn and len(config.stages()[0]) != 4:
            raise ConfigError(
                f"add_fpn makes a pyramid of four maps; got {', '.join(config.stages()[0])}. Choose four."
            )
        self.config = config

    @property
    def out_feature_channels(self) -> dict[str, int]:
        """Stage → channels."""
        return dict(zip(self.stage_names, self.num_features, strict=True))

    @property
    def channels(self) -> list[int]:
        """Channels of the chosen stages."""
        return [self.out_feature_channels[name] for name in self.out_features]

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Feature maps of images.

        Args:
            pixel_values: `(B, channels, H, W)`; with `add_fpn` of at least two patches each way.
            output_hidden_states: return the embeddings and the output of each layer.
            output_attentions: return attention weights.
            return_dict: return an output object (default) or a plain tuple.

        Raises:
            InputError: wrong shape, channel count or size.
        """
        attentions, hidden, as_dict = self._flags(output_attentions, output_hidden_states, return_dict)
        pixels = inputs.check_pixels(pixel_values, self.config)
        if self.config.add_fpn:
            validation.check_pyramid(pixels.shape, self.config)
        grid = self.config.grid_of(pixels.shape[2:])
        chosen = [self.stage_names.index(name) for name in self.out_features]
        depth = None if attentions or hidden else max(chosen)  # higher layers would be computed for nothing
        encoded = self.encoder(self.embeddings(pixels), grid, AttentionOptions(attentions), True, depth)
        features = [encoded.hidden_states[number] for number in chosen]
        if self.config.reshape_hidden_states:
            features = [as_map(x, grid) for x in features]
        if self.config.add_fpn:
            features = pyramid(self, features)
        output = BackboneOutput(
            tuple(features), encoded.hidden_states if hidden else None, encoded.attentions if attentions else None
        )
        return output if as_dict else output.to_tuple()

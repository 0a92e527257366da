"""Semantic segmentation in Flax, to be read beside `models/torch/segmentation.py`: the same parts, with the same names.

    four layers' outputs (B, 1+N, C) → maps (B, h, w, C) → pyramid at 4, 2, 1, 1/2 times (h, w) → UPerHead → logits
    (B, num_labels, 4h, 4w); in training a second, small head on the third map adds to the loss

Papers: Bao et al., BEiT, 2021 (arXiv 2106.08254, section 3.2); Xiao et al., Unified Perceptual Parsing (UPerNet), 2018
(arXiv 1807.10221). The reference has no such model in Flax. Inside, maps have their channels last; logits have them first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from beit.config import BeitConfig
from beit.models import validation
from beit.models.flax.beit import AttentionOptions, FlaxBeitModule, FlaxBeitPreTrainedModel
from beit.models.flax.kernels.layers import zeros
from beit.models.flax.kernels.maps import AdaptivePool, BatchNorm, Upsample
from beit.models.flax.losses import cross_entropy
from beit.models.flax.pretrained import check_classes, warn_all_ignored, whole_numbers
from beit.models.outputs import SemanticSegmenterOutput

Array = jax.Array


def resize(x: Array, size: tuple[int, int]) -> Array:
    """`(B, h, w, C)` → `(B, *size, C)`, bilinear, corners not aligned."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "linear", antialias=False)


def as_map(tokens: Array, grid: tuple[int, int]) -> Array:
    """`(B, 1+N, C)` → the patches as a map `(B, h, w, C)`."""
    return tokens[:, 1:].reshape(tokens.shape[0], *grid, tokens.shape[2])


# --- heads ---------------------------------------------------------------------------------------------------------


class ConvModule(nn.Module):
    """Convolution that keeps the size, batch norm, ReLU."""

    channels: int
    kernel_size: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        size = (self.kernel_size, self.kernel_size)
        self.conv = nn.Conv(self.channels, size, use_bias=False, dtype=self.dtype, kernel_init=zeros)
        self.bn = BatchNorm()

    def __call__(self, x: Array, train: bool) -> Array:
        return nn.relu(self.bn(self.conv(x), train))


class FlaxBeitUperHead(nn.Module):
    """UPerNet: pyramid pooling of the coarsest map, a path from coarse to fine, all four maps fused, a classifier."""

    config: BeitConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config, dtype = self.config, self.dtype
        width, scales = config.hidden_size, config.pool_scales
        # Pairs, so that the convolution has number 1, as in PyTorch's sequences.
        self.psp_modules = [(AdaptivePool(scale), ConvModule(width, 1, dtype)) for scale in scales]
        self.bottleneck = ConvModule(width, 3, dtype)
        self.lateral_convs = [ConvModule(width, 1, dtype) for _ in range(3)]
        self.fpn_convs = [ConvModule(width, 3, dtype) for _ in range(3)]
        self.fpn_bottleneck = ConvModule(width, 3, dtype)
        self.dropout = nn.Dropout(config.decode_dropout_prob, broadcast_dims=(1, 2))
        self.classifier = nn.Conv(config.num_labels, (1, 1), dtype=dtype, kernel_init=zeros)

    def __call__(self, maps: list[Array], train: bool) -> Array:
        """Four maps from fine to coarse, the finest `(B, H, W, C)` → logits `(B, H, W, num_labels)`."""
        fine, coarsest = maps[:3], maps[3]
        if train:
            validation.check_batch_norm(len(coarsest), self.config.pool_scales)
        pooled = [resize(conv(pool(coarsest, train), train), _size(coarsest)) for pool, conv in self.psp_modules]
        top = self.bottleneck(jnp.concatenate((coarsest, *pooled), axis=-1), train)
        laterals = [lateral(x, train) for lateral, x in zip(self.lateral_convs, fine, strict=True)] + [top]
        for i in (2, 1, 0):  # from coarse to fine
            laterals[i] = laterals[i] + resize(laterals[i + 1], _size(laterals[i]))
        outputs = [conv(x, train) for conv, x in zip(self.fpn_convs, laterals[:3], strict=True)] + [top]
        size = _size(outputs[0])
        together = jnp.concatenate((outputs[0], *(resize(x, size) for x in outputs[1:])), axis=-1)
        return self.classifier(self.dropout(self.fpn_bottleneck(together, train), deterministic=not train))


class FlaxBeitFCNHead(nn.Module):
    """The auxiliary head: convolutions on the third map, a classifier. It only adds to the loss."""

    config: BeitConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config, dtype = self.config, self.dtype
        channels = config.auxiliary_channels
        self.convs = [ConvModule(channels, 3, dtype) for _ in range(config.auxiliary_num_convs)]
        self.conv_cat = ConvModule(channels, 3, dtype) if config.auxiliary_concat_input else None
        self.dropout = nn.Dropout(config.decode_dropout_prob, broadcast_dims=(1, 2))
        self.classifier = nn.Conv(config.num_labels, (1, 1), dtype=dtype, kernel_init=zeros)

    def __call__(self, maps: list[Array], train: bool) -> Array:
        """The pyramid's maps → logits `(B, h, w, num_labels)` of the third."""
        x = maps[2]
        for conv in self.convs:
            x = conv(x, train)
        if self.conv_cat is not None:
            x = self.conv_cat(jnp.concatenate((maps[2], x), axis=-1), train)
        return self.classifier(self.dropout(x, deterministic=not train))


def _size(x: Array) -> tuple[int, int]:
    return x.shape[1], x.shape[2]


# --- models --------------------------------------------------------------------------------------------------------


@dataclass
class ForLoss:
    """What the loss needs besides the outputs.

    Attributes:
        auxiliary: logits `(B, num_labels, h, w)` of the auxiliary head, if there is one.
        size: height and width of the images before any padding, in pixels.
    """

    auxiliary: Array | None
    size: tuple[int, ...]


jax.tree_util.register_dataclass(ForLoss, ["auxiliary"], ["size"])


class FlaxBeitForSemanticSegmentationModule(nn.Module):
    """Gives every pixel a class by UPerNet on four layers (section 3.2)."""

    config: BeitConfig
    dtype: Any = jnp.float32
    gradient_checkpointing: bool = False

    def setup(self) -> None:
        config, dtype = self.config, self.dtype
        self.beit = FlaxBeitModule(config, dtype, self.gradient_checkpointing, add_pooling_layer=False)
        # The steps of the pyramid have the numbers of PyTorch's sequences; 2 is GELU, without parameters.
        self.fpn1 = (Upsample(dtype), BatchNorm(), None, Upsample(dtype))
        self.fpn2 = (Upsample(dtype),)
        self.decode_head = FlaxBeitUperHead(config, dtype)
        self.auxiliary_head = FlaxBeitFCNHead(config, dtype) if config.use_auxiliary_head else None

    def __call__(
        self,
        pixel_values: Array,
        mask: Array | None = None,
        train: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> SemanticSegmenterOutput:
        """`pixel_values (B, channels, H, W)` → logits `(B, num_labels, 4h, 4w)`."""
        return self.both_heads(pixel_values, mask, train, output_attentions, output_hidden_states)[0]

    def both_heads(
        self,
        pixel_values: Array,
        mask: Array | None = None,
        train: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> tuple[SemanticSegmenterOutput, ForLoss]:
        """The outputs, and what the loss needs besides."""
        validation.check_pyramid(pixel_values.shape, self.config)
        layers = validation.segmentation_config(self.config)[1]
        x = self.beit.embeddings(pixel_values, mask, train)
        grid = self.config.grid_of(pixel_values.shape[2:])
        # Layers above the highest that the heads see would be computed for nothing.
        depth = None if output_attentions or output_hidden_states else max(layers)
        encoded = self.beit.encoder(x, grid, AttentionOptions(output_attentions, train), True, depth)
        states = encoded.hidden_states
        assert states is not None
        maps = self._pyramid([as_map(states[layer], grid) for layer in layers], train)
        logits = self.decode_head(maps, train)
        auxiliary = None if self.auxiliary_head is None else _channels_first(self.auxiliary_head(maps, train))
        hidden = states if output_hidden_states else None
        output = SemanticSegmenterOutput(None, _channels_first(logits), hidden, encoded.attentions)
        return output, ForLoss(auxiliary, pixel_values.shape[2:])

    def _pyramid(self, maps: list[Array], train: bool) -> list[Array]:
        """Four maps `(B, h, w, C)` → 4, 2, 1 and 1/2 times their sides."""
        first, norm, _, second = self.fpn1
        finest = second(nn.gelu(norm(first(maps[0]), train), approximate=False))
        return [finest, self.fpn2[0](maps[1]), maps[2], nn.max_pool(maps[3], (2, 2), (2, 2))]


def _channels_first(x: Array) -> Array:
    return jnp.moveaxis(x, -1, 1)


class FlaxBeitForSemanticSegmentation(FlaxBeitPreTrainedModel):
    """Gives every pixel a class by UPerNet on four layers (section 3.2); see `FlaxPretrained` for arguments and calls.

    `params` are `{"params": …, "batch_stats": …}`; with `train=True` a call returns (output, {"batch_stats": …}), the moved
    statistics. Which layers: `BeitConfig.segmentation_layers`.

    `labels`: `(B, H', W')` class numbers, of any size: logits are resized to it. Pixels with
    `config.semantic_loss_ignore_index` do not count. The loss is the mean cross-entropy of the other pixels, plus
    `auxiliary_loss_weight` times that of the auxiliary head; 0, with a warning, when all are ignored. Where images are padded
    (`config.pad_to_patch`), logits cover the padded image; labels of the image's own size are padded likewise, with pixels that
    do not count, and labels of other sizes are refused.

    Raises:
        ConfigError: `out_indices` name no four layers, or fewer than two classes.
    """

    module_class: ClassVar[type[nn.Module]] = FlaxBeitForSemanticSegmentationModule
    loss_method: ClassVar[str | None] = "both_heads"
    rates: ClassVar[tuple[str, ...]] = (*FlaxBeitPreTrainedModel.rates, "decode_dropout_prob")

    def _checked(self, config: BeitConfig) -> BeitConfig:
        return validation.segmentation_config(config)[0]

    def _loss(self, output: SemanticSegmenterOutput, more: ForLoss, labels: Array) -> Array:
        logits = output.logits
        validation.check_label_maps(labels.shape, labels.dtype, whole_numbers(labels), logits.shape[0])
        ignore = self.config.semantic_loss_ignore_index
        below, right = validation.label_padding(labels.shape, more.size, self.config)
        if below or right:
            labels = jnp.pad(jnp.asarray(labels, jnp.int32), ((0, 0), (0, below), (0, right)), constant_values=ignore)
        check_classes(labels, logits.shape[1], "num_labels", ignore)
        counted = labels != ignore
        if not isinstance(labels, jax.core.Tracer) and not bool(counted.any()):
            warn_all_ignored(ignore)
        classes = jnp.where(counted, labels, 0)
        height, width = labels.shape[1:]

        def mean(scores: Array) -> Array:
            scores = resize(jnp.moveaxis(scores, 1, -1), (height, width)).astype(jnp.float32)
            # The mean over the pixels that count; where none do, it is 0 and not 0/0.
            return jnp.sum(cross_entropy(scores, classes), where=counted) / jnp.maximum(counted.sum(), 1)

        loss = mean(logits)
        auxiliary = more.auxiliary
        return loss if auxiliary is None else loss + self.config.auxiliary_loss_weight * mean(auxiliary)

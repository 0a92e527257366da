"""The shape of every tensor of a model, by its name in memory, without building it in any framework."""

from __future__ import annotations

from beit.config import BeitConfig
from beit.core import geometry

Shapes = dict[str, tuple[int, ...]]


def shapes_of(config: BeitConfig, architecture: str) -> Shapes:
    """Parameters and statistics of the class `architecture`, with the `beit.` prefix; batch counters left out."""
    width, shapes = config.hidden_size, _encoder(config)
    if architecture == "BeitBackbone":
        if config.add_fpn:
            _pyramid(shapes, width)
        return shapes
    if not config.use_mean_pooling:
        _norm(shapes, "beit.layernorm", width)
    pools = architecture in ("BeitModel", "BeitForImageClassification")
    if pools and config.use_mean_pooling:
        _norm(shapes, "beit.pooler.layernorm", width)
    if architecture == "BeitForMaskedImageModeling":
        _norm(shapes, "layernorm", width)
        _linear(shapes, "lm_head", width, config.vocab_size)
    if architecture == "BeitForImageClassification" and config.num_labels:
        _linear(shapes, "classifier", width, config.num_labels)
    if architecture == "BeitForSemanticSegmentation":
        _segmentation(shapes, config)
    return shapes


def _encoder(config: BeitConfig) -> Shapes:
    width, heads = config.hidden_size, config.num_attention_heads
    rows = geometry.num_relative_distances(config.grid)
    shapes: Shapes = {"beit.embeddings.cls_token": (1, 1, width)}
    if config.use_mask_token:
        shapes["beit.embeddings.mask_token"] = (1, 1, width)
    if config.use_absolute_position_embeddings:
        shapes["beit.embeddings.position"] = (1, 1 + config.num_patches, width)
    shapes["beit.embeddings.patch.weight"] = (width, config.num_channels, *geometry.pair(config.patch_size))
    shapes["beit.embeddings.patch.bias"] = (width,)
    if config.use_shared_relative_position_bias:
        shapes["beit.encoder.relative_position.table"] = (rows, heads)
    for i in range(config.num_hidden_layers):
        layer = f"beit.encoder.layers.{i}."
        _norm(shapes, layer + "norm1", width)
        _norm(shapes, layer + "norm2", width)
        shapes[layer + "attn.qkv.weight"] = (3 * width, width)
        shapes |= {layer + f"attn.{part}_bias": (width,) for part in "qv"}
        if config.use_relative_position_bias:
            shapes[layer + "attn.relative_position.table"] = (rows, heads)
        _linear(shapes, layer + "attn.proj", width, width)
        _linear(shapes, layer + "mlp.fc1", width, config.intermediate_size)
        _linear(shapes, layer + "mlp.fc2", config.intermediate_size, width)
        if config.layer_scale_init_value > 0:
            shapes |= {layer + f"gamma{number}": (width,) for number in (1, 2)}
    return shapes


def _segmentation(shapes: Shapes, config: BeitConfig) -> None:
    width, scales = config.hidden_size, len(config.pool_scales)
    _pyramid(shapes, width)
    for i in range(scales):
        _conv(shapes, f"decode_head.psp_modules.{i}.1", width, width, 1)
    _conv(shapes, "decode_head.bottleneck", width * (1 + scales), width, 3)
    for i in range(3):
        _conv(shapes, f"decode_head.lateral_convs.{i}", width, width, 1)
        _conv(shapes, f"decode_head.fpn_convs.{i}", width, width, 3)
    _conv(shapes, "decode_head.fpn_bottleneck", 4 * width, width, 3)
    _linear(shapes, "decode_head.classifier", width, config.num_labels, (1, 1))
    if config.use_auxiliary_head:
        channels, count = config.auxiliary_channels, config.auxiliary_num_convs
        for i in range(count):
            _conv(shapes, f"auxiliary_head.convs.{i}", channels if i else width, channels, 3)
        if config.auxiliary_concat_input:
            _conv(shapes, "auxiliary_head.conv_cat", width + (channels if count else width), channels, 3)
        _linear(shapes, "auxiliary_head.classifier", channels, config.num_labels, (1, 1))


def _pyramid(shapes: Shapes, width: int) -> None:
    for name in ("fpn1.0", "fpn1.3", "fpn2.0"):
        _linear(shapes, name, width, width, (2, 2))
    _batch_norm(shapes, "fpn1.1", width)


def _norm(shapes: Shapes, name: str, width: int) -> None:
    shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _batch_norm(shapes: Shapes, name: str, width: int) -> None:
    shapes |= {f"{name}.{kind}": (width,) for kind in ("weight", "bias", "running_mean", "running_var")}


def _linear(shapes: Shapes, name: str, inputs: int, outputs: int, kernel: tuple[int, ...] = ()) -> None:
    shapes |= {f"{name}.weight": (outputs, inputs, *kernel), f"{name}.bias": (outputs,)}


def _conv(shapes: Shapes, name: str, inputs: int, outputs: int, side: int) -> None:
    shapes[f"{name}.conv.weight"] = (outputs, inputs, side, side)
    _batch_norm(shapes, f"{name}.bn", outputs)

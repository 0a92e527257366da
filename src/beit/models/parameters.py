"""Every parameter of every model in one table: its name, its shape and how it starts, without building it in any framework.

The table is `_table`, one row per parameter. Both frameworks draw their initial weights by it, and checkpoints are compared
with its shapes before a model exists. How parameters start:

| parameter                           | `paper` (recipes of microsoft/unilm)    | `reference` (transformers) |
|-------------------------------------|-----------------------------------------|----------------------------|
| matrices, convolutions              | normal, cut at ±1 std                   | normal                     |
| attention output, second MLP matrix | the same divided by √(2·(layer+1))      | normal                     |
| cls and mask token, positions       | normal, cut at ±1 std                   | 0                          |
| classifier of images                | normal, cut at ±1 std, times 0.001      | normal                     |
| biases, relative-position tables    | 0                                       | 0                          |
| layer and batch norms               | weight 1, bias 0                        | weight 1, bias 0           |
| layer scale                         | `layer_scale_init_value`                | `layer_scale_init_value`   |

The standard deviation is `initializer_range`. Loads neither torch nor jax.
"""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from beit.config import BeitConfig
from beit.core import geometry
from beit.core.errors import ConfigError

Shape = tuple[int, ...]


class Start(NamedTuple):
    """How one parameter starts.

    Attributes:
        kind: `constant`, `normal`, or `cut`: a normal cut at ± one standard deviation.
        value: the constant, or the standard deviation.
        scale: what the drawn numbers are multiplied by.
    """

    kind: Literal["constant", "normal", "cut"]
    value: float
    scale: float = 1.0


_TABLE = "relative_position_bias.relative_position_bias_table"
ZERO, ONE = Start("constant", 0.0), Start("constant", 1.0)
_IN_A_LAYER = re.compile(r"\blayer\.(\d+)\.(.+)")


class Row(NamedTuple):
    """One parameter, or one statistic of a batch norm.

    Attributes:
        name: as in `state_dict()` of a model with a head; `BeitModel` and `BeitBackbone` have it without `beit.`.
        shape: in PyTorch; Flax's follows by `checkpoints/flax_layout.py`.
        paper: how it starts under the scheme `paper`.
        reference: the same under `reference`.
        exists: whether this config and architecture have it.
    """

    name: str
    shape: Shape
    paper: Start
    reference: Start
    exists: bool = True


def shapes_of(config: BeitConfig, architecture: str) -> dict[str, Shape]:
    """The shape of every parameter and statistic of the class `architecture`, without the counters of batch norms.

    Args:
        config: the architecture's sizes and switches.
        architecture: a class, such as `BeitForImageClassification`.

    Returns:
        Shapes by the names of `state_dict()`, with `beit.` in front of the body's also where the class has none.
    """
    rows = _table(config, architecture)
    return {row.name: row.shape for row in rows if row.exists and not row.name.endswith("num_batches_tracked")}


class Starts:
    """How the parameters of a model of `config` start under `scheme`: `starts(name, number of dimensions)`.

    Raises:
        ConfigError: there is no such scheme.
    """

    def __init__(self, config: BeitConfig, scheme: str = "paper") -> None:
        if scheme not in ("paper", "reference"):
            raise ConfigError(f"Unknown initialisation {scheme!r}. Choose paper or reference.")
        self.config, self.scheme = config, scheme
        self._known: dict[str, Start] = {row.name: getattr(row, scheme) for row in _table(config)}

    def __call__(self, name: str, ndim: int) -> Start:
        """By the name in `state_dict()`. A parameter that a user's subclass adds starts as others of its kind do."""
        parts = name.split(".")
        # A body has its parameters without `beit.`, or under whatever a subclass calls it.
        for known in (name, *("beit." + ".".join(parts[i:]) for i in range(len(parts)))):
            if known in self._known:
                return self._known[known]
        if more := _IN_A_LAYER.search(name):
            rows = {row.name: row for row in _layer(self.config, int(more[1]), "")}
            if more[2] in rows:
                return getattr(rows[more[2]], self.scheme)
        last = name.rpartition(".")[2]
        if last.endswith("bias") or last in ("relative_position_bias_table", "running_mean", "num_batches_tracked"):
            return ZERO
        if last == "running_var" or (last == "weight" and ndim == 1):
            return ONE
        return Start("cut" if self.scheme == "paper" else "normal", self.config.initializer_range)


# --- the table -------------------------------------------------------------------------------------------------------
# fmt: off


def _table(config: BeitConfig, architecture: str = "") -> list[Row]:
    """All rows; `exists` is right for `architecture`."""
    width, heads, classes, tokens = config.hidden_size, config.num_attention_heads, config.num_labels, config.vocab_size
    distances, cut, normal = geometry.num_relative_distances(config.grid), _cut(config), _normal(config)
    backbone, predicts, classifies, segments = (architecture == f"Beit{kind}" for kind in (
        "Backbone", "ForMaskedImageModeling", "ForImageClassification", "ForSemanticSegmentation"))
    pools = classifies or architecture == "BeitModel"
    return [
        #   name                                          shape                         paper   reference  exists
        Row("beit.embeddings.cls_token",                  (1, 1, width),                cut,    ZERO),
        Row("beit.embeddings.mask_token",                 (1, 1, width),                cut,    ZERO,      config.use_mask_token),
        Row("beit.embeddings.position_embeddings",        (1, 1 + config.num_patches, width), cut, ZERO,   config.use_absolute_position_embeddings),
        Row("beit.embeddings.patch_embeddings.projection.weight", (width, config.num_channels, *geometry.pair(config.patch_size)), cut, normal),
        Row("beit.embeddings.patch_embeddings.projection.bias", (width,),               ZERO,   ZERO),
        Row(f"beit.encoder.{_TABLE}",                     (distances, heads),           ZERO,   ZERO,      config.use_shared_relative_position_bias),
        *(row for i in range(config.num_hidden_layers) for row in _layer(config, i, f"beit.encoder.layer.{i}.")),
        *_norm("beit.layernorm", width,                                                                    not backbone and not config.use_mean_pooling),
        *_norm("beit.pooler.layernorm", width,                                                             pools and config.use_mean_pooling),
        *_norm("layernorm", width,                                                                         predicts),
        Row("lm_head.weight",                        (tokens, width),                   cut,    normal,    predicts),
        Row("lm_head.bias",                          (tokens,),                         ZERO,   ZERO,      predicts),
        Row("classifier.weight",                     (classes, width),                  cut._replace(scale=0.001), normal, classifies and classes > 0),
        Row("classifier.bias",                       (classes,),                        ZERO,   ZERO,      classifies and classes > 0),
        *_only_if(segments or (backbone and config.add_fpn), _pyramid(config)),
        *_only_if(segments, _decode_head(config)),
        *_only_if(segments and config.use_auxiliary_head, _auxiliary_head(config)),
    ]


def _layer(config: BeitConfig, i: int, name: str) -> list[Row]:
    """Layer number i, from 0 on; `name` is put before each name."""
    width, inner = config.hidden_size, config.intermediate_size
    distances, heads = geometry.num_relative_distances(config.grid), config.num_attention_heads
    cut, normal, scale = _cut(config), _normal(config), Start("constant", config.layer_scale_init_value)
    # The stream grows by two branches a layer. Dividing them keeps its variance from growing with the depth.
    branch = cut._replace(scale=1 / math.sqrt(2 * (i + 1)))
    return [
        *_norm(f"{name}layernorm_before", width),
        *_norm(f"{name}layernorm_after", width),
        Row(f"{name}attention.attention.query.weight",    (width, width),               cut,    normal),
        Row(f"{name}attention.attention.query.bias",      (width,),                     ZERO,   ZERO),
        Row(f"{name}attention.attention.key.weight",      (width, width),               cut,    normal),
        Row(f"{name}attention.attention.value.weight",    (width, width),               cut,    normal),
        Row(f"{name}attention.attention.value.bias",      (width,),                     ZERO,   ZERO),
        Row(f"{name}attention.attention.{_TABLE}",        (distances, heads),           ZERO,   ZERO,      config.use_relative_position_bias),
        Row(f"{name}attention.output.dense.weight",       (width, width),               branch, normal),
        Row(f"{name}attention.output.dense.bias",         (width,),                     ZERO,   ZERO),
        Row(f"{name}intermediate.dense.weight",           (inner, width),               cut,    normal),
        Row(f"{name}intermediate.dense.bias",             (inner,),                     ZERO,   ZERO),
        Row(f"{name}output.dense.weight",                 (width, inner),               branch, normal),
        Row(f"{name}output.dense.bias",                   (width,),                     ZERO,   ZERO),
        Row(f"{name}lambda_1",                            (width,),                     scale,  scale,     config.layer_scale_init_value > 0),
        Row(f"{name}lambda_2",                            (width,),                     scale,  scale,     config.layer_scale_init_value > 0),
    ]


# fmt: on


def _pyramid(config: BeitConfig) -> list[Row]:
    width = config.hidden_size
    steps = [row for step in ("fpn1.0", "fpn1.3", "fpn2.0") for row in _convolution(config, step, width, width, 2)]
    return [*steps, *_batch_norm("fpn1.1", width)]


def _decode_head(config: BeitConfig) -> list[Row]:
    width, scales = config.hidden_size, len(config.pool_scales)
    modules = [(f"psp_modules.{i}.1", width, 1) for i in range(scales)]
    modules += [("bottleneck", width * (1 + scales), 3)]
    for i in range(3):
        modules += [(f"lateral_convs.{i}", width, 1), (f"fpn_convs.{i}", width, 3)]
    modules += [("fpn_bottleneck", 4 * width, 3)]
    rows = [row for name, *sizes in modules for row in _module(config, f"decode_head.{name}", width, *sizes)]
    return rows + _convolution(config, "decode_head.classifier", width, config.num_labels, 1)


def _auxiliary_head(config: BeitConfig) -> list[Row]:
    width, channels, count = config.hidden_size, config.auxiliary_channels, config.auxiliary_num_convs
    modules = [(f"convs.{i}", channels if i else width, 3) for i in range(count)]
    if config.auxiliary_concat_input:
        modules += [("conv_cat", width + (channels if count else width), 3)]
    rows = [row for name, *sizes in modules for row in _module(config, f"auxiliary_head.{name}", channels, *sizes)]
    return rows + _convolution(config, "auxiliary_head.classifier", channels, config.num_labels, 1)


# --- what rows are made of -------------------------------------------------------------------------------------------


def _module(config: BeitConfig, name: str, outputs: int, inputs: int, side: int) -> list[Row]:
    """A convolution without bias, and its batch norm."""
    return [_convolution(config, f"{name}.conv", inputs, outputs, side)[0], *_batch_norm(f"{name}.bn", outputs)]


def _convolution(config: BeitConfig, name: str, inputs: int, outputs: int, side: int) -> list[Row]:
    return [
        Row(f"{name}.weight", (outputs, inputs, side, side), _cut(config), _normal(config)),
        Row(f"{name}.bias", (outputs,), ZERO, ZERO),
    ]


def _norm(name: str, width: int, exists: bool = True) -> list[Row]:
    return [Row(f"{name}.weight", (width,), ONE, ONE, exists), Row(f"{name}.bias", (width,), ZERO, ZERO, exists)]


def _batch_norm(name: str, width: int) -> list[Row]:
    return [
        *_norm(name, width),
        Row(f"{name}.running_mean", (width,), ZERO, ZERO),
        Row(f"{name}.running_var", (width,), ONE, ONE),
        Row(f"{name}.num_batches_tracked", (), ZERO, ZERO),
    ]


def _cut(config: BeitConfig) -> Start:
    return Start("cut", config.initializer_range)


def _normal(config: BeitConfig) -> Start:
    return Start("normal", config.initializer_range)


def _only_if(exists: bool, rows: list[Row]) -> list[Row]:
    return [row._replace(exists=exists) for row in rows]

"""The one table of parameters against the real parameters of both frameworks, and how each of them starts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import beit
from beit import BeitConfig, ConfigError
from beit.models.parameters import Start, Starts, shapes_of

ARCHITECTURES = (
    "BeitModel",
    "BeitForMaskedImageModeling",
    "BeitForImageClassification",
    "BeitForSemanticSegmentation",
    "BeitBackbone",
)
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"use_mean_pooling": False, "layer_scale_init_value": 0, "use_auxiliary_head": False},
    "everything": {
        "use_mask_token": True,
        "use_absolute_position_embeddings": True,
        "use_relative_position_bias": True,
        "use_shared_relative_position_bias": True,
        "auxiliary_concat_input": True,
        "auxiliary_num_convs": 2,
        "add_fpn": True,
        "out_indices": [1, 2, 3, 4],
    },
    "rectangles": {
        "image_size": (16, 24),
        "patch_size": (8, 4),
        "num_channels": 1,
        "pool_scales": [1, 2],
        "num_labels": 7,
    },
    "no convolutions": {"auxiliary_num_convs": 0, "auxiliary_concat_input": True, "use_relative_position_bias": True},
}


def config_of(name: str, architecture: str) -> BeitConfig:
    values: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 16,
        "patch_size": 4,
        "vocab_size": 11,
        "num_labels": 3,
        "auxiliary_channels": 6,
    }
    values |= CONFIGS[name]
    if architecture == "BeitForSemanticSegmentation":
        values = {"segmentation_layers": [1, 2, 3, 4], **values}
    return BeitConfig(**values)


def build(config: BeitConfig, architecture: str) -> Any:
    with torch.device("meta"):
        return getattr(beit, architecture)(config)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_is_what_models_have(name: str, architecture: str) -> None:
    config = config_of(name, architecture)
    bare = architecture in ("BeitModel", "BeitBackbone")
    own = {
        (f"beit.{key}" if bare and not key.startswith("fpn") else key): tuple(tensor.shape)
        for key, tensor in build(config, architecture).state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert shapes_of(config, architecture) == own


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "BeitBackbone"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_is_what_flax_models_have(name: str, architecture: str) -> None:
    pytest.importorskip("flax")
    from beit.checkpoints import flax_layout, names

    config = config_of(name, architecture)
    model = getattr(beit, f"Flax{architecture}")(config, _do_init=False)
    outline = {}
    for path, leaf in flax_layout.flatten(model._variables(model._shapes())):
        key = flax_layout.name_of(path)
        outline[key] = np.empty(flax_layout.shape_of(key, path[-1], leaf.shape))
    own = {name: array.shape for name, array in names.to_state_dict(outline, "short")[0].items()}
    wanted = shapes_of(config, architecture)
    if architecture == "BeitForSemanticSegmentation":  # its heads see layers before this norm: Flax makes what it reads
        wanted = {name: shape for name, shape in wanted.items() if not name.startswith("beit.layernorm")}
    assert wanted == own


def test_zero_classes_have_no_classifier() -> None:
    config = config_of("plain", "BeitForImageClassification").replace(num_labels=0)
    assert not any(name.startswith("classifier") for name in shapes_of(config, "BeitForImageClassification"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scheme", ["paper", "reference"])
def test_every_parameter_has_its_row(architecture: str, scheme: str) -> None:
    """None starts by the rule for parameters that a user's subclass adds."""
    config = config_of("everything", architecture)
    starts = Starts(config, scheme)
    for name in build(config, architecture).state_dict():
        assert {name, f"beit.{name}"} & set(starts._known), name


def test_how_they_start() -> None:
    config = config_of("everything", "BeitForImageClassification").replace(
        initializer_range=0.05, layer_scale_init_value=0.3
    )
    cut, normal, zero, one = Start("cut", 0.05), Start("normal", 0.05), Start("constant", 0.0), Start("constant", 1.0)
    wanted = {
        "beit.embeddings.cls_token": (cut, zero),
        "beit.embeddings.mask_token": (cut, zero),
        "embeddings.position_embeddings": (cut, zero),  # of a `BeitModel`
        "beit.embeddings.patch_embeddings.projection.weight": (cut, normal),
        "beit.embeddings.patch_embeddings.projection.bias": (zero, zero),
        "beit.encoder.relative_position_bias.relative_position_bias_table": (zero, zero),
        "beit.encoder.layer.2.layernorm_before.weight": (one, one),
        "beit.encoder.layer.2.layernorm_before.bias": (zero, zero),
        "beit.encoder.layer.2.attention.attention.query.bias": (zero, zero),
        "beit.encoder.layer.2.attention.attention.key.weight": (cut, normal),
        "beit.encoder.layer.2.attention.attention.relative_position_bias.relative_position_bias_table": (zero, zero),
        "beit.encoder.layer.2.attention.output.dense.weight": (Start("cut", 0.05, 1 / math.sqrt(6)), normal),
        "encoder.layer.0.output.dense.weight": (Start("cut", 0.05, 1 / math.sqrt(2)), normal),
        "beit.encoder.layer.2.intermediate.dense.weight": (cut, normal),
        "beit.encoder.layer.2.lambda_1": (Start("constant", 0.3), Start("constant", 0.3)),
        "classifier.weight": (Start("cut", 0.05, 0.001), normal),
        "classifier.bias": (zero, zero),
        "lm_head.weight": (cut, normal),
        "decode_head.classifier.weight": (cut, normal),
        "auxiliary_head.classifier.weight": (cut, normal),
        "fpn1.1.weight": (one, one),
        "fpn1.1.running_mean": (zero, zero),
        "fpn1.1.running_var": (one, one),
        "fpn1.1.num_batches_tracked": (zero, zero),
    }
    paper, reference = Starts(config), Starts(config, "reference")
    for name, start in wanted.items():
        assert (paper(name, 9), reference(name, 9)) == start, name
    with pytest.raises(ConfigError, match="papr"):
        Starts(config, "papr")


def test_what_a_subclass_adds_starts_as_others_of_its_kind() -> None:
    config = config_of("everything", "BeitModel").replace(initializer_range=0.05, layer_scale_init_value=0.3)
    starts = Starts(config)
    assert starts("head.weight", 2) == starts("query", 3) == Start("cut", 0.05)
    assert starts("foo.classifier.weight", 2) == Start("cut", 0.05)
    assert starts("head.bias", 1) == starts("norm.bias", 1) == Start("constant", 0.0)
    assert starts("norm.weight", 1) == starts("bn.running_var", 1) == Start("constant", 1.0)
    assert starts("backbone.encoder.layer.1.attention.output.dense.weight", 2) == Start("cut", 0.05, 0.5)
    assert starts("decoder.layer.7.output.dense.weight", 2) == Start(
        "cut", 0.05, 0.25
    )  # as deep as no layer of the encoder
    assert starts("decoder.layer.7.lambda_2", 1) == Start("constant", 0.3)

"""Tensors by the names of the reference's models, and how to compare dicts of arrays."""

from __future__ import annotations

import numpy as np

WIDTH = 4
LAYER = "encoder.layer.{}."
# One layer of the reference, word for word (transformers 4.37.2, BeitForMaskedImageModeling().state_dict()).
REFERENCE_LAYER = [
    "attention.attention.query.weight",
    "attention.attention.query.bias",
    "attention.attention.key.weight",
    "attention.attention.value.weight",
    "attention.attention.value.bias",
    "attention.attention.relative_position_bias.relative_position_bias_table",
    "attention.output.dense.weight",
    "attention.output.dense.bias",
    "intermediate.dense.weight",
    "intermediate.dense.bias",
    "output.dense.weight",
    "output.dense.bias",
    "layernorm_before.weight",
    "layernorm_before.bias",
    "layernorm_after.weight",
    "layernorm_after.bias",
    "lambda_1",
    "lambda_2",
]
REFERENCE_BODY = [
    "embeddings.cls_token",
    "embeddings.mask_token",
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.projection.bias",
    "encoder.relative_position_bias.relative_position_bias_table",
    "layernorm.weight",
    "layernorm.bias",
    "pooler.layernorm.weight",
    "pooler.layernorm.bias",
]
REFERENCE_HEADS = [
    "layernorm.weight",
    "layernorm.bias",
    "lm_head.weight",
    "lm_head.bias",
    "classifier.weight",
    "classifier.bias",
]


def some_disk(layers: int = 2, bare: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = [*REFERENCE_BODY, *(LAYER.format(i) + name for i in range(layers) for name in REFERENCE_LAYER)]
    if not bare:
        names = [f"beit.{name}" for name in names] + REFERENCE_HEADS
    return {name: rng.standard_normal((WIDTH, 2)).astype("f4") for name in names}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes()
        assert a[name].shape == b[name].shape

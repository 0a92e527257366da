"""OpenMMLab: mmpretrain and mmsegmentation, and the `meta` that their runner saves beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beit.checkpoints.dialects.dialect import Dialect


def class_names(more: Mapping[str, Any]) -> list[str]:
    """Names of the classes in `meta`; none where there is no such thing.

    mmsegmentation 0.x, with which the authors trained their segmentation models too, has them under another key than 1.x.
    """
    meta = more.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    for names in (meta.get("CLASSES"), dataset.get("classes")):
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            return list(names)
    return []


def _pack(tensors: dict[str, Any], segments: bool, classes: tuple[str, ...]) -> dict[str, Any]:
    return {"state_dict": tensors, "meta": {"dataset_meta": {"classes": classes}}}


DIALECT = Dialect(
    name="openmmlab",
    project="OpenMMLab (mmpretrain, mmsegmentation)",
    sign=r"layers\.\d+\.attn\.q_bias",
    prefix="backbone.",
    encoder="backbone.layers.",
    layer="{i}.",
    table="""
        beit.embeddings.cls_token             backbone.cls_token
        beit.embeddings.mask_token            backbone.mask_token
        beit.embeddings.position              backbone.pos_embed
        beit.embeddings.patch.*               backbone.patch_embed.projection.*
        beit.encoder.relative_position.table  backbone.rel_pos_bias.relative_position_bias_table
        beit.layernorm.*                      backbone.ln1.*
        beit.pooler.layernorm.*               backbone.ln2.*
        layernorm.*                           backbone.ln1.*
        lm_head.*                             head.cls_head.*
        classifier.*                          head.fc.*
    """,
    layer_table="""
        norm1.*                       ln1.*
        norm2.*                       ln2.*
        attn.qkv.weight               attn.qkv.weight
        attn.q_bias                   attn.q_bias
        attn.v_bias                   attn.v_bias
        attn.relative_position.table  attn.relative_position_bias_table
        attn.proj.*                   attn.proj.*
        mlp.fc1.*                     ffn.layers.0.0.*
        mlp.fc2.*                     ffn.layers.1.*
        gamma1                        gamma_1
        gamma2                        gamma_2
    """,
    segmentation=(
        ("head.classifier.", "head.conv_seg."),
        ("fpn1.", "neck.upsample_4x."),
        ("fpn2.", "neck.upsample_2x."),
    ),
    pack=_pack,
)

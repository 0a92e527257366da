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
    sign=r"(?<!encoder\.)layers\.\d+\.attn\.q_bias",
    prefix="backbone.",
    encoder="backbone.layers.",
    layer="{i}.",
    table="""
        backbone.cls_token                                  beit.embeddings.cls_token
        backbone.mask_token                                 beit.embeddings.mask_token
        backbone.pos_embed                                  beit.embeddings.position_embeddings
        backbone.patch_embed.projection.*                   beit.embeddings.patch_embeddings.projection.*
        backbone.rel_pos_bias.relative_position_bias_table  beit.encoder.relative_position_bias.relative_position_bias_table
        backbone.ln1.*                                      beit.layernorm.*
        backbone.ln2.*                                      beit.pooler.layernorm.*
        backbone.ln1.*                                      layernorm.*
        head.cls_head.*                                     lm_head.*
        head.fc.*                                           classifier.*
    """,
    layer_table="""
        ln1.*                              layernorm_before.*
        ln2.*                              layernorm_after.*
        attn.qkv.weight                    attention.attention.{query,key,value}.weight
        attn.q_bias                        attention.attention.query.bias
        attn.v_bias                        attention.attention.value.bias
        attn.relative_position_bias_table  attention.attention.relative_position_bias.relative_position_bias_table
        attn.proj.*                        attention.output.dense.*
        ffn.layers.0.0.*                   intermediate.dense.*
        ffn.layers.1.*                     output.dense.*
        gamma_1                            lambda_1
        gamma_2                            lambda_2
    """,
    segmentation=(
        ("head.classifier.", "head.conv_seg."),
        ("fpn1.", "neck.upsample_4x."),
        ("fpn2.", "neck.upsample_2x."),
    ),
    pack=_pack,
)

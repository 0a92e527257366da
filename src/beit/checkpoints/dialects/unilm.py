"""The authors' repository (microsoft/unilm), whose names timm, DiT and data2vec took over."""

from __future__ import annotations

from typing import Any

from beit.checkpoints.dialects.dialect import Dialect

_HEADS = ("decode_head.", "auxiliary_head.")


def _pack(tensors: dict[str, Any], segments: bool, classes: tuple[str, ...]) -> dict[str, Any]:
    """As the authors saved: segmentation was trained with mmsegmentation 0.x, which puts the encoder under `backbone.`."""
    if not segments:
        return {"model": tensors}
    tensors = {name if name.startswith(_HEADS) else f"backbone.{name}": value for name, value in tensors.items()}
    return {"state_dict": tensors, "meta": {"CLASSES": classes}}


DIALECT = Dialect(
    name="unilm",
    project="the authors' repository (unilm) and timm",
    sign=r"blocks\.\d+\.attn\.q_bias",
    prefix="",
    encoder="blocks.",
    layer="{i}.",
    table="""
        beit.embeddings.cls_token             cls_token
        beit.embeddings.mask_token            mask_token
        beit.embeddings.position              pos_embed
        beit.embeddings.patch.*               patch_embed.proj.*
        beit.encoder.relative_position.table  rel_pos_bias.relative_position_bias_table
        beit.layernorm.*                      norm.*
        beit.pooler.layernorm.*               fc_norm.*
        layernorm.*                           norm.*
        lm_head.*                             lm_head.*
        classifier.*                          head.*
    """,
    layer_table="""
        norm1.*                       norm1.*
        norm2.*                       norm2.*
        attn.qkv.weight               attn.qkv.weight
        attn.q_bias                   attn.q_bias
        attn.v_bias                   attn.v_bias
        attn.relative_position.table  attn.relative_position_bias_table
        attn.proj.*                   attn.proj.*
        mlp.fc1.*                     mlp.fc1.*
        mlp.fc2.*                     mlp.fc2.*
        gamma1                        gamma_1
        gamma2                        gamma_2
    """,
    segmentation=(("head.classifier.", "head.conv_seg."),),
    pack=_pack,
)

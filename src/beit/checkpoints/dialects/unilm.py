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
        cls_token                                  beit.embeddings.cls_token
        mask_token                                 beit.embeddings.mask_token
        pos_embed                                  beit.embeddings.position_embeddings
        patch_embed.proj.*                         beit.embeddings.patch_embeddings.projection.*
        rel_pos_bias.relative_position_bias_table  beit.encoder.relative_position_bias.relative_position_bias_table
        norm.*                                     beit.layernorm.*
        fc_norm.*                                  beit.pooler.layernorm.*
        norm.*                                     layernorm.*
        lm_head.*                                  lm_head.*
        head.*                                     classifier.*
    """,
    layer_table="""
        norm1.*                            layernorm_before.*
        norm2.*                            layernorm_after.*
        attn.qkv.weight                    attention.attention.{query,key,value}.weight
        attn.q_bias                        attention.attention.query.bias
        attn.v_bias                        attention.attention.value.bias
        attn.relative_position_bias_table  attention.attention.relative_position_bias.relative_position_bias_table
        attn.proj.*                        attention.output.dense.*
        mlp.fc1.*                          intermediate.dense.*
        mlp.fc2.*                          output.dense.*
        gamma_1                            lambda_1
        gamma_2                            lambda_2
    """,
    segmentation=(("head.classifier.", "head.conv_seg."),),
    pack=_pack,
)

"""transformers 4.37.2, unchanged in 5.x. We write these names, so that users of transformers can read our folders."""

from beit.checkpoints.dialects.dialect import Dialect

DIALECT = Dialect(
    name="hf",
    project="transformers",
    sign=r"encoder\.layer\.\d+\.attention\.attention\.query\.weight",
    prefix="beit.",
    prefix_optional=True,
    encoder="beit.encoder.",
    layer="layer.{i}.",
    table="""
        beit.embeddings.cls_token             beit.embeddings.cls_token
        beit.embeddings.mask_token            beit.embeddings.mask_token
        beit.embeddings.position              beit.embeddings.position_embeddings
        beit.embeddings.patch.*               beit.embeddings.patch_embeddings.projection.*
        beit.encoder.relative_position.table  beit.encoder.relative_position_bias.relative_position_bias_table
        beit.layernorm.*                      beit.layernorm.*
        beit.pooler.layernorm.*               beit.pooler.layernorm.*
        layernorm.*                           layernorm.*
        lm_head.*                             lm_head.*
        classifier.*                          classifier.*
    """,
    layer_table="""
        norm1.*                       layernorm_before.*
        norm2.*                       layernorm_after.*
        attn.qkv.weight               attention.attention.query.weight,attention.attention.key.weight,attention.attention.value.weight
        attn.q_bias                   attention.attention.query.bias
        attn.v_bias                   attention.attention.value.bias
        attn.relative_position.table  attention.attention.relative_position_bias.relative_position_bias_table
        attn.proj.*                   attention.output.dense.*
        mlp.fc1.*                     intermediate.dense.*
        mlp.fc2.*                     output.dense.*
        gamma1                        lambda_1
        gamma2                        lambda_2
    """,
    layer_norm_eps=1e-12,
    mask_keeps_position=False,
    segments_with="half",
)

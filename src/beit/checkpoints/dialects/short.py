"""Names with one matrix for query, key and value: in memory those of the Flax models, and of PyTorch models in version 0.1.

`torch.save(model.state_dict())` of version 0.1 wrote them, and so did its training into `ema.pt`.
"""

from beit.checkpoints.dialects.dialect import Dialect

DIALECT = Dialect(
    name="short",
    project="beit 0.1, in memory",
    sign=r"encoder\.layers\.\d+\.attn\.q_bias",
    prefix="beit.",
    prefix_optional=True,
    encoder="beit.encoder.",
    layer="layers.{i}.",
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
        attn.qkv.weight               attention.attention.{query,key,value}.weight
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

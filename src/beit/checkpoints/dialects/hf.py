"""transformers 4.37.2, unchanged in 5.x: the names that our PyTorch models have and that we write."""

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
        beit.embeddings.cls_token
        beit.embeddings.mask_token
        beit.embeddings.position_embeddings
        beit.embeddings.patch_embeddings.projection.*
        beit.encoder.relative_position_bias.relative_position_bias_table
        beit.layernorm.*
        beit.pooler.layernorm.*
        layernorm.*
        lm_head.*
        classifier.*
    """,
    layer_table="""
        layernorm_before.*
        layernorm_after.*
        attention.attention.query.weight
        attention.attention.key.weight
        attention.attention.value.weight
        attention.attention.query.bias
        attention.attention.value.bias
        attention.attention.relative_position_bias.relative_position_bias_table
        attention.output.dense.*
        intermediate.dense.*
        output.dense.*
        lambda_1
        lambda_2
    """,
    layer_norm_eps=1e-12,
    mask_keeps_position=False,
    segments_with="half",
)

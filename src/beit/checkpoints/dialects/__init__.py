"""Whose names a file's tensors have, told by the names alone, and what is wrapped around them.

    transformers   [beit.|data2vec_vision.]encoder.layer.0.attention.attention.query.weight
    unilm, timm    [module.|backbone.|…]blocks.0.attn.qkv.weight
    OpenMMLab      [module.|backbone.]layers.0.attn.qkv.weight, with layers.0.ln1.weight
    beit 0.1       [beit.]encoder.layers.0.attn.qkv.weight, which it had in memory

A new dialect is one file here, like `openmmlab.py`, and one entry in `DIALECTS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from beit.checkpoints.dialects import hf, openmmlab, short, unilm
from beit.checkpoints.dialects.dialect import Dialect
from beit.core.errors import CheckpointError

# The first whose sign is found is taken.
DIALECTS: dict[str, Dialect] = {module.DIALECT.name: module.DIALECT for module in (hf, unilm, openmmlab, short)}

# How projects call the encoder within a larger model.
_ENCODER = re.compile(r"(beit|data2vec_vision|backbone|encoder)\.$")

# What other transformers have, to name them in the refusal.
_OTHERS = (
    (r".*blocks\.\d+\.attn\.qkv\.bias$", "a plain vision transformer in timm's names (ViT, DeiT, DINO or MAE)"),
    (r".*encoder\.layer\.\d+\.attention\.attention\.key\.bias$", "a plain vision transformer (ViT or DeiT)"),
    (r".*attn\.(inner_attn_ln|sub_ln)\.", "BEiT-3 or EVA"),
    (r".*encoder\.layers\.\d+\.self_attn\.", "BEiT-3, CLIP or a text model"),
    (r".*(decoder\.blocks\.group_|blocks\.group_1\.)", "DALL-E's tokenizer"),
    (r".*quantize\.(embedding|cluster_size)", "a VQ-KD tokenizer"),
)


class Recognised(NamedTuple):
    """Tensors whose dialect is known.

    Attributes:
        dialect: its name.
        tensors: name in the dialect's table → array, without what was wrapped around the names.
        wrapper: what stood before the names of the whole model, such as `module.`; "" for nothing.
    """

    dialect: str
    tensors: dict[str, Any]
    wrapper: str


def recognise(tensors: Mapping[str, Any], source: str) -> Recognised:
    """Find the dialect of `tensors` and take off the prefixes around its names (`module.` and the like).

    Raises:
        CheckpointError: no BEiT has such names, or the tensors are those of two models; names `source`.
    """
    for dialect in DIALECTS.values():
        found = map(dialect.pattern.match, tensors)
        prefixes = sorted({match["before"] for match in found if match}, key=len)
        if not prefixes:
            continue
        if dialect.prefix_optional and prefixes == ["", dialect.prefix]:
            prefixes = prefixes[1:]  # a backbone saved by transformers 5 has the prefix on some names only
        if len(prefixes) > 1:
            raise CheckpointError(
                f"{source} holds {len(prefixes)} models, under {', '.join(map(repr, prefixes[:4]))}. Save one of them alone: "
                "{name: tensor for name, tensor in state.items() if name.startswith(…)}."
            )
        renamed: dict[str, Any] = {}
        for name, array in tensors.items():
            short = _unwrapped(name, prefixes[0], dialect)
            if short in renamed:
                raise CheckpointError(f"{source} holds {short} twice, once as {name}: two models in one table.")
            renamed[short] = array
        return Recognised(dialect.name, renamed, _wrapper(prefixes[0], dialect))
    example = ", ".join(list(tensors)[:3]) or "none at all"
    known = next((what for sign, what in _OTHERS if any(re.match(sign, name) for name in tensors)), None)
    looks = f" These are names of {known}." if known else ""
    raise CheckpointError(
        f"{source} is no BEiT checkpoint: none of its tensors is a BEiT layer (it has {example}, …).{looks}"
    )


def _unwrapped(name: str, before: str, dialect: Dialect) -> str:
    """The name in the dialect's table of a tensor in a file whose encoder's names begin with `before`."""
    wrapper = _wrapper(before, dialect)
    if not name.startswith(before):
        return name.removeprefix(wrapper)
    rest = name[len(before) :]
    # Without an encoder's own name it is a bare encoder. Where the table's prefix is optional, that is a model without a
    # head, which keeps its short names.
    return rest if before == wrapper and dialect.prefix_optional else dialect.prefix + rest


def _wrapper(before: str, dialect: Dialect) -> str:
    """What wraps the whole model: `before` without the encoder's own name, which heads do not have."""
    own = dialect.prefix and before.endswith(dialect.prefix)
    return before.removesuffix(dialect.prefix) if own else _ENCODER.sub("", before)

"""Whose names a file's tensors have, by the tensors alone, and what is wrapped around the names.

transformers   [beit.|data2vec_vision.]encoder.layer.0.attention.attention.query.weight
unilm, timm    [module.|backbone.|…]blocks.0.attn.qkv.weight
OpenMMLab      [module.|backbone.]layers.0.attn.qkv.weight, with layers.0.ln1.weight
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from beit.checkpoints.names import Dialect
from beit.core.errors import CheckpointError

_SIGNS: tuple[tuple[Dialect, re.Pattern[str]], ...] = (
    ("hf", re.compile(r"(?P<before>.*?)encoder\.layer\.\d+\.attention\.attention\.query\.weight$")),
    ("unilm", re.compile(r"(?P<before>.*?)blocks\.\d+\.attn\.q_bias$")),
    ("openmmlab", re.compile(r"(?P<before>.*?)layers\.\d+\.attn\.q_bias$")),
)
# What other transformers have, to name them in the refusal.
_OTHERS = (
    (r".*blocks\.\d+\.attn\.qkv\.bias$", "a plain vision transformer in timm's names (ViT, DeiT, DINO or MAE)"),
    (r".*encoder\.layer\.\d+\.attention\.attention\.key\.bias$", "a plain vision transformer (ViT or DeiT)"),
    (r".*attn\.(inner_attn_ln|sub_ln)\.", "BEiT-3 or EVA"),
    (r".*encoder\.layers\.\d+\.self_attn\.", "BEiT-3, CLIP or a text model"),
    (r".*(decoder\.blocks\.group_|blocks\.group_1\.)", "DALL-E's tokenizer"),
    (r".*quantize\.(embedding|cluster_size)", "a VQ-KD tokenizer"),
)
NAMES: dict[Dialect, str] = {
    "hf": "transformers",
    "unilm": "the authors' repository (unilm) and timm",
    "openmmlab": "OpenMMLab (mmpretrain, mmsegmentation)",
}


class Found(NamedTuple):
    """What names say.

    Attributes:
        dialect: whose names.
        tensors: under the names of the table in `weights.py`.
    """

    dialect: Dialect
    tensors: dict[str, np.ndarray]


def recognise(tensors: Mapping[str, np.ndarray], source: str) -> Found:
    """Whose names these are, and the tensors without what is wrapped around the names.

    Raises:
        CheckpointError: they are no BEiT's.
    """
    for dialect, sign in _SIGNS:
        prefixes = sorted({match["before"] for match in map(sign.match, tensors) if match}, key=len)
        if not prefixes:
            continue
        if prefixes == ["", "beit."]:  # a backbone saved by transformers 5 has the prefix on some names only
            prefixes = prefixes[1:]
        if len(prefixes) > 1:
            raise CheckpointError(
                f"{source} holds {len(prefixes)} models, under {', '.join(map(repr, prefixes[:4]))}. Save one of them alone: "
                "{name: tensor for name, tensor in state.items() if name.startswith(…)}."
            )
        # The encoder's prefix; heads have what is left of it without the encoder's own name.
        before = prefixes[0]
        common = re.sub(r"(beit|data2vec_vision|backbone|encoder)\.$", "", before)
        own = {"hf": "beit.", "unilm": "", "openmmlab": "backbone."}[dialect]
        renamed: dict[str, np.ndarray] = {}
        for name, array in tensors.items():
            short = _renamed(name, before, common, own)
            if short in renamed:
                raise CheckpointError(f"{source} holds {short} twice, once as {name}. It is two models in one table.")
            renamed[short] = array
        return Found(dialect, renamed)
    example = ", ".join(list(tensors)[:3]) or "none at all"
    known = next((what for sign, what in _OTHERS if any(re.match(sign, name) for name in tensors)), None)
    looks = f" These are names of {known}." if known else ""
    raise CheckpointError(
        f"{source} is no BEiT checkpoint: none of its tensors is a BEiT layer (it has {example}, …).{looks}"
    )


def _renamed(name: str, before: str, common: str, own: str) -> str:
    if before == "":  # a bare encoder: transformers' are told by their names, OpenMMLab's are the backbone alone
        return name if own == "beit." else own + name
    if name.startswith(before):
        # A prefix that only wraps (module.) is no encoder's own name: what follows may be a head's.
        rest = name[len(before) :]
        return rest if before == common and own != "backbone." else own + rest
    return name.removeprefix(common)

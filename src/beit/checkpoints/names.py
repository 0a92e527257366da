"""THE table of weight names: each dialect on disk ↔ the names in memory, both ways, on numpy arrays.

In memory names are short, and query, key and value are one matrix, which is one matrix product instead of three. On disk:

    hf         transformers 4.37.2, unchanged in 5.x; what we write, so that its users can read our folders
    unilm      the authors' repository, and timm, which took the names over
    openmmlab  mmpretrain and mmsegmentation

    memory                                   hf                                                               unilm
    beit.encoder.layers.3.attn.qkv.weight    beit.encoder.layer.3.attention.attention.{query,key,value}.weight  blocks.3.attn.qkv.weight
    beit.encoder.layers.3.norm1.bias         beit.encoder.layer.3.layernorm_before.bias                         blocks.3.norm1.bias

Where the disk has several tensors, they are stacked along axis 0. In the dialect hf the bare model's folder has no `beit.`
prefix; in memory it has none in `BeitModel` and one in the models with heads. Here it is always written with the prefix.
Files wrap names further (`module.`, `data2vec_vision.`, …): `checkpoints/dialects.py` takes that off first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from beit.core.errors import CheckpointError

Dialect = Literal["hf", "unilm", "openmmlab"]


class Row(NamedTuple):
    """One line of the table: the name in memory and in each dialect; `{i}` stands for a layer's number, "" for no place."""

    memory: str
    hf: tuple[str, ...]
    unilm: tuple[str, ...]
    openmmlab: tuple[str, ...]


def _rows() -> list[Row]:
    # memory, hf, unilm, openmmlab; a name that ends in * stands for its weight and its bias.
    body = """
        beit.embeddings.cls_token          beit.embeddings.cls_token                 cls_token           backbone.cls_token
        beit.embeddings.mask_token         beit.embeddings.mask_token                mask_token          backbone.mask_token
        beit.embeddings.position           beit.embeddings.position_embeddings       pos_embed           backbone.pos_embed
        beit.embeddings.patch.*            beit.embeddings.patch_embeddings.projection.*  patch_embed.proj.*  backbone.patch_embed.projection.*
        beit.encoder.relative_position.table  beit.encoder.relative_position_bias.relative_position_bias_table  rel_pos_bias.relative_position_bias_table  backbone.rel_pos_bias.relative_position_bias_table
        beit.layernorm.*                   beit.layernorm.*                          norm.*              backbone.ln1.*
        beit.pooler.layernorm.*            beit.pooler.layernorm.*                   fc_norm.*           backbone.ln2.*
        layernorm.*                        layernorm.*                               norm.*              backbone.ln1.*
        lm_head.*                          lm_head.*                                 lm_head.*           head.cls_head.*
        classifier.*                       classifier.*                              head.*              head.fc.*
    """
    layer = """
        norm1.*                        layernorm_before.*          norm1.*                            ln1.*
        norm2.*                        layernorm_after.*           norm2.*                            ln2.*
        attn.qkv.weight                attention.attention.query.weight,attention.attention.key.weight,attention.attention.value.weight  attn.qkv.weight  attn.qkv.weight
        attn.q_bias                    attention.attention.query.bias  attn.q_bias                    attn.q_bias
        attn.v_bias                    attention.attention.value.bias  attn.v_bias                    attn.v_bias
        attn.relative_position.table   attention.attention.relative_position_bias.relative_position_bias_table  attn.relative_position_bias_table  attn.relative_position_bias_table
        attn.proj.*                    attention.output.dense.*    attn.proj.*                        attn.proj.*
        mlp.fc1.*                      intermediate.dense.*        mlp.fc1.*                          ffn.layers.0.0.*
        mlp.fc2.*                      output.dense.*              mlp.fc2.*                          ffn.layers.1.*
        gamma1                         lambda_1                    gamma_1                            gamma_1
        gamma2                         lambda_2                    gamma_2                            gamma_2
    """
    places = ("beit.encoder.layers.{i}.", "beit.encoder.layer.{i}.", "blocks.{i}.", "backbone.layers.{i}.")
    rows = []
    for text, prefixes in ((body, ("",) * 4), (layer, places)):
        for line in text.strip().splitlines():
            cells = [
                [prefix + name for name in cell.split(",")] for prefix, cell in zip(prefixes, line.split(), strict=True)
            ]
            for kind in ("weight", "bias") if cells[0][0].endswith("*") else ("",):
                memory, *disk = (tuple(name.replace("*", kind) for name in cell) for cell in cells)
                rows.append(Row(memory[0], *disk))
    return rows


TABLE = _rows()
# Computed from the grid, not learned; many files hold it all the same.
_DERIVED = re.compile(r"(.*\.)?relative_position_index$")
# The segmentation heads keep transformers' names in memory, and have no prefix in any model.
SEGMENTATION = re.compile(r"(decode_head|auxiliary_head|fpn\d)\.")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# Of segmentation, (memory, disk) by dialect: their classifiers and pyramids are called otherwise, all else alike.
_SEGMENTATION_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "hf": (),
    "unilm": (("head.classifier.", "head.conv_seg."),),
    "openmmlab": (
        ("head.classifier.", "head.conv_seg."),
        ("fpn1.", "neck.upsample_4x."),
        ("fpn2.", "neck.upsample_2x."),
    ),
}

_BY_DISK: dict[str, dict[str, list[tuple[Row, int]]]] = {dialect: {} for dialect in ("hf", "unilm", "openmmlab")}
for _row in TABLE:
    for _dialect, _names in _BY_DISK.items():
        for _part, _name in enumerate(getattr(_row, _dialect)):
            _names.setdefault(_name, []).append((_row, _part))
_BY_MEMORY = {row.memory: row for row in TABLE}


def _lookup_key(name: str) -> tuple[str, str]:
    """`beit.encoder.layer.3.x` → (`beit.encoder.layer.{i}.x`, `3`)."""
    found = _NUMBER.search(name)
    return (_NUMBER.sub("{i}", name, count=1), found.group()) if found else (name, "")


def prefixed(name: str, prefix: str) -> str:
    """A name with the prefix that bare models leave out."""
    return name if SEGMENTATION.match(name) else prefix + name


def is_bare(names: Iterable[str]) -> bool:
    """Whether these names are those of a bare model, without the `beit.` prefix."""
    return not any(name.startswith("beit.") for name in names)


def _segmentation_name(name: str, dialect: Dialect, to_state_dict: bool) -> str:
    """A name of pyramid or segmentation head in the other of the two: memory and the dialect."""
    for memory, disk in _SEGMENTATION_NAMES[dialect]:
        old, new = (disk, memory) if to_state_dict else (memory, disk)
        at = name.find(old)
        if at == 0 or (at > 0 and old.startswith("head.")):
            return name[:at] + new + name[at + len(old) :]
    return name


def to_state_dict(disk: Mapping[str, np.ndarray], dialect: Dialect = "hf") -> tuple[dict[str, np.ndarray], list[str]]:
    """A dialect → memory names.

    Returns:
        The tensors by memory name, with the `beit.` prefix; and the disk names that the table does not know.

    Raises:
        CheckpointError: of several tensors that make one in memory, some are missing or do not fit.
    """
    bare = dialect == "hf" and is_bare(disk)
    parts: dict[str, dict[int, np.ndarray]] = {}
    rows: dict[str, Row] = {}
    memory: dict[str, np.ndarray] = {}
    unknown: list[str] = []
    # Two norms have one name where the authors have one: it is the head's where there is a head for tokens, as transformers
    # has it, and the encoder's elsewhere.
    predicts = any(name.startswith(("lm_head.", "head.cls_head.")) for name in disk)
    for name, array in disk.items():
        if _DERIVED.match(name):
            continue
        if array.dtype.kind != "f" and not name.endswith("num_batches_tracked"):
            raise CheckpointError(
                f"{name} is {array.dtype}; wanted floating-point numbers. A quantised model must be brought back to them first."
            )
        of_head = _segmentation_name(name, dialect, to_state_dict=True)
        if SEGMENTATION.match(of_head):
            memory[of_head] = array
            continue
        # A backbone saved by transformers 5 has the prefix on some names only; no head has names like these.
        lacks = bare or (dialect == "hf" and name.startswith(("embeddings.", "encoder.", "pooler.")))
        key, number = _lookup_key("beit." + name if lacks else name)
        if key not in _BY_DISK[dialect]:
            unknown.append(name)
            continue
        row, part = _BY_DISK[dialect][key][-1 if predicts else 0]
        target = row.memory.replace("{i}", number)
        rows[target] = row
        parts.setdefault(target, {})[part] = array
    for target, arrays in parts.items():
        names = disk_names(target, dialect)
        if len(arrays) < len(names):
            lost = [names[i] for i in range(len(names)) if i not in arrays]
            raise CheckpointError(f"{target} cannot be built: the file lacks {', '.join(lost)}. It is incomplete.")
        ordered = [arrays[i] for i in range(len(names))]
        try:
            memory[target] = ordered[0] if len(ordered) == 1 else np.concatenate(ordered)
        except ValueError as error:
            shapes = ", ".join(str(array.shape) for array in ordered)
            raise CheckpointError(f"{target} cannot be built: its parts have shapes {shapes}.") from error
    return memory, unknown


def disk_names(memory_name: str, dialect: Dialect = "hf") -> tuple[str, ...]:
    """The disk names of one tensor, given by its memory name with the `beit.` prefix.

    Raises:
        CheckpointError: the name is not in the table.
    """
    if SEGMENTATION.match(memory_name):
        return (_segmentation_name(memory_name, dialect, to_state_dict=False),)
    key, number = _lookup_key(memory_name)
    row = _BY_MEMORY.get(key)
    if row is None:
        raise CheckpointError(f"{memory_name} has no name on disk; add it to the table in beit/weights.py.")
    return tuple(name.replace("{i}", number) for name in getattr(row, dialect))


def to_disk(memory: Mapping[str, np.ndarray], dialect: Dialect = "hf") -> dict[str, np.ndarray]:
    """Memory names → a dialect; the exact inverse of `to_state_dict`. A bare model's names come without prefix in hf.

    Raises:
        CheckpointError: a name is not in the table, or two tensors have one place there (two last norms).
    """
    prefix = "beit." if is_bare(memory) else ""
    disk: dict[str, np.ndarray] = {}
    for name, array in memory.items():
        targets = disk_names(prefixed(name, prefix), dialect)
        pieces = [array] if len(targets) == 1 else np.split(array, len(targets))
        for target, piece in zip(targets, pieces, strict=True):
            target = target.removeprefix(prefix) if dialect == "hf" else target
            if target in disk:
                raise CheckpointError(
                    f"This model has two norms at its end, and the {dialect} layout has one place for them ({target}). "
                    "Convert it to hf or flax."
                )
            disk[target] = piece
    return disk

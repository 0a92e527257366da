"""THE table of weight names: the dialect on disk ↔ the names in memory, both ways, on numpy arrays.

On disk stand the reference's names (transformers 4.37.2, unchanged in 5.x), so that its users can read our folders.
In memory names are short, and query, key and value are one matrix, which is one matrix product instead of three.

    disk                                                             memory
    beit.encoder.layer.3.attention.attention.{query,key,value}.weight  beit.encoder.layers.3.attn.qkv.weight
    beit.encoder.layer.3.layernorm_before.bias                         beit.encoder.layers.3.norm1.bias

A row is (memory, disk); where the disk has several tensors, they are stacked along axis 0. The bare model's folder has
no `beit.` prefix on disk; in memory it has none in `BeitModel` and one in the models with heads. Here it is always
written with the prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from beit.errors import CheckpointError


class Row(NamedTuple):
    """One line of the table; `{i}` stands for a layer's number."""

    memory: str
    disk: tuple[str, ...]


def _rows() -> list[Row]:
    body = [
        ("embeddings.cls_token", "embeddings.cls_token"),
        ("embeddings.mask_token", "embeddings.mask_token"),
        ("embeddings.position", "embeddings.position_embeddings"),
        ("embeddings.patch.weight", "embeddings.patch_embeddings.projection.weight"),
        ("embeddings.patch.bias", "embeddings.patch_embeddings.projection.bias"),
        ("encoder.relative_position.table", "encoder.relative_position_bias.relative_position_bias_table"),
    ]
    for kind in ("weight", "bias"):
        body += [(f"layernorm.{kind}", f"layernorm.{kind}"), (f"pooler.layernorm.{kind}",) * 2]
    layer: list[tuple[str, str | tuple[str, ...]]] = [
        ("attn.qkv.weight", tuple(f"attention.attention.{part}.weight" for part in ("query", "key", "value"))),
        ("attn.q_bias", "attention.attention.query.bias"),
        ("attn.v_bias", "attention.attention.value.bias"),
        ("attn.relative_position.table", "attention.attention.relative_position_bias.relative_position_bias_table"),
        ("gamma1", "lambda_1"),
        ("gamma2", "lambda_2"),
    ]
    for ours, theirs in (
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("attn.proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ):
        layer += [(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in ("weight", "bias")]
    rows = [Row(f"beit.{ours}", (f"beit.{theirs}",)) for ours, theirs in body]
    for ours, disk in layer:
        names = (disk,) if isinstance(disk, str) else disk
        rows.append(
            Row(f"beit.encoder.layers.{{i}}.{ours}", tuple(f"beit.encoder.layer.{{i}}.{name}" for name in names))
        )
    # Heads have the same names on both sides.
    rows += [Row(f"{head}.{kind}", (f"{head}.{kind}",)) for head in HEADS for kind in ("weight", "bias")]
    return rows


HEADS = ("layernorm", "lm_head", "classifier")
TABLE = _rows()
# Computed from the grid, not learned; older files hold it all the same.
_DERIVED = re.compile(r"(.*\.)?relative_position_index$")
# The segmentation heads keep the reference's names in memory, and have no prefix in any model.
_SEGMENTATION = re.compile(r"(decode_head|auxiliary_head|fpn\d)\.")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")

_BY_DISK = {name: (row, part) for row in TABLE for part, name in enumerate(row.disk)}
_BY_MEMORY = {row.memory: row for row in TABLE}


def _lookup_key(name: str) -> tuple[str, str]:
    """`beit.encoder.layer.3.x` → (`beit.encoder.layer.{i}.x`, `3`)."""
    found = _NUMBER.search(name)
    return (_NUMBER.sub("{i}", name, count=1), found.group()) if found else (name, "")


def _prefixed(name: str, prefix: str) -> str:
    """A name with the prefix that bare models leave out."""
    return name if _SEGMENTATION.match(name) else prefix + name


def is_bare(names: Iterable[str]) -> bool:
    """Whether these names are those of a bare model, without the `beit.` prefix."""
    return not any(name.startswith("beit.") for name in names)


def to_memory(disk: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Disk dialect → memory names.

    Returns:
        The tensors by memory name, with the `beit.` prefix; and the disk names that the table does not know.

    Raises:
        CheckpointError: of several tensors that make one in memory, some are missing or do not fit.
    """
    bare = is_bare(disk)
    parts: dict[str, dict[int, np.ndarray]] = {}
    rows: dict[str, Row] = {}
    memory: dict[str, np.ndarray] = {}
    unknown: list[str] = []
    for name, array in disk.items():
        if _DERIVED.match(name):
            continue
        if _SEGMENTATION.match(name):
            memory[name] = array
            continue
        # A backbone saved by transformers 5 has the prefix on some names only; no head has names like these.
        lacks = bare or name.startswith(("embeddings.", "encoder.", "pooler."))
        key, number = _lookup_key("beit." + name if lacks else name)
        if key not in _BY_DISK:
            unknown.append(name)
            continue
        row, part = _BY_DISK[key]
        target = row.memory.replace("{i}", number)
        rows[target] = row
        parts.setdefault(target, {})[part] = array
    for target, arrays in parts.items():
        row = rows[target]
        if len(arrays) < len(row.disk):
            lost = [row.disk[i] for i in range(len(row.disk)) if i not in arrays]
            raise CheckpointError(f"{target} cannot be built: the file lacks {', '.join(lost)}. It is incomplete.")
        ordered = [arrays[i] for i in range(len(row.disk))]
        try:
            memory[target] = ordered[0] if len(ordered) == 1 else np.concatenate(ordered)
        except ValueError as error:
            shapes = ", ".join(str(array.shape) for array in ordered)
            raise CheckpointError(f"{target} cannot be built: its parts have shapes {shapes}.") from error
    return memory, unknown


def disk_names(memory_name: str) -> tuple[str, ...]:
    """The disk names of one tensor, given by its memory name with the `beit.` prefix.

    Raises:
        CheckpointError: the name is not in the table.
    """
    if _SEGMENTATION.match(memory_name):
        return (memory_name,)
    key, number = _lookup_key(memory_name)
    row = _BY_MEMORY.get(key)
    if row is None:
        raise CheckpointError(f"{memory_name} has no name on disk; add it to the table in beit/weights.py.")
    return tuple(name.replace("{i}", number) for name in row.disk)


def to_disk(memory: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Memory names → disk dialect; the exact inverse of `to_memory`. A bare model's names come without prefix.

    Raises:
        CheckpointError: a name is not in the table.
    """
    prefix = "beit." if is_bare(memory) else ""
    disk: dict[str, np.ndarray] = {}
    for name, array in memory.items():
        targets = disk_names(_prefixed(name, prefix))
        pieces = [array] if len(targets) == 1 else np.split(array, len(targets))
        disk.update({target.removeprefix(prefix): piece for target, piece in zip(targets, pieces, strict=True)})
    return disk


# --- fitting a file to a model -----------------------------------------------------------------------------------

_SHARED_TABLE = "beit.encoder.relative_position.table"
_OWN_TABLE = re.compile(r"beit\.encoder\.layers\.\d+\.attn\.relative_position\.table$")


class LoadReport:
    """What loading did beside copying tensors, in plain words.

    Attributes:
        new: (disk names, why) of tensors that the file lacks and that were newly initialised.
        unused: (disk names, why) of tensors in the file that this model has no place for.
        copied: plain sentences on tensors that were derived from others.
    """

    def __init__(self) -> None:
        self.new: list[tuple[str, str]] = []
        self.unused: list[tuple[str, str]] = []
        self.copied: list[str] = []

    @property
    def needs_training(self) -> bool:
        """Whether a head starts from random numbers, so that its answers mean nothing before training."""
        return any(name.startswith(("classifier", "lm_head", "decode_head", "fpn")) for name, _ in self.new)

    def __str__(self) -> str:
        lines = [f"{name}: not in the file, newly initialised because {why}" for name, why in self.new]
        lines += [f"{name}: in the file, not used because {why}" for name, why in self.unused]
        return "\n".join(lines + self.copied) or "every tensor of the file has its place"

    def __bool__(self) -> bool:
        return bool(self.new or self.unused or self.copied)


def _why_new(module: str, file_has: set[str]) -> str | None:
    """Why a module may be missing in a sound file; None when it may not."""
    self_supervised = "lm_head" in file_has
    if module == "pooler.layernorm":
        return (
            "this checkpoint is self-supervised" if self_supervised else "this checkpoint was saved without a pooler"
        ) + ", and pooling comes with fine-tuning"
    if module == "classifier":
        return "this checkpoint has no classifier; train it before use"
    if module == "final layernorm":
        return "this checkpoint pools by the mean and has no final norm"
    if module in ("lm_head", "layernorm"):
        return "this checkpoint has no head for masked image modelling; train it before use"
    if module == "auxiliary_head" and "decode_head" in file_has:
        return "this checkpoint has no auxiliary head, which only training uses"
    if module.startswith("fpn") and module not in file_has:
        return "this checkpoint has no feature pyramid; train it before use"
    if module in ("decode_head", "auxiliary_head") and module not in file_has:
        return "this checkpoint has no segmentation head; train it before use"
    if module == "embeddings.mask_token":
        return "this checkpoint was saved without a mask token"
    if module.endswith("relative_position_bias"):
        return "this checkpoint has no relative-position bias there; it starts at zero"
    return None


def _module(memory_name: str) -> str:
    """`beit.pooler.layernorm.weight` → `pooler.layernorm`, in the words of the disk; a segmentation head as a whole."""
    if memory_name.startswith("beit.layernorm."):  # not the head's, which has the same name without prefix
        return "final layernorm"
    if _SEGMENTATION.match(memory_name):
        return memory_name.partition(".")[0]
    disk = disk_names(memory_name)[0].removeprefix("beit.")
    return disk if disk.endswith("_token") else disk.rpartition(".")[0]


def _group(names: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_module(name), []).append(name)
    return groups


def fit(
    disk: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    model: str,
    ignore_mismatched_sizes: bool = False,
) -> tuple[dict[str, np.ndarray], LoadReport]:
    """Choose from the tensors of a file what a model wants, under its names in memory.

    A file whose relative-position table is shared fits a model with one table a layer: the table is copied into each
    (BEiT, section 2.5: fine-tuning starts so).

    Args:
        disk: tensors of the file in the disk dialect.
        wanted: memory name → shape of every parameter and statistic of the model; a bare model's come without `beit.`.
        model: the model's class name, for messages.
        ignore_mismatched_sizes: initialise tensors of another shape anew instead of raising.

    Returns:
        Tensors by the model's own names (those that are missing are to be initialised), and the report.

    Raises:
        CheckpointError: the file is of another architecture or incomplete; or shapes differ.
    """
    memory, unknown = to_memory(disk)
    bare = not any(name.startswith("beit.") for name in wanted)
    prefix = "beit." if bare else ""
    report = LoadReport()
    if not any(name.startswith("beit.encoder.layers.") for name in memory):
        example = ", ".join(list(disk)[:3]) or "none at all"
        raise CheckpointError(f"This is no BEiT checkpoint: none of its tensors is a BEiT layer (it has {example}, …).")

    own = [name for name in wanted if _OWN_TABLE.match(prefix + name)]
    if own and _SHARED_TABLE in memory and prefix + own[0] not in memory:
        shared = memory.pop(_SHARED_TABLE)
        memory.update({prefix + name: shared.copy() for name in own})
        report.copied.append(f"The shared relative-position table was copied into each of the {len(own)} layers.")

    tensors, missing, mismatched = {}, [], []
    for name, shape in wanted.items():
        full = _prefixed(name, prefix)
        array = memory.pop(full, None)
        if array is None:
            missing.append(full)
        elif tuple(array.shape) != tuple(shape):
            mismatched.append((full, tuple(array.shape), tuple(shape)))
        else:
            tensors[name] = array

    if mismatched and not ignore_mismatched_sizes:
        lines = "; ".join(f"{_module(name)}: file {got}, model {want}" for name, got, want in mismatched[:4])
        more = f" and {len(mismatched) - 4} more" if len(mismatched) > 4 else ""
        raise CheckpointError(
            f"Shapes of the file and of {model} differ: {lines}{more}. Give the model the settings of the file, or "
            "pass ignore_mismatched_sizes=True to start these tensors anew (right for a classifier of other classes)."
        )
    for name, got, want in mismatched:
        report.new.append((_module(name), f"its shape is {got} in the file and {want} in the model"))

    file_has = {name.split(".")[0] for name in disk}
    broken = []
    # Batch norms count their batches, which nothing here reads; older files do without.
    for module, names in _group([name for name in missing if not name.endswith("num_batches_tracked")]).items():
        why = _why_new(module, file_has)
        if why is None:
            broken += names
        else:
            report.new.append((module, why))
    if broken:
        raise CheckpointError(
            f"The file lacks {len(broken)} tensors of {model}, among them {', '.join(broken[:3])}. It is incomplete, or "
            "its config.json does not belong to it."
        )
    for module in _group(list(memory)):
        report.unused.append((module, f"{model} has no such part"))
    if unknown:
        listed = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
        report.unused.append((listed, "no BEiT model has tensors of this name"))
    return tensors, report

"""Names on disk ↔ names of our parameters, both ways, on numpy arrays. The tables are in `dialects/`, one file per project.

    parameter                                hf                                                               unilm
    beit.encoder.layers.3.attn.qkv.weight    beit.encoder.layer.3.attention.attention.{query,key,value}.weight  blocks.3.attn.qkv.weight
    beit.encoder.layers.3.norm1.bias         beit.encoder.layer.3.layernorm_before.bias                         blocks.3.norm1.bias

Parameter names are short, and query, key and value are one matrix: one matrix product instead of three. Where the disk has
several tensors, we stack them along axis 0. `BeitModel` itself has no `beit.` prefix, nor has its folder; models with heads
have it in both places. Here a parameter name always has it.

Files wrap names further (`module.`, `data2vec_vision.`, …): `dialects.recognise` removes that first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from beit.checkpoints.dialects import DIALECTS
from beit.checkpoints.dialects.dialect import Dialect
from beit.core.errors import CheckpointError

# The segmentation heads keep transformers' names, and have no prefix in any model.
SEGMENTATION = re.compile(r"(decode_head|auxiliary_head|fpn\d)\.")

# Computed from the grid, not learned; many files hold it all the same.
_DERIVED = re.compile(r"(.*\.)?relative_position_index$")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# Parts of a bare encoder in hf; no head has names like these.
_BARE = ("embeddings.", "encoder.", "pooler.")


def to_state_dict(disk: Mapping[str, np.ndarray], dialect: str = "hf") -> tuple[dict[str, np.ndarray], list[str]]:
    """Translate names on disk to parameter names.

    Returns:
        Parameter name, with the `beit.` prefix → array; and the names on disk that the table does not have. Arrays are not
        copied, except those that are stacked.

    Raises:
        CheckpointError: of several tensors that make one parameter, some are missing or have other shapes; or a tensor is
            not of floating-point numbers.
    """
    table = DIALECTS[dialect]
    bare = table.prefix_optional and is_bare(disk)
    # The authors and OpenMMLab call the encoder's last norm and the norm of the head for tokens alike. Such a tensor is the
    # head's where there is that head, as in transformers, else the encoder's.
    which = -1 if any(name.startswith(table.token_head) for name in disk) else 0
    parts: dict[str, dict[int, np.ndarray]] = {}
    state_dict: dict[str, np.ndarray] = {}
    unknown: list[str] = []
    for name, array in disk.items():
        if _DERIVED.match(name):
            continue
        if array.dtype.kind != "f" and not name.endswith("num_batches_tracked"):
            raise CheckpointError(
                f"{name} is {array.dtype}; wanted floating-point numbers. A quantised model must be brought back to them first."
            )
        of_head = _segmentation_name(name, table, ours=True)
        if SEGMENTATION.match(of_head):
            state_dict[of_head] = array
            continue
        # A backbone saved by transformers 5 has the prefix on some names only.
        lacks_prefix = bare or (table.prefix_optional and name.startswith(_BARE))
        key, number = _lookup_key(table.prefix + name if lacks_prefix else name)
        if key not in table.by_disk:
            unknown.append(name)
            continue
        ours, part = table.by_disk[key][which]
        parts.setdefault(ours.replace("{i}", number), {})[part] = array
    for name, arrays in parts.items():
        state_dict[name] = _stacked(name, arrays, disk_names(name, dialect))
    return state_dict, unknown


def _stacked(name: str, arrays: Mapping[int, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """One parameter from the tensors on disk that make it up, by their places in `names`."""
    missing = [disk for part, disk in enumerate(names) if part not in arrays]
    if missing:
        raise CheckpointError(f"{name} cannot be built: the file lacks {', '.join(missing)}. It is incomplete.")
    ordered = [arrays[part] for part in range(len(names))]
    if len(ordered) == 1:
        return ordered[0]
    try:
        return np.concatenate(ordered)
    except ValueError as error:
        shapes = ", ".join(str(array.shape) for array in ordered)
        raise CheckpointError(f"{name} cannot be built: its parts have shapes {shapes}.") from error


def to_disk(state_dict: Mapping[str, np.ndarray], dialect: str = "hf") -> dict[str, np.ndarray]:
    """Translate parameter names to names on disk: the exact inverse of `to_state_dict`.

    A bare model has names without prefix in hf.

    Raises:
        CheckpointError: a name is not in the table, or two tensors have the same name on disk (two last norms).
    """
    table = DIALECTS[dialect]
    prefix = "beit." if is_bare(state_dict) else ""
    disk: dict[str, np.ndarray] = {}
    for name, array in state_dict.items():
        targets = disk_names(prefixed(name, prefix), dialect)
        pieces = [array] if len(targets) == 1 else np.split(array, len(targets))
        for target, piece in zip(targets, pieces, strict=True):
            if prefix and table.prefix_optional:
                target = target.removeprefix(table.prefix)
            if target in disk:
                raise CheckpointError(
                    f"This model has two norms at its end, and the {dialect} layout has one name for both ({target}). "
                    "Convert it to hf or flax."
                )
            disk[target] = piece
    return disk


def disk_names(name: str, dialect: str = "hf") -> tuple[str, ...]:
    """The names on disk of one parameter, given with the `beit.` prefix.

    Raises:
        CheckpointError: the dialect's table has no such parameter.
    """
    table = DIALECTS[dialect]
    if SEGMENTATION.match(name):
        return (_segmentation_name(name, table, ours=False),)
    key, number = _lookup_key(name)
    if key not in table.rows:
        raise CheckpointError(
            f"{name} has no name on disk; add it to the table in beit/checkpoints/dialects/{dialect}.py."
        )
    return tuple(disk.replace("{i}", number) for disk in table.rows[key])


def is_bare(names: Iterable[str]) -> bool:
    """Whether these are the names of a bare model, without the `beit.` prefix."""
    return not any(name.startswith("beit.") for name in names)


def prefixed(name: str, prefix: str) -> str:
    """A name with the prefix that bare models leave out; segmentation heads have none."""
    return name if SEGMENTATION.match(name) else prefix + name


def _lookup_key(name: str) -> tuple[str, str]:
    """`beit.encoder.layer.3.x` → (`beit.encoder.layer.{i}.x`, `3`)."""
    found = _NUMBER.search(name)
    return (_NUMBER.sub("{i}", name, count=1), found.group()) if found else (name, "")


def _segmentation_name(name: str, table: Dialect, ours: bool) -> str:
    """A name of the feature pyramid or a segmentation head, translated to `ours` or to the dialect's."""
    for parameter, disk in table.segmentation:
        old, new = (disk, parameter) if ours else (parameter, disk)
        at = name.find(old)
        # A pyramid's name stands at the beginning, a head's `head.` within `decode_head.` or `auxiliary_head.`.
        if at == 0 or (at > 0 and old.startswith("head.")):
            return name[:at] + new + name[at + len(old) :]
    return name

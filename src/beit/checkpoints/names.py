"""Names on disk ↔ names of our parameters, both ways, on numpy arrays. The tables are in `dialects/`, one file per project.

    parameter, and name in hf                                                 unilm
    beit.encoder.layer.3.attention.attention.{query,key,value}.weight         blocks.3.attn.qkv.weight
    beit.encoder.layer.3.layernorm_before.bias                                blocks.3.norm1.bias

Our names are those of transformers, so that scripts find the layers that they name. Where a project has one tensor for
several parameters, it is split along axis 0 (a view, without a copy). `BeitModel` itself has no `beit.` prefix, nor has its
folder; models with heads have it in both places. Here a parameter name always has it.

Files wrap names further (`module.`, `data2vec_vision.`, …): `dialects.recognise` removes that first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from beit.checkpoints.dialects import DIALECTS
from beit.checkpoints.dialects.dialect import Dialect, Place
from beit.core.errors import CheckpointError

# The segmentation heads keep transformers' names, and have no prefix in any model.
SEGMENTATION = re.compile(r"(decode_head|auxiliary_head|fpn\d)\.")

# Computed from the grid, not learned; many files hold it all the same.
_DERIVED = re.compile(r"(.*\.)?relative_position_index$")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# Parts of a bare encoder in hf; no head has names like these.
_BARE = ("embeddings.", "encoder.", "pooler.")


class Source(NamedTuple):
    """Where one parameter comes from.

    Attributes:
        parameter: its name, with the `beit.` prefix.
        disk: the tensor's name on disk.
        part: which part of the tensor it is, along axis 0.
        parts: how many parts of equal size the tensor has.
    """

    parameter: str
    disk: str
    part: int
    parts: int


def sources(disk: Collection[str], dialect: str = "hf") -> tuple[list[Source], list[str]]:
    """Translate names on disk to parameter names.

    Returns:
        The parameters in these tensors; and the names that the table does not have. Names of what is computed from the grid
        are in neither.
    """
    table = DIALECTS[dialect]
    bare = table.prefix_optional and is_bare(disk)
    # The authors and OpenMMLab call the encoder's last norm and the norm of the head for tokens alike. Such a tensor is the
    # head's where there is that head, as in transformers, else the encoder's.
    which = -1 if any(name.startswith(table.token_head) for name in disk) else 0
    found: list[Source] = []
    unknown: list[str] = []
    for name in disk:
        if _DERIVED.match(name):
            continue
        of_head = _segmentation_name(name, table, ours=True)
        if SEGMENTATION.match(of_head):
            found.append(Source(of_head, name, 0, 1))
            continue
        # A backbone saved by transformers 5 has the prefix on some names only.
        lacks_prefix = bare or (table.prefix_optional and name.startswith(_BARE))
        key, number = _lookup_key(table.prefix + name if lacks_prefix else name)
        if key not in table.by_disk:
            unknown.append(name)
            continue
        ours = table.by_disk[key][which]
        found += [Source(one.replace("{i}", number), name, part, len(ours)) for part, one in enumerate(ours)]
    return found, unknown


def to_state_dict(disk: Mapping[str, np.ndarray], dialect: str = "hf") -> tuple[dict[str, np.ndarray], list[str]]:
    """Tensors by their names on disk → parameters by their names.

    Returns:
        Parameter name, with the `beit.` prefix → array; and the names on disk that the table does not have. Arrays are not
        copied; parts of one tensor are views.

    Raises:
        CheckpointError: a tensor of several parameters has rows that cannot be divided among them; or a parameter is not of
            floating-point numbers.
    """
    found, unknown = sources(disk, dialect)
    state_dict: dict[str, np.ndarray] = {}
    for parameter, name, part, parts in found:
        array = disk[name]
        if array.dtype.kind != "f" and not name.endswith("num_batches_tracked"):
            raise CheckpointError(
                f"{name} is {array.dtype}; wanted floating-point numbers. A quantised model must be brought back to them first."
            )
        check_parts(name, array.shape, parts)
        state_dict[parameter] = array if parts == 1 else np.split(array, parts)[part]
    return state_dict, unknown


def check_parts(name: str, shape: Sequence[int], parts: int) -> None:
    """Refuse a tensor whose rows cannot be divided among `parts` parameters. Raises CheckpointError."""
    if parts > 1 and (not shape or shape[0] % parts):
        raise CheckpointError(
            f"{name} has the shape {tuple(shape)}; wanted {parts} matrices, one below the other. It is damaged."
        )


def to_disk(state_dict: Mapping[str, np.ndarray], dialect: str = "hf") -> dict[str, np.ndarray]:
    """Translate parameter names to names on disk: the exact inverse of `to_state_dict`.

    A bare model has names without prefix in hf.

    Raises:
        CheckpointError: a name is not in the table, two tensors have the same name on disk (two last norms), or a parameter
            is missing of several that are one tensor on disk.
    """
    table = DIALECTS[dialect]
    prefix = "beit." if is_bare(state_dict) else ""
    disk: dict[str, np.ndarray] = {}
    for name in state_dict:
        full = prefixed(name, prefix)
        place = place_of(full, dialect)
        target = place.disk.removeprefix(table.prefix) if prefix and table.prefix_optional else place.disk
        if len(place.parameters) > 1 and target in disk:
            continue  # it was written with the first of them
        if target in disk:
            raise CheckpointError(
                f"This model has two norms at its end, and the {dialect} layout has one name for both ({target}). "
                "Convert it to hf or flax."
            )
        parts = [other.removeprefix(prefix) for other in place.parameters] if len(place.parameters) > 1 else [name]
        missing = [part for part in parts if part not in state_dict]
        if missing:
            raise CheckpointError(f"{target} cannot be built: {', '.join(missing)} is missing.")
        disk[target] = state_dict[name] if len(parts) == 1 else np.concatenate([state_dict[part] for part in parts])
    return disk


def place_of(name: str, dialect: str = "hf") -> Place:
    """Where a parameter, given with the `beit.` prefix, is on disk.

    Raises:
        CheckpointError: the dialect's table has no such parameter.
    """
    table = DIALECTS[dialect]
    if SEGMENTATION.match(name):
        return Place(_segmentation_name(name, table, ours=False), 0, (name,))
    key, number = _lookup_key(name)
    if key not in table.rows:
        raise CheckpointError(
            f"{name} has no name on disk; add it to the table in beit/checkpoints/dialects/{dialect}.py."
        )
    place = table.rows[key]
    return Place(
        place.disk.replace("{i}", number), place.part, tuple(one.replace("{i}", number) for one in place.parameters)
    )


def from_short(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of `dialects/short.py` → parameter names; a bare model has no prefix in both."""
    bare = is_bare(state_dict)
    found, unknown = to_state_dict(state_dict, "short")
    if unknown:
        raise CheckpointError(f"{unknown[0]} is no parameter of a BeitModel or its heads.")
    return {name.removeprefix("beit.") if bare else name: array for name, array in found.items()}


def to_short(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The exact inverse of `from_short`."""
    return to_disk(state_dict, "short")


def from_short_name(name: str) -> str:
    """The parameter, the first if there are several, of a name in `dialects/short.py`; a name that it lacks stays as it is."""
    for full in (name, f"beit.{name}"):
        key, number = _lookup_key(full)
        if key in DIALECTS["short"].by_disk:
            return DIALECTS["short"].by_disk[key][0][0].replace("{i}", number)
    return name


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

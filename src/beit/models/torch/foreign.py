"""State dicts with the names of other projects, or with prefixes around ours → the names of a model's own parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beit.checkpoints import dialects, names
from beit.core.errors import CheckpointError, MismatchError

_ENOUGH = 0.5  # of the tensors: fewer that fit are no state dict of this model


def as_own(state_dict: Mapping[str, Any], own: Mapping[str, Any], model: str) -> tuple[Mapping[str, Any], str]:
    """Tensors by the names of a model's own parameters.

    Args:
        state_dict: tensors by any names that `checkpoints/dialects` knows, with any prefix around them.
        own: the model's own state dict, of which only the names count.
        model: its class, for messages.

    Returns:
        The tensors, by the model's names where they have one; and what was done, in a plain sentence, or "" where the names
        are the model's already.

    Raises:
        MismatchError: fewer than half of the tensors have a place in the model.
    """
    if _fits(state_dict, own):
        return state_dict, ""
    try:
        found = dialects.recognise(state_dict, "The state dict")
    except CheckpointError as error:
        raise MismatchError(_refusal(state_dict, own, model)) from error
    sources, unknown = names.sources(found.tensors, found.dialect)
    bare = names.is_bare(own)
    renamed: dict[str, Any] = {name: found.tensors[name] for name in unknown}
    for parameter, name, part, parts in sources:
        tensor = found.tensors[name]
        names.check_parts(name, tensor.shape, parts)
        renamed[parameter.removeprefix("beit.") if bare else parameter] = (
            tensor if parts == 1 else tensor.chunk(parts)[part].clone()
        )
    if not _fits(renamed, own):
        raise MismatchError(_refusal(state_dict, own, model))
    done = []
    if found.wrapper:
        done.append(f"the prefix {found.wrapper!r} was taken off")
    if found.dialect != "hf":
        done.append(f"names of {dialects.DIALECTS[found.dialect].project} were translated")
    return renamed, " and ".join(done) or "names were brought to those of this model"


def _fits(state_dict: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether enough of the tensors have a place, or there are none."""
    return sum(name in own for name in state_dict) >= _ENOUGH * len(state_dict)


def _refusal(state_dict: Mapping[str, Any], own: Mapping[str, Any], model: str) -> str:
    taken = sum(name in own for name in state_dict)
    return (
        f"{taken} of the {len(state_dict)} tensors have a place in {model}: it has {', '.join(list(own)[:2])}, …; the state "
        f"dict has {', '.join(list(state_dict)[:2])}, …. Give the state dict of a BEiT, or rename its tensors; to load a part "
        "of a model, give only the tensors of that part."
    )

"""Settings that were saved: read back, and compared."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from beit.core.errors import CheckpointError
from beit.core.suggest import did_you_mean, similar
from beit.core.typed import described, fits
from beit.evaluation.settings import Knn, Probe
from beit.train.settings.base import RunSettings
from beit.train.settings.finetune import FinetuneSettings
from beit.train.settings.pretrain import PretrainSettings
from beit.train.settings.segmentation import SegmentSettings
from beit.train.settings.tokenizer import TokenizerSettings, TokenizeSettings

_PATHS = "images validation tokenizer model maps validation_images validation_maps classes".split()
# How a run is kept and not what it computes; and how long it is, of which `beit.train.resume` says what a change means.
FREE = {"output", "resume", "allow_inexact_resume", "workers", "log_every", "save_every", "keep", "steps", "epochs"}
SettingsT = TypeVar("SettingsT", bound=RunSettings)


# A command of `beit` → the settings of its run.
RUNS: dict[str, type[RunSettings]] = {
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "segment train": SegmentSettings,
    "tokenizer train": TokenizerSettings,
}
_ALL: dict[str, type[Any]] = {**RUNS, "tokenize": TokenizeSettings, "probe": Probe, "knn": Knn}


def from_dict(kind: type[SettingsT], values: dict[str, Any]) -> SettingsT:
    """The inverse of `RunSettings.to_dict`, of values that were read from JSON.

    Raises:
        CheckpointError: a field is unknown or missing, or its value is of another type than the setting's.
    """
    if not isinstance(values, dict):
        raise CheckpointError(
            f"Saved settings are a {type(values).__name__}; wanted a JSON object. The file is damaged."
        )
    hints = typing.get_type_hints(kind)
    strange = sorted(set(values) - _fields(kind))
    if strange:
        raise CheckpointError(_of_another_kind(kind, values, strange))
    ready: dict[str, Any] = dict(kind.ADDED)
    for name, value in values.items():
        wanted = hints[name]
        if not fits(value, wanted):
            raise CheckpointError(
                f"The saved setting {name} is {str(value)!r:.60}; wanted {described(wanted)}. The file is damaged or was edited."
            )
        ready[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**ready)
    except TypeError as error:
        raise CheckpointError(f"Saved settings are incomplete: {error}.") from error


def _of_another_kind(kind: type[Any], values: dict[str, Any], strange: list[str]) -> str:
    """Why settings have fields that their command does not know: they are of another command, are mistyped, or of another version."""
    here = next((name for name, known in _ALL.items() if known is kind), kind.__name__)
    for name, other in _ALL.items():
        if set(values) <= _fields(other):
            return (
                f"These are settings of beit {name}, and not of beit {here}: they have {', '.join(strange[:3])}. Use them with "
                f"beit {name}, or give settings of beit {here}."
            )
    hint = "".join(did_you_mean(similar(field, _fields(kind))[:1]) for field in strange[:3])
    return (
        f"Saved settings have fields that beit {here} does not know: {', '.join(strange)}.{hint} Correct them; or another version "
        "of beit wrote them."
    )


def _fields(kind: type[Any]) -> set[str]:
    return {item.name for item in dataclasses.fields(kind)}


def differences(old: dict[str, Any], new: dict[str, Any], added: Mapping[str, Any] = MappingProxyType({})) -> list[str]:
    """What differs between the settings of two runs, in words. Length, logging and saving of a run make no difference.

    Args:
        old: as `RunSettings.to_dict` gives them.
        new: the same.
        added: what absent settings mean (`RunSettings.ADDED`).
    """
    old, new = {**added, **old}, {**added, **new}
    for values in (old, new):
        for name in _PATHS:  # the same folder may be written in several ways
            if isinstance(values.get(name), str) and os.path.exists(path := os.path.expanduser(values[name])):
                values[name] = os.path.abspath(path)
    # JSON has lists where the settings have tuples.
    old, new = ({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()} for values in (old, new))
    return [
        f"{name}: {old.get(name)} then, {new.get(name)} now"
        for name in sorted(set(old) | set(new))
        if name not in FREE and old.get(name) != new.get(name)
    ]

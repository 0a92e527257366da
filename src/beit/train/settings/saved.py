"""Settings that were saved: read back, and compared."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from beit.core.errors import CheckpointError
from beit.core.typed import described, fits
from beit.train.settings.base import RunSettings

_PATHS = "images validation tokenizer model maps validation_images validation_maps classes".split()
_SCHEMES = ("http", "https", "hub", "embedded")
# How a run is kept and not what it computes; and how long it is, of which `beit.train.resume` says what a change means.
FREE = {"output", "resume", "allow_inexact_resume", "workers", "log_every", "save_every", "keep", "steps", "epochs"}
SettingsT = TypeVar("SettingsT", bound=RunSettings)


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
    known = {item.name for item in dataclasses.fields(kind)}
    strange = sorted(set(values) - known)
    if strange:
        raise CheckpointError(f"Saved settings have unknown fields: {', '.join(strange)}. Another version wrote them.")
    ready: dict[str, Any] = dict(kind.ADDED)
    for name, value in values.items():
        wanted = hints[name]
        if not fits(value, wanted):
            raise CheckpointError(
                f"The saved setting {name} is {str(value)!r:.60}; wanted {described(wanted)}. The file is damaged or was edited."
            )
        options = typing.get_args(wanted) if typing.get_origin(wanted) in (types.UnionType, typing.Union) else (wanted,)
        # An address stays text: Path would take a slash from https://.
        if isinstance(value, str) and Path in options and value.partition(":")[0] not in _SCHEMES:
            value = Path(value)
        ready[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**ready)
    except TypeError as error:
        raise CheckpointError(f"Saved settings are incomplete: {error}.") from error


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
            if isinstance(values.get(name), str) and os.path.exists(values[name]):
                values[name] = os.path.abspath(values[name])
    # JSON has lists where the settings have tuples.
    old, new = ({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()} for values in (old, new))
    return [
        f"{name}: {old.get(name)} then, {new.get(name)} now"
        for name in sorted(set(old) | set(new))
        if name not in FREE and old.get(name) != new.get(name)
    ]

"""Settings that were saved: read back, and compared."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from beit.core.errors import CheckpointError, ConfigError
from beit.core.settings_files import of_no_setting, read_settings
from beit.core.suggest import did_you_mean, similar
from beit.core.text import printable
from beit.core.typed import described, fits
from beit.evaluation.settings import Knn, Probe
from beit.train.settings.base import RunSettings
from beit.train.settings.finetune import FinetuneSettings
from beit.train.settings.pretrain import PretrainSettings
from beit.train.settings.segmentation import SegmentSettings
from beit.train.settings.tokenizer import TokenizerSettings, TokenizeSettings

_PATHS = "images validation tokenizer model maps validation_images validation_maps classes".split()
# How a run is kept and not what it computes; and how long it is, of which `beit.train.resume` says what a change means.
FREE = {
    "output",
    "resume",
    "allow_inexact_resume",
    "workers",
    "log_every",
    "save_every",
    "keep",
    "steps",
    "epochs",
    "device",
    "tracker",
}
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
        raise CheckpointError(
            f"{_of_another_kind(kind, values, strange, 'Saved settings')} Or another version of beit wrote them."
        )
    for name, value in values.items():
        if not fits(value, hints[name]):
            raise CheckpointError(
                f"The saved setting {name} is {str(value)!r:.60}; wanted {described(hints[name])}. The file is damaged or was edited."
            )
    try:
        return kind(**{**kind.ADDED, **_ready(values)})
    except TypeError as error:
        raise CheckpointError(f"Saved settings are incomplete: {error}.") from error


def from_file(kind: type[SettingsT], path: str | os.PathLike[str], given: Mapping[str, str]) -> SettingsT:
    """The settings in a file that a run or a person wrote: JSON, YAML or TOML.

    A file that states every setting is one of a run, and means what the run did. In others, what is left out has its default.

    Args:
        kind: of which command.
        path: of the file.
        given: what the command line gives of the settings that have no default, which the file may leave out.

    Raises:
        ConfigError: the file cannot be read, or a setting in it is unknown, has a wrong value or is missing; the message names
            the line.
    """
    file = read_settings(path)
    hints = typing.get_type_hints(kind)
    strange = sorted(set(file.values) - _fields(kind))
    if strange:
        where = file.where(strange[0])
        if isinstance(file.values[strange[0]], dict):
            raise ConfigError(f"{where}: {printable(strange[0], 60)} is {of_no_setting({})}. Write them at the top.")
        raise ConfigError(_of_another_kind(kind, file.values, strange, where))
    for name, value in file.values.items():
        if not fits(value, hints[name]):
            raise ConfigError(
                f"{file.where(name)}: {name} is {_shown(value)}; wanted {described(hints[name])}. Correct the file."
            )
    complete = _fields(kind) - set(kind.ADDED) <= set(file.values)
    values = {**(kind.ADDED if complete else {}), **_ready(file.values)}
    needed = [item.name for item in dataclasses.fields(kind) if _has_no_default(item) and item.name not in values]
    lacking = [name for name in needed if name not in given]
    if lacking:
        raise ConfigError(
            f"{printable(file.path)} does not say {', '.join(lacking)}. Add it to the file, or give --"
            f"{lacking[0].replace('_', '-')}."
        )
    values |= {name: given[name] for name in needed}
    try:
        return kind(**values)
    except ConfigError as error:
        alone = next((name for name in file.values if _is_refused(kind, values, name)), "")
        raise ConfigError(f"{file.where(alone)}: {error}") from error


def _is_refused(kind: type[RunSettings], values: Mapping[str, Any], name: str) -> bool:
    """Whether one of the values is impossible by itself, with defaults for the others."""
    needed = {item.name for item in dataclasses.fields(kind) if _has_no_default(item)}
    try:
        kind(**{other: values[other] for other in {*needed, name}})
    except ConfigError:
        return True
    return False


def _ready(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with tuples, as settings have them, in place of the lists of a file."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _has_no_default(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _shown(value: Any) -> str:
    return of_no_setting(value) or printable(repr(value), 60)


def _of_another_kind(kind: type[Any], values: Mapping[str, Any], strange: list[str], what: str) -> str:
    """Why settings have fields that their command does not know: they are of another command, or mistyped.

    Args:
        kind: of the command.
        values: all of them.
        strange: the fields that it does not know.
        what: what has them: the beginning of the sentence.
    """
    here = next((name for name, known in _ALL.items() if known is kind), kind.__name__)
    for name, other in _ALL.items():
        if set(values) <= _fields(other):
            return (
                f"{what}: these are settings of beit {name}, and not of beit {here}: they have {', '.join(strange[:3])}. Use them "
                f"with beit {name}, or give settings of beit {here}."
            )
    hint = "".join(did_you_mean(similar(field, _fields(kind))[:1]) for field in strange[:3])
    named = ", ".join(printable(name, 60) for name in strange[:10]) + ", …" * (len(strange) > 10)
    return f"{what}: beit {here} does not know: {named}.{hint} Correct the name, or leave it out."


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

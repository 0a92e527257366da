"""What the settings of all commands have in common: a path may be given as text."""

from __future__ import annotations

import dataclasses
import functools
import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beit.core.errors import ConfigError

_ADDRESSES = ("http", "https", "hub", "embedded")  # what may stand before a colon in place of a path


@dataclass(kw_only=True)
class Settings:
    """Base of the settings of a command: text becomes a `Path` in each field for one, and `~` the home folder.

    A subclass with a `__post_init__` of its own calls this one first.
    """

    def __post_init__(self) -> None:
        """Raises ConfigError for a path that is neither text nor a path."""
        for name in _path_fields(typing.cast(typing.Hashable, type(self))):
            value = getattr(self, name)
            ready = tuple(as_path(name, item) for item in value) if isinstance(value, tuple | list) else value
            setattr(self, name, as_path(name, ready))


def as_path(name: str, value: Any) -> Any:
    """The value of a setting that is a path; addresses such as https://… or hub:… stay text, since a Path would take a slash.

    Args:
        name: of the setting, for the message.
        value: text or a path. None, and a tuple of paths, stay as they are.

    Raises:
        ConfigError: it is something else.
    """
    if value is None or isinstance(value, tuple):
        return value
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ConfigError(f"{name} is {value!r:.80}; wanted a path.")
    text = os.fspath(value)
    if text.partition(":")[0].lower() in _ADDRESSES:
        return value
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~somebody, whom this machine does not know
        raise ConfigError(f"{name} is {text!r:.80}: {error}") from error


@functools.cache
def _path_fields(kind: Any) -> tuple[str, ...]:
    """The fields of a dataclass that are a `Path`, maybe a `Path` or None, or a tuple of them."""
    hints = typing.get_type_hints(kind)
    return tuple(item.name for item in dataclasses.fields(kind) if _takes_path(hints[item.name]))


def _takes_path(hint: Any) -> bool:
    if hint is Path:
        return True
    if typing.get_origin(hint) in (types.UnionType, typing.Union, tuple):
        return any(map(_takes_path, typing.get_args(hint)))
    return typing.get_origin(hint) is typing.Annotated and _takes_path(typing.get_args(hint)[0])

"""Files that people write settings in: JSON, YAML and TOML → names and values, with the line of each, for messages."""

from __future__ import annotations

import datetime
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beit.core.errors import ConfigError, require
from beit.core.text import printable

_LARGEST = 1_000_000  # bytes; settings are a page of text


@dataclass(frozen=True)
class SettingsFile:
    """Settings as they stand in a file.

    Attributes:
        path: of the file, as it was given.
        values: name → value: of JSON's types, or a date, a time or another type of YAML or TOML that no setting has. A hyphen in a
            name has become an underscore, so names may be written as flags are.
        lines: name → number of its line, from 1.
    """

    path: str
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def where(self, name: str) -> str:
        """`my.yaml, line 3`, where a setting stands."""
        line = self.lines.get(name)
        return printable(self.path) + ("" if line is None else f", line {line}")


def read_settings(path: str | os.PathLike[str]) -> SettingsFile:
    """Read a file of settings: YAML (.yaml, .yml), TOML (.toml), else JSON.

    Raises:
        ConfigError: it cannot be read, is no such file, or says something twice; the message names the line.
        MissingExtraError: YAML, and PyYAML is not installed.
    """
    name = os.fspath(path)
    text = _text(name)
    suffix = Path(name).suffix.lower()
    try:
        if suffix in (".yaml", ".yml"):
            found, lines = _yaml(text, name)
        elif suffix == ".toml":
            found, lines = _toml(text, name)
        else:
            found, lines = _json(text, name)
    except RecursionError as error:
        raise ConfigError(f"{printable(name)} is nested too deep; settings are names and plain values.") from error
    values: dict[str, Any] = {}
    for key, value in found.items():
        plain = key.replace("-", "_")
        if plain in values:
            line = max(number for other, number in lines.items() if other.replace("-", "_") == plain)
            raise _twice(name, line, plain)
        values[plain] = value
    return SettingsFile(name, values, {key.replace("-", "_"): line for key, line in lines.items()})


def of_no_setting(value: Any) -> str:
    """What a value is that YAML or TOML has read from a text which was meant as text, and how to write it; "" for others."""
    kinds = ((datetime.datetime, "a time"), (datetime.date, "a date"), (datetime.time, "a time"), (bytes, "bytes"))
    for kind, word in kinds:
        if isinstance(value, kind):
            return f"{word} here; write it in quotes if text is meant"
    if isinstance(value, bool):
        return f"{str(value).lower()} here; write it in quotes if text is meant (YAML takes yes, no, on and off for it)"
    if isinstance(value, dict):
        return "a table of further names; settings are plain names and values"
    return ""


def _text(name: str) -> str:
    try:
        with open(os.path.expanduser(name), "rb") as file:
            data = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{printable(name)} cannot be read: {reason}. Give a file of settings.") from error
    if len(data) > _LARGEST:
        raise ConfigError(f"{printable(name)} has more than {_LARGEST:,} bytes, and is no file of settings.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{printable(name)}, line {line}: not UTF-8. Save it as UTF-8.") from error


def _twice(name: str, line: int, key: str) -> ConfigError:
    return ConfigError(f"{printable(name)}, line {line}: {printable(key, 60)} is given twice. Leave one.")


def _none(name: str) -> ConfigError:
    return ConfigError(f"{printable(name)} holds no settings; wanted names and values, such as batch_size: 64.")


# --- JSON ------------------------------------------------------------------------------------------------------------


def _json(text: str, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise _twice(name, _line_of(text, key, last=True) or 1, key)
            found[key] = value
        return found

    try:
        values = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{printable(name)}, line {error.lineno}: not valid JSON: {error.msg}. Correct it; a file of YAML or TOML must end in "
            ".yaml or .toml."
        ) from error
    except ConfigError:
        raise
    except ValueError as error:  # an integer of 5,000 digits
        raise ConfigError(f"{printable(name)} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise _none(name)
    return values, {key: line for key in values if (line := _line_of(text, key)) is not None}


def _line_of(text: str, key: str, last: bool = False) -> int | None:
    """The line of a key of JSON or TOML; None where it is written with escapes."""
    found = [match.start() for match in re.finditer(rf'(?<![\w-])["\']?{re.escape(key)}["\']?\s*[:=\]]', text)]
    return text.count("\n", 0, found[-1 if last else 0]) + 1 if found else None


# --- TOML ------------------------------------------------------------------------------------------------------------


def _toml(text: str, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # its message names the line
        raise ConfigError(f"{printable(name)} is not valid TOML: {printable(error)}. Correct it.") from error
    except ValueError as error:
        raise ConfigError(f"{printable(name)} is not valid TOML: {printable(error)}.") from error
    if not values:
        raise _none(name)
    return values, {key: line for key in values if (line := _line_of(text, key)) is not None}


# --- YAML ------------------------------------------------------------------------------------------------------------


def _yaml(text: str, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    yaml = require("yaml", "train", "settings in YAML (PyYAML; JSON and TOML need nothing)")

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined]  # the module is known at run time alone
        """PyYAML's safe loader, which builds plain values only; numbers such as 1e-3 are numbers, as in YAML 1.2."""

    number = re.compile(r"^[-+]?(\d[\d_]*(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        if any(isinstance(token, yaml.tokens.AliasToken) for token in yaml.scan(text, Loader=Loader)):
            raise ConfigError(f"{printable(name)} has aliases (*name); write each value where it belongs.")
        loader = Loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode) or not node.value:
            raise _none(name)
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{printable(name)}, line {line}: wanted the name of a setting.")
            key = str(key_node.value)
            if key in values:
                raise _twice(name, line, key)
            lines[key] = line
            try:
                values[key] = loader.construct_object(value_node, deep=True)
            except yaml.YAMLError:
                raise
            except (ValueError, OverflowError) as error:  # a date such as 2026-13-45
                raise ConfigError(
                    f"{printable(name)}, line {line}: {printable(key, 60)} cannot be read: {printable(error)}. Write it in quotes "
                    "if text is meant."
                ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f", line {mark.line + 1}"
        raise ConfigError(
            f"{printable(name)}{where}: not valid YAML: {printable(error.problem)}. Correct it."
        ) from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ConfigError(f"{printable(name)} is not valid YAML: {printable(error)}. Correct it.") from error
    return values, lines

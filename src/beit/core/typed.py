"""Values read from JSON against the annotations of a dataclass: a list where a number belongs is refused, not tried."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LARGEST = 1 << 53  # beyond, a JSON number is not exact


def fits(value: Any, hint: Any) -> bool:
    """Whether a value that was read from JSON is one of the annotated type.

    Args:
        value: of JSON: None, bool, a number, text, a list or a dict.
        hint: an annotation: plain types, `Path` (text), `Literal`, unions, `list[…]`, `tuple[…]` (a list), `dict[…]`.
    """
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, option) for option in options)
    if origin is typing.Literal:
        return any(type(value) is type(option) and value == option for option in options)
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return type(value) is int and abs(value) < _LARGEST
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    if hint in (str, Path):
        return isinstance(value, str | Path)
    if origin in (tuple, list, Sequence) or hint in (tuple, list):
        return isinstance(value, list | tuple) and _items_fit(value, origin or hint, options)
    if origin in (dict, Mapping) or hint is dict:
        keys, values = options or (Any, Any)
        return isinstance(value, dict) and all(fits(k, keys) and fits(v, values) for k, v in value.items())
    return True  # an annotation of another kind is left to the dataclass itself


def _items_fit(items: Sequence[Any], kind: Any, options: tuple[Any, ...]) -> bool:
    if not options:
        return True
    if kind is tuple and options[-1] is not Ellipsis:
        return len(items) == len(options) and all(
            fits(item, option) for item, option in zip(items, options, strict=True)
        )
    return all(fits(item, options[0]) for item in items)


def described(hint: Any) -> str:
    """An annotation in words, for messages: `int or None`, `one of cosine, linear`."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(described(option) for option in options)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, options))
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        Path: "a path",
        type(None): "null",
    }
    if origin in (tuple, list):
        return "a list"
    return words.get(hint, getattr(hint, "__name__", str(hint)))

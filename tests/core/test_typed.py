"""Values of JSON against annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from beit.core.typed import described, fits


@pytest.mark.parametrize(
    ("value", "hint", "fit"),
    [
        (1, int, True), (True, int, False), (1.0, int, False), (1 << 60, int, False), ("1", int, False),
        (1, float, True), (1e-3, float, True), (float("nan"), float, False), (float("inf"), float, False), (True, float, False),
        ("x", str, True), ([], str, False), ("a/b", Path, True), (None, Path | None, True), (3, Path | None, False),
        (True, bool, True), (1, bool, False), ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False),
        ([1, 2], list[int], True), ([1, "2"], list[int], False), ("12", list[int], False), ([1, 2], tuple[int, int], True),
        ([1], tuple[int, int], False), ([1, 2, 3], tuple[int, ...], True), ([[]], tuple[float, float], False), ([1.5], Sequence[float], True),
        ({"a": 1}, dict[str, int], True), ({"a": "b"}, dict[str, int], False), ([], dict, False), ({}, dict, True), ([object], list, True),
        (object(), Any, True), (3, int | Literal["auto"], True), ("auto", int | Literal["auto"], True), ("no", int | Literal["auto"], False),
    ],
)  # fmt: skip
def test_fits(value: Any, hint: Any, fit: bool) -> None:
    assert fits(value, hint) is fit


def test_in_words() -> None:
    assert described(int | None) == "a whole number or null"
    assert described(Literal["cosine", "linear"]) == "one of cosine, linear"
    assert described(tuple[int, int]) == "a list"
    assert described(Path) == "a path"

"""The base of all settings: text for a path becomes a path, and what is none is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from beit.core.errors import ConfigError
from beit.core.settings import Settings, as_path


@dataclass(kw_only=True)
class Kinds(Settings):
    one: Path
    maybe: Path | None = None
    either: str | Path = "."
    several: tuple[Path, ...] = ()
    marked: Annotated[Path, "a mark"] = Path("m")
    text: str = "~/text"
    number: int = 3


def test_text_becomes_a_path_where_a_path_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given: Any = {"one": "a//b", "maybe": "~/x", "either": "c", "several": ["d", Path("e")], "marked": "f"}
    made = Kinds(**given)
    assert made == Kinds(
        one=Path("a/b"),
        maybe=Path("/home/me/x"),
        either=Path("c"),
        several=(Path("d"), Path("e")),
        marked=Path("f"),
    )
    assert isinstance(made.either, Path)
    assert made.text == "~/text"
    assert Kinds(one=Path("~/y")).one == Path("/home/me/y")


@pytest.mark.parametrize("address", ["https://host//a", "HTTP://host", "hub:owner/name", "embedded:x"])
def test_addresses_stay_text(address: str) -> None:
    assert as_path("images", address) == address
    assert isinstance(as_path("images", address), str)


@pytest.mark.parametrize("value", [3, "", True, 1.5, b""])
def test_what_is_no_path_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"one is .*wanted a path"):
        Kinds(one=value)
    with pytest.raises(ConfigError, match=r"several is .*wanted a path"):
        Kinds(one="a", several=[value])  # type: ignore[arg-type]


def test_the_home_of_somebody_unknown() -> None:
    with pytest.raises(ConfigError, match="one is '~nobody-here/x'"):
        Kinds(one="~nobody-here/x")  # type: ignore[arg-type]

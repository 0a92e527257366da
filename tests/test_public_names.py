"""The public list, `__all__`, what type checkers see and what the modules have agree."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import beit
from beit.core import errors

SOURCE = Path(beit.__file__)


def type_checking_block() -> dict[str, str]:
    """Public name → module, as type checkers read it."""
    found: dict[str, str] = {}
    for node in ast.parse(SOURCE.read_text()).body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for line in node.body:
                if isinstance(line, ast.Assign):  # AutoImageProcessor = BeitImageProcessor
                    (target,) = line.targets
                    assert isinstance(target, ast.Name)
                    assert isinstance(line.value, ast.Name)
                    found[target.id] = found[line.value.id]
                    continue
                assert isinstance(line, ast.ImportFrom)
                for alias in line.names:
                    assert alias.asname is not None, f"{alias.name} must be re-exported: import x as x"
                    found[alias.asname] = line.module or ""
    return found


def test_lists_agree() -> None:
    assert type_checking_block() == beit._PUBLIC
    assert set(beit.__all__) == {"__version__", *beit._PUBLIC}
    assert len(beit.__all__) == len(set(beit.__all__))
    assert dir(beit) == sorted(beit.__all__)


@pytest.mark.parametrize("name", sorted(beit._PUBLIC))
def test_name_is_there_and_documented(name: str) -> None:
    for framework, package in (("torch", "torch"), ("flax", "flax")):
        if beit._PUBLIC[name].startswith(f"beit.models.{framework}"):
            pytest.importorskip(package)
    value = getattr(beit, name)
    real = beit._ALIASES.get(name, name)
    assert value is getattr(importlib.import_module(beit._PUBLIC[name]), real)
    assert value.__module__ == beit._PUBLIC[name], "listed where it is defined"
    assert inspect.getdoc(value), "public names are documented"


def test_star_import() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("flax")
    names: dict[str, object] = {}
    exec("from beit import *", names)
    assert set(beit._PUBLIC) <= set(names)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match=r"'beit' has no attribute 'BeitForSorting'"):
        _ = beit.BeitForSorting
    assert not hasattr(beit, "_nothing")


def test_all_errors_are_public_and_drawn() -> None:
    kinds = {n for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, Exception)}
    assert kinds - {"Interrupted"} <= set(beit._PUBLIC)  # that one is for the command line
    for name in kinds:
        assert issubclass(getattr(errors, name), errors.BeitError)
        assert re.search(rf"\b{name}\b", errors.__doc__ or ""), f"{name} is missing in the drawing of the tree"


def test_require() -> None:
    assert errors.require("json", "torch", "a test") is importlib.import_module("json")
    with pytest.raises(
        errors.MissingExtraError, match=r"no_such_thing is needed for a test.*pip install 'beit\[train\]'"
    ):
        errors.require("no_such_thing", "train", "a test")


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", beit.__version__)

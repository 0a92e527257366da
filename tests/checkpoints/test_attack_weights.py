"""Forged weight files and settings: each is opened or refused by an error of ours, within limits of time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("msgpack")
pytest.importorskip("resource")

SCRIPT = Path(__file__).parent / "attack_weights.py"


def attack(folder: Path, first: int, last: int) -> None:
    command = [sys.executable, str(SCRIPT), str(folder), str(first), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"ended by {done.returncode}: {done.stderr[-1000:]}"
    found = json.loads(done.stdout)
    assert found["bad"] == []
    assert found["opened"] + found["refused"] == last - first
    assert found["opened"] > 0
    assert found["refused"] > (last - first) / 2
    assert found["slowest"] < 10


def test_four_hundred_forged_files(tmp_path: Path) -> None:
    attack(tmp_path, 0, 420)


@pytest.mark.slow
def test_thousands_of_forged_files(tmp_path: Path) -> None:
    attack(tmp_path, 420, 4620)

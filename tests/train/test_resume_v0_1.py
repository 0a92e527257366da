"""Runs that version 0.1 left unfinished are resumed, with the losses that version 0.1 itself went on to log."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from golden import make_runs

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from beit.checkpoints import hub
from beit.train.finetune import finetune
from beit.train.pretrain import pretrain
from beit.train.segmentation import segment
from beit.train.settings import RUNS, from_dict
from beit.train.tokenizer import train_tokenizer

# Shares of a few dozen patches or pixels: on another processor a rounding may decide one of them otherwise.
COUNTED = ("accuracy", "masked_accuracy", "prediction_entropy")


def resume(name: str, folder: Path) -> None:
    """Go on with one of version 0.1's runs, by the settings that it saved."""
    command = make_runs.RUNS[name][0]
    settings: Any = from_dict(RUNS[command], hub.read_json(folder / "settings.json"))
    settings.resume = "must"
    functions: dict[str, Any] = {"pretrain": pretrain, "finetune": finetune, "segment train": segment}
    functions.get(command, train_tokenizer)(settings)


@pytest.mark.parametrize("name", list(make_runs.RUNS))
def test_a_run_of_version_0_1_goes_on(name, tmp_path, monkeypatch, request):
    if name.startswith("flax"):
        request.getfixturevalue("quick_compiles")
        pytest.importorskip("orbax.checkpoint")
        pytest.importorskip("optax")
    shutil.copytree(make_runs.FOLDER, tmp_path, dirs_exist_ok=True)
    make_runs.write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)  # the paths in its settings are relative
    before = json.loads((Path(name) / "settings.json").read_text())
    resume(name, Path(name))
    found = make_runs.log_without_clock(Path(name) / "log.jsonl")
    wanted = [json.loads(line) for line in Path(f"{name}.jsonl").read_text().splitlines()]
    assert len(found) == len(wanted) == 6
    for line, expected in zip(found, wanted, strict=True):
        assert list(line) == list(expected)
        for key, value in expected.items():
            tolerance = {"abs": 0.03} if key in COUNTED else {"rel": 1e-5, "abs": 2e-6}
            assert line[key] == pytest.approx(value, **tolerance), (line["step"], key)
    assert json.loads((Path(name) / "settings.json").read_text()) == {**before, "resume": "must"}
    assert (Path(name) / "model.safetensors").exists()

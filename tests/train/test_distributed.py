"""Two processes do the work of one: copied models (DDP), split ones (FSDP), on the CPU by gloo; killed and resumed too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures_runs import log_lines, save_small_model, save_tokenizer, write_images

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import beit
from beit.checkpoints import read_weights as weight_files
from beit.cli import main

SAME = ("loss", "gradient_norm", "masked_accuracy", "commonest_token", "token_entropy", "prediction_entropy")


def two_processes(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "beit.cli"]
    environment = {**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    root = Path(__file__).parents[2]
    return subprocess.run(
        [*launch, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


def weights_differ(a: Path, b: Path) -> float:
    """The largest difference between the weights of two model folders, relative to the largest weight of each tensor."""
    first, second = (weight_files.read_tensors(folder / "model.safetensors") for folder in (a, b))
    assert first.keys() == second.keys()
    # A table of zeros that Adam has moved by its rate in the direction of a gradient that is nothing but rounding is
    # left out by the floor.
    return max(float(np.abs(first[n] - second[n]).max() / max(np.abs(first[n]).max(), 1e-2)) for n in first)


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    write_images(tmp_path / "images", 24, spread=2)
    values: dict[str, Any] = {
        "images": tmp_path / "images",
        "tokenizer": save_tokenizer(tmp_path / "tokenizer"),
        "model": save_small_model(tmp_path / "model"),
        "steps": 4,
        "batch-size": 8,
        "learning-rate": 1e-3,
        "warmup": 0.3,
        "drop-path": 0.0,  # each process drops paths of its own
        "ema": 0.9,
        "precision": "fp32",
        "log-every": 1,
        "save-every": 2,
        "workers": 1,
    }
    return ["pretrain", *(text for name, value in values.items() for text in (f"--{name}", str(value)))]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "ddp, accumulated", "fsdp"])
def test_two_processes_equal_one(tmp_path, arguments, way):
    """Each step the same images, crops and masks, so the same losses, gradients and weights up to rounding."""
    assert main([*arguments, "--output", str(tmp_path / "one")]) == 0
    more = {"ddp": [], "ddp, accumulated": ["--accumulate", "2"], "fsdp": ["--shard"]}[way]
    output = tmp_path / "two"
    done = two_processes([*arguments, "--output", str(output), *more])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Saved") == 1
    single, double = log_lines(tmp_path / "one"), log_lines(output)
    assert len(double) == 4
    for one, two in zip(single, double, strict=True):
        for name in SAME:
            assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-6), name
    assert weights_differ(tmp_path / "one", output) < 1e-5
    assert weights_differ(tmp_path / "one/ema", output / "ema") < 1e-5
    assert type(beit.load(output)) is beit.BeitForMaskedImageModeling  # an ordinary folder

    if way != "fsdp":
        return
    # Of the split run each process has written its part of the optimiser; from there it goes on to the same end.
    parts = output / "checkpoint-000002/sharded"
    assert len(list(parts.glob("*.distcp"))) == 2
    cut = tmp_path / "cut"
    shutil.copytree(output, cut)
    for name in ("checkpoint-000004", "ema"):
        shutil.rmtree(cut / name)
    (cut / "model.safetensors").unlink()
    done = two_processes([*arguments, "--output", str(cut), *more, "--resume"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line["loss"] for line in log_lines(cut)] == [line["loss"] for line in double]
    assert weights_differ(output, cut) == 0
    assert weights_differ(output / "ema", cut / "ema") == 0

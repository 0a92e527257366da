"""Two processes do the work of one: copied models (DDP), split ones (FSDP), on the CPU by gloo; killed and resumed too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures_runs import log_lines, save_small_model, save_tokenizer, write_images
from fixtures_segment import save_segmenter, write_segmented

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import beit
from beit.checkpoints import read_weights as weight_files
from beit.cli import main
from beit.core.errors import ConfigError
from beit.train.torch.distributed import Accelerated

SAME = ("loss", "gradient_norm", "masked_accuracy", "commonest_token", "token_entropy", "prediction_entropy")


# Several runs one after the other: two processes take much longer to start than to train.
_RUNS = """
import json, sys
from beit.cli import main
from beit.core.errors import ConfigError
from beit.train.torch.distributed import Accelerated

for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    if code:
        sys.exit(code)
"""


def two_processes(folder: Path, *runs: list[str]) -> subprocess.CompletedProcess[str]:
    script = folder / "runs.py"
    script.write_text(_RUNS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    # No variable of Accelerate: a machine without a GPU is enough to say that CPUs are meant.
    environment = {**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("ACCELERATE_USE_CPU", None)
    root = Path(__file__).parents[2]
    return subprocess.run(
        [*launch, json.dumps(runs)], cwd=root, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


def weights_differ(a: Path, b: Path) -> float:
    """The largest difference between the weights of two model folders, relative to the largest weight of each tensor."""
    first, second = (weight_files.read_tensors(folder / "model.safetensors") for folder in (a, b))
    assert first.keys() == second.keys()
    # A table of zeros that Adam has moved by its rate in the direction of a gradient that is nothing but rounding is
    # left out by the floor.
    return max(float(np.abs(first[n] - second[n]).max() / max(np.abs(first[n]).max(), 1e-2)) for n in first)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def arguments(folder: Path) -> list[str]:
    write_images(folder / "images", 24, spread=2)
    values: dict[str, Any] = {
        "images": folder / "images",
        "tokenizer": save_tokenizer(folder / "tokenizer"),
        "model": save_small_model(folder / "model"),
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


WAYS = {"ddp": [], "ddp, accumulated": ["--accumulate", "2"], "fsdp": ["--shard"]}


@pytest.fixture(scope="module")
def runs(folder: Path, arguments: list[str]) -> dict[str, Path]:
    """The outputs of one process, and of two by each way."""
    found = {name: folder / name for name in ("one", *WAYS)}
    assert main([*arguments, "--output", str(found["one"])]) == 0
    done = two_processes(folder, *([*arguments, "--output", str(found[way]), *more] for way, more in WAYS.items()))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Saved") == len(WAYS)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_equal_one(runs, way):
    """Each step the same images, crops and masks, so the same losses, gradients and weights up to rounding."""
    one, output = runs["one"], runs[way]
    single, double = log_lines(one), log_lines(output)
    assert len(double) == 4
    for line, other in zip(single, double, strict=True):
        for name in SAME:
            assert other[name] == pytest.approx(line[name], rel=1e-5, abs=1e-6), name
    assert weights_differ(one, output) < 1e-5
    assert weights_differ(one / "ema", output / "ema") < 1e-5
    assert type(beit.load(output)) is beit.BeitForMaskedImageModeling  # an ordinary folder


@pytest.mark.slow
def test_a_split_run_resumes_from_its_parts(runs, arguments, tmp_path):
    """Each process has written its part of the optimiser; from there, other processes go on to the same end."""
    output, cut = runs["fsdp"], tmp_path / "cut"
    assert len(list((output / "checkpoint-000002/sharded").glob("*.distcp"))) == 2
    shutil.copytree(output, cut)
    for name in ("checkpoint-000004", "ema"):
        shutil.rmtree(cut / name)
    (cut / "model.safetensors").unlink()
    done = two_processes(tmp_path, [*arguments, "--output", str(cut), *WAYS["fsdp"], "--resume"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line["loss"] for line in log_lines(cut)] == [line["loss"] for line in log_lines(output)]
    assert weights_differ(output, cut) == 0
    assert weights_differ(output / "ema", cut / "ema") == 0


def stopped_at_two(output: Path, folder: Path) -> Path:
    """A copy of a run of four steps as it was after its second step."""
    shutil.copytree(output, folder)
    for name in ("checkpoint-000004", "ema"):
        shutil.rmtree(folder / name)
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_run_goes_on_with_another_number_of_processes(runs, arguments, tmp_path, caplog, way):
    """Two steps by two processes and two by one, or the other way round: the losses and weights of one process."""
    one, more = runs["one"], WAYS[way]
    fewer = stopped_at_two(runs[way], tmp_path / "two-one")
    assert main([*arguments, "--output", str(fewer), *more, "--resume", "must"]) == 0
    assert (
        "was written by 2 process(es), now there are 1. Each step has the same images, crops and masks" in caplog.text
    )
    assert "passed over" not in caplog.text

    alone = tmp_path / "alone"
    assert main([*arguments, "--output", str(alone), *more]) == 0
    greater = stopped_at_two(alone, tmp_path / "one-two")
    done = two_processes(tmp_path, [*arguments, "--output", str(greater), *more, "--resume", "must"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("was written by 1 process(es), now there are 2") == 1
    assert "passed over" not in done.stderr
    assert (greater / "checkpoint-000004/sharded").is_dir() == (way == "fsdp")

    for output in (fewer, greater):
        for line, other in zip(log_lines(one), log_lines(output), strict=True):
            for name in SAME:
                assert other[name] == pytest.approx(line[name], rel=1e-5, abs=1e-6), name
        assert weights_differ(one, output) < 1e-5
        assert weights_differ(one / "ema", output / "ema") < 1e-5


@pytest.mark.slow
def test_segmentation_from_a_folder_that_names_no_last_layer(tmp_path):
    """As folders of the reference do: the blocks above the last layer that the heads see have no gradient, for which DDP waits."""
    images, maps = write_segmented(tmp_path, 8)
    start = save_segmenter(tmp_path / "start", num_hidden_layers=6, out_indices=[1, 2, 3, 4])
    values = {"images": images, "maps": maps, "model": start, "output": tmp_path / "run", "steps": 3, "batch-size": 4}
    values |= {"workers": 0, "precision": "fp32", "auxiliary-channels": 8}
    done = two_processes(
        tmp_path, ["segment", "train", *(str(text) for name, value in values.items() for text in (f"--{name}", value))]
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line["step"] for line in log_lines(tmp_path / "run")][-1] == 3
    before, after = (weight_files.read_tensors(folder / "model.safetensors") for folder in (start, tmp_path / "run"))
    moved = {name for name in before if name in after and not np.array_equal(before[name], after[name])}
    assert any("encoder.layer.2." in name for name in moved)
    assert not any("encoder.layer.5." in name for name in moved)


def test_a_launcher_whose_other_processes_cannot_be_reached_is_refused(monkeypatch):
    class Alone:
        num_processes = 1
        device = torch.device("cpu")

    monkeypatch.setattr("accelerate.Accelerator", lambda cpu=False: Alone())
    assert Accelerated().world == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"has started 2 processes \(WORLD_SIZE\), but this one sees 1"):
        Accelerated()
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'two'"):
        Accelerated()


# --- a device that is named ---------------------------------------------------------------------------------------


def test_a_named_device_is_of_this_run_alone():
    from beit.train.torch.distributed import Accelerated

    assert Accelerated("cpu").device == torch.device("cpu")
    assert Accelerated._placed
    Accelerated()
    assert not Accelerated._placed


def test_an_earlier_run_on_another_device_does_not_decide(monkeypatch):
    from accelerate.state import PartialState

    from beit.train.torch.distributed import Accelerated

    Accelerated("cpu")
    PartialState().device = torch.device("meta")  # as if it had been on another one
    assert Accelerated("cpu").device == torch.device("cpu")


def test_processes_are_not_told_one_gpu_together(monkeypatch):
    from beit.train.torch.distributed import Accelerated

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"device is cuda:1, but 2 processes were launched.*--device cuda"):
        Accelerated("cuda:1")

"""What careless and hostile users did once, and must not succeed in again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beit import BeitConfig, BeitForMaskedImageModeling
from beit.checkpoints import hub
from beit.checkpoints import read_weights as weight_files
from beit.checkpoints.write_weights import write_tensors
from beit.cli import main
from beit.core.errors import CheckpointError, ConfigError, DataError, TrainingError
from beit.core.files import read_json
from beit.data import embedded as assets
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import ArrayImages, FolderImages
from beit.data.sources.in_memory import hold_in_memory
from beit.evaluation import figures
from beit.evaluation.report import Report
from beit.inference.colors import legend, palette
from beit.tokenizers import DalleConfig, DalleTokenizer
from beit.train.finetune import finetune
from beit.train.pretrain import pretrain
from beit.train.settings import FinetuneSettings, PretrainSettings
from fixtures_runs import save_classifier


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Two classes of 8 garments each."""
    data = assets.fashion_mnist_subset()
    for name, number in (("boot", 9), ("trouser", 1)):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for i, index in enumerate(np.flatnonzero(data["y_train"] == number)[:8]):
            Image.fromarray(data["x_train"][index]).save(tmp_path / "labelled" / name / f"{i}.png")
    return tmp_path / "labelled"


def settings(labelled: Path, output: Path, **more: object) -> FinetuneSettings:
    base = {"images": labelled, "output": output, "model": "tiny", "steps": 2, "batch_size": 4, "workers": 0}
    return FinetuneSettings(**{**base, **more})


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("flag", ["--learning-rate", "--clip", "--weight-decay", "--epochs", "--mixup"])
def test_settings_must_be_finite(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    arguments = ["--images", str(labelled), "--output", str(tmp_path / "run"), "--model", "tiny", flag, value]
    assert main(["finetune", *arguments]) == 2  # wrong usage
    assert "must be finite" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_checkpoint_holds_nan(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        finetune(settings(labelled, tmp_path / "run", learning_rate=1e38, warmup=0.0, save_every=1))
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        tensors = weight_files.read_files(hub.resolve_weights(folder)).tensors
        assert all(np.isfinite(array).all() for array in tensors.values())


def test_resume_does_not_overwrite_a_model(labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(DataError, match="holds a model"):
        finetune(settings(labelled, tmp_path / "model", resume="auto"))


@pytest.mark.parametrize("change", ["rename", "insert", "remove"])
def test_resume_needs_the_same_images(labelled: Path, tmp_path: Path, change: str) -> None:
    finetune(settings(labelled, tmp_path / "run"))
    if change == "rename":
        (labelled / "boot").rename(labelled / "shoe")
    elif change == "insert":
        (labelled / "a").mkdir()
        Image.new("RGB", (28, 28)).save(labelled / "a" / "0.png")
    else:
        (labelled / "boot" / "0.png").unlink()
    with pytest.raises(TrainingError, match="images, their order or their classes"):
        finetune(settings(labelled, tmp_path / "run", resume="auto"))


def test_a_pipe_is_no_image(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune(settings(labelled, tmp_path / "run"))
    os.mkfifo(tmp_path / "pipe.jpg")
    assert main(["predict", str(tmp_path / "pipe.jpg"), "--model", str(tmp_path / "run")]) == 1
    assert "not a file" in capsys.readouterr().out


def test_a_model_of_nan_is_refused(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune(settings(labelled, tmp_path / "run"))
    path = tmp_path / "run" / hub.SAFETENSORS
    tensors = weight_files.read_tensors(path)
    write_tensors(path, {name: np.full_like(array, np.nan) for name, array in tensors.items()})
    for command in (
        ["predict", str(labelled / "boot" / "0.png"), "--model", str(tmp_path / "run")],
        ["evaluate", "--images", str(labelled), "--model", str(tmp_path / "run")],
        ["embed", "--images", str(labelled), "--model", str(tmp_path / "run"), "--output", str(tmp_path / "f.npy")],
    ):
        assert main(command) == 1
        assert "NaN or infinity" in capsys.readouterr().err


def test_unreadable_images_with_workers_end_the_run(tmp_path: Path) -> None:
    """In a process of its own: what is tested is that it ends, and says why without a traceback."""
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "images" / name / f"{i}.jpg").write_bytes(b"no image")
    command = [sys.executable, "-m", "beit.cli", "finetune", "--images", str(tmp_path / "images"), "--model", "tiny"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "run"), "--workers", "2", "--batch-size", "4"],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    assert "can be opened" in done.stderr or "can be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_training_goes_on_without_a_reader_of_its_messages(labelled: Path, tmp_path: Path) -> None:
    arguments = f"--images {labelled} --output {tmp_path / 'run'} --model tiny --steps 6 --log-every 1 --workers 0"
    command = f"{sys.executable} -m beit.cli finetune {arguments} --batch-size 4 2>&1 | head -1"
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=900)
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["", "."])
def test_output_must_be_named(labelled: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name a folder"):
        settings(labelled, Path(name))


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(CheckpointError, match="wanted a model folder"):
        hub.resolve_file("", "config.json")


def test_a_config_of_a_billion_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 1,000"):
        BeitConfig(num_hidden_layers=10**9)


def test_settings_of_an_earlier_run_can_be_used_again(labelled: Path, tmp_path: Path) -> None:
    finetune(settings(labelled, tmp_path / "old", learning_rate=5e-4, seed=3))
    saved = str(tmp_path / "old" / "settings.json")
    assert main(["finetune", "--settings", saved, "--output", str(tmp_path / "new"), "--seed", "4"]) == 0
    values = read_json(tmp_path / "new" / "settings.json")
    assert (values["learning_rate"], values["seed"], values["steps"]) == (5e-4, 4, 2)


def test_a_finished_run_without_checkpoints_is_not_trained_over(labelled: Path, tmp_path: Path) -> None:
    finetune(settings(labelled, tmp_path / "run"))
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        folder.rename(tmp_path / folder.name)
    with pytest.raises(DataError, match="would be overwritten"):
        finetune(settings(labelled, tmp_path / "run", resume="auto"))


def test_large_images_are_not_made_small_without_a_filter(tmp_path: Path) -> None:
    for i in range(2):
        Image.new("RGB", (128, 128)).save(tmp_path / f"{i}.png")
    images = FolderImages(tmp_path)
    assert hold_in_memory(images, BadImages(2), 28) is images
    assert isinstance(hold_in_memory(images, BadImages(2), 96), ArrayImages)


def test_classes_of_one_name_are_refused(labelled: Path) -> None:
    with pytest.raises(DataError, match="several classes of one name"):
        FolderImages(labelled, labelled=True, classes=["boot", "trouser", "boot"])


def test_two_processes_fine_tune_a_pretrained_model(labelled: Path, tmp_path: Path) -> None:
    """Every parameter gets a gradient: a mask token left in the classifier would stop the second step."""
    config = BeitConfig.preset("tiny", use_mask_token=True, use_shared_relative_position_bias=True, num_hidden_layers=1)
    BeitForMaskedImageModeling(config).save_pretrained(tmp_path / "pretrained")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "beit.cli"]
    arguments = f"finetune --images {labelled} --output {tmp_path / 'run'} --model {tmp_path / 'pretrained'} --steps 3"
    done = subprocess.run(
        [*launch, *arguments.split(), "--batch-size", "4"],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_pretraining_goes_on_with_the_pixels_that_a_model_knows(labelled: Path, tmp_path: Path) -> None:
    start: dict[str, Any] = {"images": labelled, "steps": 1, "batch_size": 4, "tokenizer": str(tmp_path / "tokenizer")}
    DalleTokenizer(DalleConfig(groups=3, blocks_per_group=1, n_hid=8, n_init=8, vocab_size=16)).save_pretrained(
        tmp_path / "tokenizer"
    )
    mean, std = (0.25, 0.25, 0.25), (0.4, 0.4, 0.4)
    pretrain(PretrainSettings(**start, output=tmp_path / "first", model="tiny", mean=mean, std=std))
    pretrain(PretrainSettings(**start, output=tmp_path / "second", model=str(tmp_path / "first")))
    values = read_json(tmp_path / "second" / "preprocessor_config.json")
    assert (values["image_mean"], values["image_std"]) == (list(mean), list(std))


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """A folder with one image of each name that a terminal, a line or UTF-8 cannot hold."""
    (tmp_path / "strange").mkdir()
    for number, name in enumerate((b"\xff.png", b"\x1b[31m.png", b"a\nb.png")):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(os.path.join(os.fsencode(tmp_path / "strange"), name), "PNG")
    return tmp_path / "strange"


def test_names_of_strangers_do_nothing_to_the_terminal(
    strange: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = save_classifier(tmp_path / "model", ("cat\x1b[31m", os.fsdecode(b"\xfe"), "a\nb"))
    (strange / "no\x1b[31m.png").write_bytes(b"no image")
    arguments = ["predict", str(strange), "--model", str(model)]
    # In a process of its own, whose output is strict UTF-8 as on most machines.
    code = f"import sys; sys.path[:] = {sys.path!r}; from beit.cli import main; sys.exit(main({arguments!r}))"
    done = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True, check=False)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert (done.returncode, err) == (1, "beit predict: 1 of 4 images could not be read.\n")
    assert "\x1b" not in out
    lines = out.splitlines()
    assert [line.partition(": ")[0] for line in lines if not line.startswith(" ")] == [
        f"{strange}/{name}" for name in ("\\x1b[31m.png", "a\\nb.png", "no\\x1b[31m.png", "\\xff.png")
    ]
    assert {line.split(maxsplit=1)[1] for line in lines if "%" in line} == {"cat\\x1b[31m", "\\xfe", "a\\nb"}

    assert main([*arguments, "--json"]) == 1
    text = capfd.readouterr().out
    names = [Path(found["image"]).name for found in json.loads(text)]  # of the JSON, nothing is lost
    assert names == ["\x1b[31m.png", "a\nb.png", "no\x1b[31m.png", os.fsdecode(b"\xff.png")]


def test_names_of_strangers_in_files(strange: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = save_classifier(tmp_path / "model", ("a", "b"))
    for output in ("f.npy", "f.parquet"):
        base = ["embed", "--images", str(strange), "--model", str(model)]
        assert main([*base, "--output", str(tmp_path / output)]) == 0
    lines = (tmp_path / "f.txt").read_bytes().splitlines()
    assert [os.path.basename(line) for line in lines] == [b"\x1b[31m.png", b"a\\nb.png", b"\xff.png"]
    table = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "f.parquet")
    found = [Path(name).name for name in table["image"].to_pylist()]
    assert found == ["\x1b[31m.png", "a\nb.png", "\\xff.png"]


def test_names_of_strangers_in_pictures_and_pages(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = ["a\n\x1b[31m", os.fsdecode(b"\xff"), "x" * 5000]
    assert legend(names, palette(3)).width < 2000
    page = Report(names[1], names[0])
    page.figure(figures.confusion(np.eye(3), names), names[1])
    page.figure(figures.picture_rows([(name, np.zeros((1, 2, 2, 3))) for name in names]), "rows")
    page.table(["name"], [[name] for name in names])
    page.write(tmp_path / "report.html")
    assert "\\udcff" in (tmp_path / "report.html").read_text()

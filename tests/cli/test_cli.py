"""The command line as a user meets it: what it prints, how it ends, and that mistakes are explained, not dumped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import beit
import beit.cli
from beit.cli import COMMANDS, demo, main, usage
from beit.core.errors import BeitError, CheckpointError, DataError
from fixtures_runs import refused, save_classifier, save_small_model, save_tokenizer, write_images
from fixtures_streams import serving

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]


def shell(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m beit.cli …` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    command = [sys.executable, *(["-c", code] if code else ["-m", "beit.cli"]), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_images(tmp_path / "photos", 12, labelled=True)


@pytest.fixture
def model(tmp_path) -> Path:
    return save_classifier(tmp_path / "model")


# --- help and usage ----------------------------------------------------------------------------------------------


def test_help_names_every_command_and_loads_nothing():
    code = "import sys; from beit.cli import main; main(['--help']); print(' '.join(sys.modules))"
    found = shell(code=code)
    assert found.returncode == 0, found.stderr
    *text, modules = found.stdout.splitlines()
    for name, (_, explanation) in COMMANDS.items():
        assert any(name in line and explanation in line for line in text)
    loaded = {name.partition(".")[0] for name in modules.split()}
    assert not loaded & {"torch", "tyro", "numpy", "PIL", "jax", "accelerate", "matplotlib"}


def test_help_of_all_commands_loads_no_framework():
    """`beit COMMAND --help` answers at once: the settings of a command stand in files that load no framework."""
    actions = {"tokenizer": ["train", "evaluate"], "segment": ["train", "evaluate", "predict", "demo"]}
    lines = [[name, *action.split()] for name in COMMANDS for action in actions.get(name, [""])]
    code = f"import sys; from beit.cli import main\nfor line in {lines}: assert main([*line, '--help']) == 0, line\n"
    found = shell(code=code + "print(' '.join(sys.modules))")
    assert found.returncode == 0, found.stderr
    assert "usage: beit knn" in found.stdout
    loaded = {name.partition(".")[0] for name in found.stdout.splitlines()[-1].split()}
    assert "tyro" in loaded
    assert not loaded & {"torch", "jax", "flax", "accelerate", "matplotlib", "datasets"}


TOY = '''
"""`beit greet`: a toy."""

from __future__ import annotations

from dataclasses import dataclass

from beit.cli.parsing import parse


@dataclass(kw_only=True)
class Greet:
    """Greet somebody."""

    name: str = "you"
    """Who."""


def greet_command(arguments: list[str]) -> None:
    print(f"Hello, {parse(Greet, 'greet', arguments).name}!")
'''


def test_a_new_command_is_one_file_and_one_line(tmp_path, monkeypatch, capsys):
    """A file in beit.cli with the settings and the function, and a line of the table: nothing else is touched."""
    refused(capsys, ["greet"], "there is no command 'greet'", status=2)
    (tmp_path / "toy.py").write_text(TOY)
    with monkeypatch.context() as patch:
        patch.setattr(beit.cli, "__path__", [*beit.cli.__path__, str(tmp_path)])
        patch.setitem(COMMANDS, "greet", ("toy", "say hello"))
        assert main(["greet", "--name", "Ada"]) == 0
        assert capsys.readouterr().out == "Hello, Ada!\n"
        assert main(["greet", "--help"]) == 0
        assert "usage: beit greet" in capsys.readouterr().out
        assert "greet      say hello" in usage()
        refused(capsys, ["greet", "--nam", "Ada"], "--nam", status=2)
    del sys.modules["beit.cli.toy"]
    refused(capsys, ["greet"], "there is no command 'greet'", status=2)


@pytest.mark.parametrize("flag", [["--max-bytes", "2kB"], ["--max-bytes=2000"]])
def test_a_largest_download_for_each_command(tmp_path, monkeypatch, capsys, flag):
    monkeypatch.setenv("BEIT_MAX_BYTES", "1")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "x.pth").write_bytes(b"x" * 3000)
    with serving(tmp_path) as server:
        refused(capsys, ["inspect", f"{server.address}/x.pth", *flag], "has 3,000 bytes; at most 2,000 are read")
    refused(capsys, ["inspect", "x", "--max-bytes", "many"], "--max-bytes is 'many'; wanted a number of bytes")
    refused(capsys, ["inspect", "x", "--max-bytes"], "--max-bytes is ''")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can make a file")
@pytest.mark.parametrize("to", ["hf", "unilm"])
def test_a_place_where_nothing_can_be_made_is_refused_before_the_work(photos, model, capsys, to):
    refused(capsys, ["convert", model, "/proc/x", "--to", to], "Nothing can be written in /proc")
    hint = "Give another folder" if to == "hf" else "/dev/null is no folder; give a folder"
    refused(capsys, ["convert", model, "/dev/null/x", "--to", to], "/dev/null", hint)
    if to == "hf":
        refused(
            capsys, ["evaluate", "--model", model, "--images", photos, "--output", "/proc/x"], "Nothing can be written"
        )
        refused(
            capsys, ["embed", "--model", model, "--images", photos, "--output", "/proc/x.npy"], "Nothing can be written"
        )


def test_the_module_can_be_run():
    assert shell("--version").stdout.strip() == f"beit {beit.__version__}"
    found = shell("frobnicate")
    assert found.returncode == 2
    assert "there is no command 'frobnicate'" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["demo"], ["--output", "--smoke"]),
        (["tokenizer", "train"], ["--images", "--vocab-size", "--factor", "--usage-weight", "--resume"]),
        (["tokenizer", "evaluate"], ["--tokenizer", "--image-size"]),
        (["pretrain"], ["--tokenizer", "--mask-ratio", "--crop-scale", "--precision", "--save-every"]),
        (["finetune"], ["--model", "--layer-decay", "--mixup", "--validation"]),
        (["evaluate"], ["--model", "--images"]),
        (["predict"], ["IMAGES", "--top", "--json"]),
        (["embed"], ["--layer", "--output"]),
    ],
)
def test_help_of_each_command(capsys, monkeypatch, command, options):
    monkeypatch.setenv("COLUMNS", "100")
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: beit {' '.join(command)}" in text
    for option in options:
        assert option in text.replace("PATH", "IMAGES") if option == "IMAGES" else option in text


def test_help_of_the_tokenizer_and_usage(capsys):
    for family, actions in (("tokenizer", "train,evaluate"), ("segment", "train,evaluate,predict,demo")):
        for arguments in ([family], [family, "-h"]):
            assert main(arguments) == 0
            assert f"beit {family} {{{actions}}}" in capsys.readouterr().out
    assert main([]) == 0
    assert usage() in capsys.readouterr().out
    for word in ("help", "-h", "--help"):
        assert main([word]) == 0
        assert usage() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "meant", "status"),
    [
        (["predct"], "predict", 2),
        (["segment", "trian"], "train", 1),
        (["tokenizer", "evalute"], "evaluate", 1),
        (["plan", "fintune"], "finetune", 1),
        (["models", "beit-bas"], "beit-base-patch16-224", 1),
        (["models", "Microsoft/Beit-base-patch16-225"], "microsoft/beit-base-patch16-224", 1),
        (["recipes", "garmets"], "garments", 1),
        (["pretrain", "--recipe", "garmets", "--images", "x", "--output", "y"], "garments", 1),
    ],
)
def test_a_mistyped_name_is_answered_with_the_right_one(capsys, arguments, meant, status):
    refused(capsys, arguments, f"Did you mean {meant}", status=status)


def test_a_mistyped_size(capsys, photos, tmp_path):
    run = ["pretrain", "--images", photos, "--target", "pixels", "--output", tmp_path / "out", "--model", "tinny"]
    refused(capsys, run, "no size (base, large, tiny, small)", "Did you mean tiny?")


def test_wrong_usage(capsys, photos):
    refused(capsys, ["tokenizer", "eat"], "no action 'eat'", "Choose train, evaluate")
    refused(capsys, ["pretrain", "--colour", "3"], "--colour", status=2)
    refused(capsys, ["pretrain", "--images", photos], "--output", status=2)
    refused(capsys, ["pretrain", "--images", photos, "--output", "x"], "Give --tokenizer", "--target pixels")
    common = ["--images", photos, "--output", "x", "--tokenizer", "y"]
    refused(capsys, ["pretrain", *common, "--batch-size", "many"], "many", status=2)
    refused(capsys, ["pretrain", *common, "--batch-size", "0"], "batch_size is 0; it must be at least 1.", status=2)
    refused(capsys, ["pretrain", *common, "--precision", "fp8"], "fp8", status=2)
    refused(capsys, ["embed", "--model", "m", "--images", photos, "--output", "x.csv"], "must end in .npy or .parquet")
    refused(capsys, ["predict", "--model", "m"], "No image was given")
    refused(capsys, ["predict", "x.png", "--model", "m", "--top", "0"], "top is 0; it must be at least 1.")


# --- the whole way -----------------------------------------------------------------------------------------------


def test_from_a_folder_of_images_to_labels(tmp_path, photos, capsys):
    """The commands of the README, on a small scale."""
    small = ["--workers", "0", "--log-every", "1", "--batch-size", "4", "--precision", "fp32"]
    tokenizer, pretrained, tuned = (tmp_path / name for name in ("tokenizer", "pretrained", "tuned"))
    size = ["--image-size", "16", "--factor", "4", "--vocab-size", "16", "--width", "8"]
    train = ["tokenizer", "train", "--images", photos, "--output", tokenizer, "--steps", "3", *size, *small]
    assert main([str(x) for x in train]) == 0
    printed = capsys.readouterr()
    assert f"Saved {tokenizer}: " in printed.out
    assert "of 16 codes in use" in printed.out
    assert "step 3/3: loss" in printed.err  # no terminal here: lines instead of a bar

    measure = ["tokenizer", "evaluate", "--tokenizer", tokenizer, "--images", photos, "--image-size", "16"]
    assert main([str(x) for x in measure]) == 0
    assert "mean squared error of decoded pictures" in capsys.readouterr().out

    start = save_small_model(tmp_path / "start")
    learn = ["pretrain", "--images", photos, "--tokenizer", tokenizer, "--output", pretrained, "--model", start]
    assert main([str(x) for x in [*learn, "--steps", "2", *small]]) == 0
    printed = capsys.readouterr()
    assert f"Saved {pretrained}: masked tokens guessed" in printed.out
    assert "the commonest token alone" in printed.out

    tune = ["finetune", "--images", photos, "--model", pretrained, "--output", tuned, "--validation", photos]
    assert main([str(x) for x in [*tune, "--steps", "2", *small]]) == 0
    printed = capsys.readouterr()
    assert f"Saved {tuned}: training accuracy" in printed.out
    assert "Validation: top-1" in printed.out

    assert main(["evaluate", "--model", str(tuned), "--images", str(photos), "--output", str(tmp_path)]) == 0
    top1 = json.loads((tuned / "evaluation.json").read_text())["top1"]
    assert json.loads((tmp_path / "evaluation.json").read_text())["top1"] == top1
    assert capsys.readouterr().out.startswith(f"top-1 {top1:.1%}")

    # A pre-trained model without a classifier gives features, but no labels.
    assert (
        main(["embed", "--model", str(pretrained), "--images", str(photos), "--output", str(tmp_path / "f.npy")]) == 0
    )
    assert np.load(tmp_path / "f.npy").shape == (12, 32)
    capsys.readouterr()
    refused(capsys, ["predict", photos, "--model", pretrained], "has no trained classifier", "beit finetune --model")
    refused(capsys, ["evaluate", "--images", photos, "--model", pretrained], "has no trained classifier")


def test_predict_as_table_and_as_json(photos, model, capsys):
    image = photos / "flat/000.png"
    assert main(["predict", str(image), str(photos / "upright"), "--model", str(model), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["image"] for result in results] == [str(image), *sorted(map(str, (photos / "upright").iterdir()))]
    for result in results:
        assert {entry["label"] for entry in result["labels"]} == {"flat", "upright"}
        assert sum(entry["probability"] for entry in result["labels"]) == pytest.approx(1, abs=1e-5)

    assert main(["predict", str(image), "--model", str(model), "--top", "1"]) == 0
    name, line = capsys.readouterr().out.splitlines()
    assert name == str(image)
    best = results[0]["labels"][0]
    assert line.split() == [f"{best['probability']:.1%}", best["label"]]


def test_predict_with_bad_files(tmp_path, photos, model, capsys):
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    assert main(["predict", str(broken), str(photos / "flat/000.png"), "--model", str(model)]) == 1
    printed, error = capsys.readouterr()
    assert "1 of 2 images could not be read" in error
    assert f"{broken}: not an image that Pillow can read." in printed
    assert "%" in printed
    refused(capsys, ["predict", broken, tmp_path / "gone.png", "--model", model], "2 of 2 images could not be read")


def test_embed_writes_arrays_and_tables(tmp_path, photos, model, capsys):
    names = [str(path) for path in sorted(photos.rglob("*.png"))]
    (photos / "flat/004.png").write_bytes(b"")
    names.remove(str(photos / "flat/004.png"))
    base = ["embed", "--model", str(model), "--images", str(photos), "--batch-size", "5"]
    assert main([*base, "--output", str(tmp_path / "deep/f.npy")]) == 0
    printed = capsys.readouterr()
    assert "11 images, 32 numbers each." in printed.out
    assert "1 images were skipped" in printed.err
    assert "004.png" in printed.err
    features = np.load(tmp_path / "deep/f.npy")
    assert features.shape == (11, 32)
    assert features.dtype == np.float32
    assert np.ptp(features, axis=0).max() > 0.01
    assert (tmp_path / "deep/f.txt").read_text().splitlines() == names

    parquet = pytest.importorskip("pyarrow.parquet")
    assert main([*base, "--output", str(tmp_path / "f.parquet"), "--layer", "1"]) == 0
    table = parquet.read_table(tmp_path / "f.parquet").to_pydict()
    assert table["image"] == names
    first = np.array(table["features"])
    assert first.shape == (11, 32)
    assert not np.allclose(first, features)
    capsys.readouterr()
    refused(
        capsys, [*base, "--output", tmp_path / "g.npy", "--layer", "3"], "There is no layer 3; choose one from 1 to 2."
    )
    assert not (tmp_path / "g.npy").exists()


def test_evaluate_reports_what_it_skipped(tmp_path, photos, model, capsys):
    (photos / "flat/004.png").write_bytes(b"")
    assert main(["evaluate", "--model", str(model), "--images", str(photos)]) == 0
    printed = capsys.readouterr()
    assert "on 11 images" in printed.out
    assert "1 images were skipped" in printed.err
    (photos / "flat").rename(photos / "strange")
    refused(capsys, ["evaluate", "--model", model, "--images", photos], "does not know: strange")


# --- mistakes ----------------------------------------------------------------------------------------------------


def test_missing_folders(tmp_path, photos, model, capsys):
    gone, empty = tmp_path / "gone", tmp_path / "empty"
    empty.mkdir()
    refused(capsys, ["evaluate", "--model", model, "--images", gone], "gone is not a folder")
    refused(capsys, ["evaluate", "--model", model, "--images", empty], "no images")
    refused(capsys, ["evaluate", "--model", gone, "--images", photos], "No such folder")
    refused(capsys, ["evaluate", "--model", empty, "--images", photos], "has no config.json")
    refused(capsys, ["predict", photos, "--model", gone], "No such folder")
    out = ["--output", tmp_path / "run"]
    refused(capsys, ["tokenizer", "train", "--images", gone, *out], "gone is not a folder")
    refused(capsys, ["tokenizer", "evaluate", "--images", photos, "--tokenizer", gone], "No such folder")
    refused(capsys, ["pretrain", "--images", photos, "--tokenizer", gone, *out], "No such folder")
    refused(capsys, ["pretrain", "--images", photos, "--tokenizer", model, *out], "wanted a tokenizer")
    refused(capsys, ["finetune", "--images", photos, "--model", gone, *out], "No such folder")
    refused(capsys, ["finetune", "--images", photos / "flat", "--model", model, *out], "are in no class folder")
    assert not (tmp_path / "run").exists()


def test_folders_of_other_models(tmp_path, photos, model, capsys):
    vit = tmp_path / "vit"
    shutil.copytree(model, vit)
    config = json.loads((vit / "config.json").read_text())
    config |= {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    (vit / "config.json").write_text(json.dumps(config))
    for command in ("evaluate", "embed"):
        extra = ["--output", tmp_path / "x.npy"] if command == "embed" else []
        refused(capsys, [command, "--images", photos, "--model", vit, *extra], "vit")
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    refused(capsys, ["evaluate", "--images", photos, "--model", tokenizer], "dalle_dvae")


@pytest.mark.parametrize("damage", ["cut", "noise", "gone", "config"])
def test_damaged_models(photos, model, capsys, damage):
    path = model / ("config.json" if damage == "config" else "model.safetensors")
    if damage == "gone":
        path.unlink()
    elif damage == "noise":
        path.write_bytes(os.urandom(5000))
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(capsys, ["evaluate", "--images", photos, "--model", model], str(model))


def test_a_missing_extra_names_the_command_that_installs_it(tmp_path, photos, model, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    arguments = ["finetune", "--images", photos, "--model", model, "--output", tmp_path / "run"]
    refused(capsys, arguments, "accelerate is needed for training", "pip install 'beit[train]'")
    monkeypatch.setitem(sys.modules, "optax", None)
    refused(
        capsys, [*arguments, "--framework", "flax"], "optax is needed for beit finetune", "pip install 'beit[flax]'"
    )
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(
        capsys, ["predict", photos, "--model", model], "torch is needed for beit predict", "pip install 'beit[torch]'"
    )


def test_debug_shows_the_traceback(tmp_path, capsys):
    for arguments in (["--debug", "tokenizer", "eat"], ["tokenizer", "eat", "--debug"]):
        with pytest.raises(BeitError, match="no action"):
            main(arguments)
    with pytest.raises(DataError, match="is not a folder"):
        main(["--debug", "tokenizer", "train", "--images", str(tmp_path / "x"), "--output", str(tmp_path / "y")])
    with pytest.raises(CheckpointError):
        main(["predict", str(tmp_path / "x"), "--model", str(tmp_path / "y"), "--debug"])


def test_what_nobody_expected_is_reported_briefly(capsys, monkeypatch):
    def fail(arguments: list[str]) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(demo, "demo_command", fail)
    assert main(["demo"]) == 1
    error = capsys.readouterr().err
    assert "unexpected ZeroDivisionError: oh" in error
    assert "--debug" in error
    with pytest.raises(ZeroDivisionError):
        main(["demo", "--debug"])

    def interrupt(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "demo_command", interrupt)
    assert main(["demo"]) == 130
    assert "Stopped." in capsys.readouterr().err


def test_a_reader_that_has_seen_enough(tmp_path, model):
    """`beit predict … | head -1`"""
    for number in range(300):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{'long name ' * 20}{number:03}.png")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "beit.cli", "predict", str(tmp_path), "--model", str(model)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(str(tmp_path))
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 141  # as if SIGPIPE had ended it
    assert error == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["recipes"]])
def test_output_that_cannot_be_written_is_said(arguments):
    program = "import sys; from beit.cli import main; sys.exit(main(sys.argv[1:]))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_settings_of_another_command_are_called_by_its_name(tmp_path, photos, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("mask_ratio: 0.4\ntokenizer: runs/tokenizer\n")
    flags = ["--images", photos, "--output", tmp_path / "run"]
    refused(capsys, ["finetune", "--settings", file, *flags], "mine.yaml, line 1: these are settings of beit pretrain")
    refused(capsys, ["predict", "--settings", file, "a.png", "--model", "m"], "does not take --settings")
    refused(capsys, ["finetune", "--settings"], "--settings needs a file")

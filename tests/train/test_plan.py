"""Forecasts: what is counted agrees with formulas and real models, what is measured with real runs, and nothing is left."""

from __future__ import annotations

import json
import re
import tarfile
from collections import namedtuple
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from beit.cli import main
from beit.core.errors import ConfigError, DataError
from beit.core.text import duration
from beit.train.plan.torch.flops import count
from beit.train.recipes import RECIPES, runs
from beit.train.settings import FinetuneSettings, PretrainSettings, SegmentSettings, TokenizerSettings
from fixtures_runs import save_small_model, save_tokenizer, write_images
from fixtures_segment import write_segmented

torch = pytest.importorskip("torch")

from beit.train import plan as module
from beit.train.plan import describe, forecast, size, total_steps
from beit.train.plan import measurement as measuring

SMALL = ["--workers", "0", "--batch-size", "4", "--precision", "fp32", "--log-every", "2"]


@pytest.fixture
def parts(tmp_path) -> dict[str, Path]:
    """Images, a tokenizer and a model of 16 pixels."""
    return {
        "images": write_images(tmp_path / "photos", 12, labelled=True),
        "tokenizer": save_tokenizer(tmp_path / "tokenizer"),
        "model": save_small_model(tmp_path / "model"),
    }


def pretraining(parts: dict[str, Path], output: Path, **changes: Any) -> PretrainSettings:
    values: dict[str, Any] = {
        "images": parts["images"],
        "output": output,
        "tokenizer": str(parts["tokenizer"]),
        "model": str(parts["model"]),
        "batch_size": 4,
        "steps": 10,
        "workers": 0,
        "jitter": 0.0,
        "precision": "fp32",
    }
    return PretrainSettings(**{**values, **changes})


def everything(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


# --- counting ----------------------------------------------------------------------------------------------------


def vit(tokens: int, width: int, layers: int, patch: int, mlp: int = 4) -> int:
    """Operations of a ViT without its head: four matrices of attention, two of the MLP, scores and their use."""
    layer = 2 * tokens * (4 + 2 * mlp) * width**2 + 2 * 2 * tokens**2 * width
    return layers * layer + 2 * (tokens - 1) * 3 * patch**2 * width


@pytest.mark.parametrize(
    ("model", "pixels", "width", "layers", "gigaflop"), [("base", 224, 768, 12, 35.1), ("large", 384, 1024, 24, 382)]
)
def test_operations_of_a_classifier(tmp_path, model, pixels, width, layers, gigaflop):
    """35.1 for base: the 17.6 billion multiplications with addition that are known of ViT-B/16."""
    images = write_images(tmp_path / "photos", 4, labelled=True)
    work = count(FinetuneSettings(images=images, output=tmp_path / "o", model=model, image_size=pixels))
    patches = (pixels // 16) ** 2
    assert work.forward == vit(patches + 1, width, layers, 16) + 2 * width * 2  # two classes
    assert work.forward == pytest.approx(gigaflop * 1e9, rel=0.01)
    embedding = 2 * patches * 3 * 16**2 * width  # nobody wants the gradient of the pixels
    assert work.backward == 2 * work.forward - embedding
    assert work.tokenizer == 0


def test_operations_of_pre_training(parts, tmp_path):
    settings = pretraining(parts, tmp_path / "o", mask_ratio=0.5)
    work = count(settings)
    head = 2 * 8 * 32 * 16  # 8 masked patches, 16 codes
    assert work.forward == vit(17, 32, 2, 4, mlp=2) + head
    again = count(pretraining(parts, tmp_path / "o", mask_ratio=0.5, gradient_checkpointing=True))
    assert again.backward == work.backward + work.forward
    assert work.tokenizer > 0
    pixels = count(pretraining(parts, tmp_path / "o", mask_ratio=0.5, target="pixels", tokenizer=None))
    assert pixels.tokenizer == 0
    assert pixels.forward == work.forward + 2 * 8 * 32 * (3 * 4 * 4 - 16)


def test_operations_of_a_tokenizer(tmp_path):
    """One group without blocks to speak of: input 7x7, then what the layers say; the decoder sees all codes."""
    settings = TokenizerSettings(
        images=tmp_path, output=tmp_path / "o", image_size=16, factor=2, vocab_size=16, width=8
    )
    twice = TokenizerSettings(images=tmp_path, output=tmp_path / "o", image_size=32, factor=2, vocab_size=16, width=8)
    assert count(twice).forward == 4 * count(settings).forward  # convolutions: as the number of pixels
    assert count(settings).forward > 2 * 16 * 16 * 7 * 7 * 3 * 8
    assert count(settings).parameters == count(twice).parameters


def test_operations_of_segmentation_and_of_every_recipe_that_needs_no_file():
    base = runs(RECIPES["ade20k-base"], model="base", output="o")["segment train"]
    work = count(base)
    assert 160e6 < work.parameters < 166e6  # the authors' table: 163 million
    assert 2.9 < work.backward / work.forward * 1.5 < 3.1
    small = count(runs(RECIPES["pasted-garments"], output="o")["segment train"])
    assert small.total < work.total / 50


# --- the forecast ------------------------------------------------------------------------------------------------

Usage = namedtuple("Usage", "total used free")


def test_the_arithmetic_of_a_forecast(parts, tmp_path, monkeypatch):
    """A run that 'takes' 2 s per step, then 1 and 3 s: everything that follows can be said by hand."""

    def pretend(settings: Any) -> list[dict[str, float]]:
        assert (settings.log_every, settings.probe, settings.batch_size) == (1, None, 4)
        (settings.output / "checkpoint-000005").mkdir(parents=True)
        (settings.output / "checkpoint-000005" / "weights").write_bytes(bytes(10_000))
        (settings.output / "model").write_bytes(bytes(3_000))
        (settings.output / "log.jsonl").write_bytes(bytes(500))
        seconds = [9.0, 5.0, 2.0, 1.0, 3.0]
        assert settings.steps == len(seconds)
        return [{"images_per_second": 4 / second, "data_wait": 0.25} for second in seconds]

    monkeypatch.setattr(measuring, "train_some", pretend)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(10**6, 0, 40_000))
    now = datetime(2030, 1, 1, 12).astimezone()
    monkeypatch.setattr(module, "_now", lambda: now)
    settings = pretraining(parts, tmp_path / "new" / "o", steps=1000, save_every=300, keep=2, log_every=10)
    found = forecast(settings, steps_measured=3)
    assert found.measured is not None
    assert found.measured.seconds == pytest.approx([2.0, 1.0, 3.0])
    assert (found.measured.checkpoint, found.measured.model, found.measured.line) == (
        10_000,
        3_000,
        200,
    )  # a line, and an event of TensorBoard
    assert found.measured.data_wait == pytest.approx(0.25)
    assert found.step == pytest.approx(2.0)
    assert found.time == pytest.approx(2000, abs=1)
    assert found.fastest == pytest.approx(1000, abs=1)
    assert found.slowest == pytest.approx(3000, abs=1)
    assert found.end is not None
    assert (found.end - now).total_seconds() == pytest.approx(found.time)
    assert (found.images, found.epochs) == (12, pytest.approx(1000 / 3))
    assert (found.checkpoints, found.disk) == (3, 3 * 10_000 + 3_000 + 100 * 200)  # two kept, and a new one
    assert not found.fits
    text = describe(found, "pretrain")
    assert "1,000 of 4 images: 333.3 epochs of 12 images" in text
    assert "2 s per step, 2 images/s" in text
    assert "33.3 min (16.7 min as the fastest step, 50 min as the slowest)" in text
    assert "12:33, if it starts now" in text
    assert "25% of the time for images" in text
    with pytest.raises(module.TrainingError, match=r"needs 53 kB on the disk, and 40 kB are free"):
        module.check(found)
    assert not (tmp_path / "new").exists()


def test_devices_share_the_batch(parts, tmp_path, monkeypatch):
    seen = []

    def pretend(settings: Any) -> list[dict[str, float]]:
        seen.append(settings)
        settings.output.mkdir()
        (settings.output / "log.jsonl").write_text("x")
        return [{"images_per_second": 10.0}] * settings.steps

    monkeypatch.setattr(measuring, "train_some", pretend)
    settings = pretraining(parts, tmp_path / "o", batch_size=12, workers=3)
    found = forecast(settings, steps_measured=2, devices=4)
    assert (seen[0].batch_size, found.batch_size, found.step) == (3, 12, pytest.approx(0.3))
    assert seen[0].steps == 2 + 2 + 2 * 3  # queues of three workers run empty first
    assert any("4 devices like this one" in note for note in found.notes)
    with pytest.raises(ConfigError, match="12 cannot be divided among 5 devices"):
        forecast(settings, devices=5)


def test_without_measuring(parts, tmp_path):
    settings = pretraining(parts, tmp_path / "o", steps=None, epochs=10, save_every=10**6)
    found = forecast(settings, measured=False)
    assert (found.steps, found.epochs, found.time, found.measured) == (30, 10.0, None, None)
    assert found.checkpoint == 12 * found.work.parameters
    assert forecast(settings, measured=False, images_per_second=8.0).time == pytest.approx(30 * 4 / 8)
    averaged = forecast(pretraining(parts, tmp_path / "o", ema=0.99), measured=False)
    assert averaged.checkpoint == 16 * found.work.parameters


def test_lengths(parts, tmp_path):
    shards = str(tmp_path / "train-{0..1}.tar")
    for number in range(2):
        with tarfile.open(shards.replace("{0..1}", str(number)), "w") as file:
            file.add(next(parts["images"].rglob("*.png")), "1.png")
    stream = pretraining(parts, tmp_path / "o", images=shards, steps=None)
    with pytest.raises(ConfigError, match="A stream has no known length"):
        total_steps(stream)
    known = pretraining(parts, tmp_path / "o", images=shards, steps=None, images_per_epoch=40, epochs=2)
    assert total_steps(known) == (20, 2.0, 40)
    assert total_steps(pretraining(parts, tmp_path / "o", images=shards)) == (10, None, None)
    tuned = FinetuneSettings(images=parts["images"], output=tmp_path / "o", model="tiny", labels_per_class=3, steps=6)
    assert total_steps(tuned)[2] == 6
    with pytest.raises(DataError, match="is not a folder"):
        total_steps(pretraining(parts, tmp_path / "o", images="nowhere"))


def test_sizes_and_times_in_words():
    assert [size(n) for n in (12, 3_400, 2.5e6, 1.234e9, 5e12)] == ["12 bytes", "3.4 kB", "2.5 MB", "1.23 GB", "5 TB"]
    assert [duration(s) for s in (7.04, 100, 7200, 4e5)] == ["7.04 s", "1.67 min", "2 hours", "4.63 days"]


# --- against real runs -------------------------------------------------------------------------------------------


def test_the_forecast_of_a_real_run(parts, tmp_path, capsys):
    """Disk and parameters to the byte or nearly; time only roughly, since machines are busy."""
    output = tmp_path / "runs" / "o"
    arguments = ["pretrain", "--images", parts["images"], "--output", output, "--tokenizer", parts["tokenizer"]]
    arguments = [str(text) for text in [*arguments, "--model", parts["model"], "--steps", "12", "--save-every", "5"]]
    before = everything(tmp_path)
    assert main(["plan", *arguments, *SMALL, "--json", "--steps-measured", "4"]) == 0
    assert everything(tmp_path) == before
    found = json.loads(capsys.readouterr().out)
    assert main([*arguments, *SMALL]) == 0
    checkpoints = sorted(path.name for path in output.glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-000010", "checkpoint-000012"]
    used = measuring.bytes_of(output) + found["checkpoint"]  # a third was there for a moment
    assert found["checkpoints"] == 3
    assert found["disk"] == pytest.approx(used, rel=0.05)
    assert found["checkpoint"] == pytest.approx(measuring.bytes_of(output / checkpoints[-1]), rel=0.01)
    assert found["fits"]
    assert found["measured"]["memory_of"] in ("processes", "GPU")
    assert 0 < found["measured"]["memory"] < found["measured"]["memory_there"]
    assert found["fastest"] <= found["time"] <= found["slowest"]
    from beit import BeitForMaskedImageModeling

    trained = BeitForMaskedImageModeling.from_pretrained(output)
    assert found["work"]["parameters"] == sum(parameter.numel() for parameter in trained.parameters())

    assert main(["plan", *arguments, *SMALL, "--steps-measured", "1"]) == 0
    assert f"{output} already holds a run; the run will refuse it." in capsys.readouterr().out


def test_every_kind_of_run(parts, tmp_path):
    scenes, maps = write_segmented(tmp_path / "scenes", 4)
    common: dict[str, Any] = {"workers": 0, "precision": "fp32", "steps": 4, "batch_size": 2}
    for settings in (
        TokenizerSettings(
            images=parts["images"], output=tmp_path / "o", image_size=16, factor=4, vocab_size=16, width=8, **common
        ),
        FinetuneSettings(
            images=parts["images"], output=tmp_path / "o", model=str(parts["model"]), validation=Path("none"), **common
        ),
        SegmentSettings(images=scenes, maps=maps, output=tmp_path / "o", model=str(parts["model"]), **common),
    ):
        found = measuring.measure(settings, steps=1)
        assert len(found.seconds) == 1
        weights = 4 * count(settings).parameters
        assert 0 < found.checkpoint - 3 * weights < 200_000  # the rest is names, config, state
        assert found.model >= weights
    assert not (tmp_path / "o").exists()
    assert not list(tmp_path.glob(".beit-plan-*"))


# --- mistakes ----------------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_and_ends_with_1(parts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(10**6, 0, 1000))
    arguments = ["--images", parts["images"], "--output", tmp_path / "o", "--tokenizer", parts["tokenizer"]]
    arguments += ["--model", parts["model"], "--no-measure"]
    assert main(["plan", "pretrain", *map(str, arguments)]) == 1
    printed = capsys.readouterr()
    assert "parameters" in printed.out
    assert re.search(r"needs .* on the disk, and 1 kB are free in .*--keep 1", printed.err)


def test_an_error_of_the_run_is_the_plans_and_leaves_nothing(parts, tmp_path, capsys):
    before = everything(tmp_path)
    arguments = ["--images", parts["images"], "--output", tmp_path / "a" / "b", "--tokenizer", tmp_path / "none"]
    assert main(["plan", "pretrain", *map(str, arguments), *SMALL]) == 1
    assert "none" in capsys.readouterr().err
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["evaluate"], "knows no run 'evaluate'. Choose pretrain, finetune, segment train, tokenizer train.", 1),
        (["segment", "predict"], "knows no run 'segment predict'", 1),
        (["pretrain", "--steps-measured", "0"], "steps_measured is 0", 1),
        (["pretrain", "--devices", "0"], "devices is 0", 1),
        (["pretrain", "--images-per-second", "-1"], "images_per_second is -1.0; it must be above 0", 1),
        (["pretrain", "--colour", "3"], "--colour", 2),
        (["pretrain", "--images", "x"], "--output", 2),
        (["finetune", "--recipe", "base-100"], "is a recipe for beit pretrain", 1),
    ],
)
def test_mistakes_are_explained(arguments, message, status, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["plan", *arguments]) == status
    printed = capsys.readouterr()
    assert message in printed.err
    assert "unexpected" not in printed.err


def test_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    for arguments, options in (
        ([], ["--steps-measured", "--no-measure", "pretrain"]),
        (["pretrain", "--help"], ["--mask"]),
    ):
        assert main(["plan", *arguments]) == 0
        text = capsys.readouterr().out
        assert all(option in text for option in options)


def test_several_processes_are_refused(parts, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = ["--images", str(parts["images"]), "--output", str(tmp_path / "o"), "--tokenizer", "t"]
    assert main(["plan", "pretrain", *arguments]) == 1
    assert "without torchrun" in capsys.readouterr().err


def test_a_plan_tells_no_service(tmp_path, monkeypatch):
    from beit.train import trackers
    from beit.train.plan.measurement import measure
    from beit.train.settings import FinetuneSettings
    from fixtures_runs import save_small_model, write_images

    def started(*_):
        raise AssertionError("a service was started")

    monkeypatch.setattr(trackers, "Service", started)
    images = write_images(tmp_path / "images", 8, labelled=True)
    model = str(save_small_model(tmp_path / "model"))
    settings = FinetuneSettings(
        images=images, output=tmp_path / "run", model=model, batch_size=4, workers=0, tracker="wandb"
    )
    assert len(measure(settings, 1).seconds) == 1

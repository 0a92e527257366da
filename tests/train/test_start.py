"""What a run begins from: each weight file is read once, and settings.json says which pixels and which rate the run used."""

from __future__ import annotations

import builtins
import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fixtures_runs import (
    log_lines,
    save_classifier,
    save_small_model,
    save_tokenizer,
    small_config,
    stripes,
    weights_of,
)
from fixtures_segment import write_segmented

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from beit import BeitConfig, BeitForMaskedImageModeling, BeitImageProcessor
from beit.checkpoints import read_weights
from beit.config import PRESETS
from beit.core.errors import CheckpointError, ConfigError, TrainingError
from beit.data.sources.images import ArrayImages
from beit.tokenizers.dalle import config as dalle_files
from beit.train.finetune import classifier_config, finetune
from beit.train.pretrain import model_config, pretrain
from beit.train.segmentation import segment
from beit.train.settings import (
    FinetuneSettings,
    PretrainSettings,
    SegmentSettings,
    TokenizerSettings,
    TokenizeSettings,
    from_dict,
)
from beit.train.start import fill_paper_rate, open_start
from beit.train.tokenizer import train_tokenizer

IMAGES = ArrayImages(*stripes(16), ["flat", "upright"])
SHORT = {"batch_size": 4, "steps": 4, "save_every": 2, "log_every": 1, "precision": "fp32", "workers": 0}


def settings_of(command: str, folder: Path, **changes: Any) -> Any:
    """Settings of a short run."""
    values: dict[str, Any] = {**SHORT, "images": folder, "output": folder / "run", **changes}
    if command == "pretrain":
        return PretrainSettings(**{"tokenizer": str(folder / "tokenizer"), **values})
    if command == "finetune":
        return FinetuneSettings(**{"hold_out": 0.0, **values})
    images = {"images": folder / "scenes/images", "maps": folder / "scenes/maps", "auxiliary_channels": 4}
    return SegmentSettings(**{**values, **images})


def run(settings: Any) -> Any:
    if isinstance(settings, PretrainSettings):
        return pretrain(settings, IMAGES)
    return finetune(settings, IMAGES)[0] if isinstance(settings, FinetuneSettings) else segment(settings)[0]


@pytest.fixture
def inputs(tmp_path) -> Path:
    """A folder with a tokenizer and images with label maps."""
    save_tokenizer(tmp_path / "tokenizer")
    write_segmented(tmp_path / "scenes", 8)
    return tmp_path


@pytest.fixture
def reads(monkeypatch) -> Counter[str]:
    """How often each weight file was read."""
    found: Counter[str] = Counter()
    real_file, real_tensors = read_weights.read_file, dalle_files.read_tensors

    def read_file(path: Path, *rest: Any) -> Any:
        found[str(path)] += 1
        return real_file(path, *rest)

    def read_tensors(path: Path) -> Any:  # tokenizers, which are no models
        found[str(path)] += 1
        return real_tensors(path)

    monkeypatch.setattr(read_weights, "read_file", read_file)
    monkeypatch.setattr(dalle_files, "read_tensors", read_tensors)
    return found


# --- opened once -----------------------------------------------------------------------------------------------------


def start_of(form: str, folder: Path) -> Path:
    """A model to start from: a `.pth`, whose config follows from its tensors, or a folder in three shards."""
    model = BeitForMaskedImageModeling(small_config(num_hidden_layers=4))
    if form == "sharded":
        model.save_pretrained(folder / "start", max_shard_size="60KB")
        assert len(list((folder / "start").glob("model-*.safetensors"))) >= 3
        return folder / "start"
    tensors = {name: torch.from_numpy(array) for name, array in model.disk_tensors().items()}
    torch.save({"model": tensors}, folder / "start.pth")
    return folder / "start.pth"


@pytest.mark.parametrize("form", ["pth", "sharded"])
@pytest.mark.parametrize("command", ["pretrain", "finetune", "segment"])
def test_each_weight_file_is_read_once(inputs, reads, command, form):
    start = start_of(form, inputs)
    run(settings_of(command, inputs, model=str(start)))
    own = {path: count for path, count in reads.items() if path.startswith(str(start))}
    assert len(own) >= (3 if form == "sharded" else 1)
    assert set(reads.values()) == {1}

    # A resume reads the checkpoint, and of what the run began from nothing any more.
    shutil.rmtree(inputs / "run/checkpoint-000004")
    (inputs / "run/model.safetensors").unlink()
    reads.clear()
    run(settings_of(command, inputs, model=str(start), resume="must"))
    assert reads.pop(str(inputs / "run/checkpoint-000002/model.safetensors")) == 1
    assert not any(path.startswith(str(start)) for path in reads)
    assert set(reads.values()) <= {1}
    assert [line["step"] for line in log_lines(inputs / "run")] == [1, 2, 3, 4]


def test_a_tokenizer_run_reads_its_checkpoint_once(tmp_path, reads):
    small = {"image_size": 8, "factor": 2, "vocab_size": 8, "width": 4}
    train_tokenizer(TokenizerSettings(**SHORT, **small, images=tmp_path, output=tmp_path / "run"), IMAGES)
    assert not reads
    shutil.rmtree(tmp_path / "run/checkpoint-000004")
    again = TokenizerSettings(**SHORT, **small, images=tmp_path, output=tmp_path / "run", resume="must")
    train_tokenizer(again, IMAGES)
    assert reads == {str(tmp_path / "run/checkpoint-000002/model.safetensors"): 1}


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_flax_reads_once_too(inputs, reads, quick_compiles, command):
    pytest.importorskip("optax")
    pytest.importorskip("orbax.checkpoint")
    start = save_small_model(inputs / "start", num_hidden_layers=1)
    run(settings_of(command, inputs, model=str(start), framework="flax", steps=2))
    assert reads[str(start / "model.safetensors")] == 1
    assert set(reads.values()) == {1}


# --- the config ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_preset_changed_afterwards_is_the_preset_with_these_fields(preset):
    settings = PretrainSettings(images="x", output="y", tokenizer="z", model=preset, image_size=112, drop_path=0.3)
    expected = BeitConfig.preset(
        preset,
        image_size=112,
        use_shared_relative_position_bias=True,
        mask_keeps_position=True,
        use_mask_token=True,
        vocab_size=99,
        drop_path_rate=0.3,
    )
    assert model_config(settings, open_start(settings), 99).to_json_string() == expected.to_json_string()
    tuning = FinetuneSettings(images="x", output="y", model=preset)
    names = {0: "a", 1: "b", 2: "c"}
    relative = {"use_relative_position_bias": True, "use_mask_token": False, "drop_path_rate": 0.1}
    expected = BeitConfig.preset(preset, id2label=names, **relative)
    assert classifier_config(tuning, open_start(tuning), list("abc")).to_json_string() == expected.to_json_string()


@pytest.mark.parametrize("framework", ["torch", "flax"])
def test_a_run_says_what_its_masks_mean(framework, tmp_path):
    """Otherwise the result would mean one thing in PyTorch and another in Flax."""
    for said in (None, False, True):
        start = save_small_model(tmp_path / str(said), num_hidden_layers=1, mask_keeps_position=said)
        settings = PretrainSettings(images="x", output="y", tokenizer="z", model=str(start), framework=framework)
        config = model_config(settings, open_start(settings), 99)
        assert config.mask_keeps_position is (framework == "flax" if said is None else said)


def test_sizes_that_do_not_fit_are_refused(tmp_path):
    folder = str(save_small_model(tmp_path / "model"))
    for kind in (PretrainSettings, FinetuneSettings, SegmentSettings):
        settings = kind(images="x", output="y", model=folder, patch_size=8)
        with pytest.raises(ConfigError, match=r"for training from scratch; .*model has patches of its own"):
            open_start(settings)
    with pytest.raises(CheckpointError, match="No such folder"):
        open_start(FinetuneSettings(images="x", output="y", model=str(tmp_path / "none")))
    start = open_start(TokenizeSettings(images="x", output="y", tokenizer="z", model=folder, image_size=32))
    assert (start.config.image_size, start.config.grid, start.processor, start.resumed) == (32, (8, 8), None, False)


# --- settings that the start decides ---------------------------------------------------------------------------------

MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


@pytest.fixture
def with_pixels(inputs) -> Path:
    """A model whose image processor has a mean and a deviation of its own."""
    folder = save_classifier(inputs / "start", num_hidden_layers=4)
    BeitImageProcessor(size=16, do_center_crop=False, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("command", ["pretrain", "finetune", "segment"])
def test_settings_say_with_which_pixels_a_run_goes_on(inputs, with_pixels, command):
    """Version 0.1 wrote the settings' own mean and deviation, which the run did not use."""
    asked_for: dict[str, Any] = {"model": str(with_pixels), "learning_rate": 1e-3}
    settings = settings_of(command, inputs, **asked_for)
    asked = json.loads(json.dumps(settings.to_dict()))
    losses = [line["loss"] for line in run(settings)]
    output = settings.output
    written = json.loads((output / "settings.json").read_text())
    assert (written["mean"], written["std"]) == (MEAN, STD)
    assert {**written, "mean": asked["mean"], "std": asked["std"]} == asked
    # The checkpoint keeps what was asked for, as in version 0.1, so that the same command goes on with it.
    assert json.loads((output / "checkpoint-000002/state.json").read_text())["settings"] == asked

    def resumed(**changes: Any) -> Any:
        shutil.rmtree(output / "checkpoint-000004", ignore_errors=True)
        (output / "model.safetensors").unlink(missing_ok=True)
        return run(settings_of(command, inputs, **asked_for, resume="must", **changes))

    weights = weights_of(output)
    assert [line["loss"] for line in resumed()] == losses
    assert weights_of(output) == weights
    from_file = from_dict(type(settings), written)
    assert [line["loss"] for line in resumed(mean=from_file.mean, std=from_file.std)] == losses
    assert json.loads((output / "settings.json").read_text())["mean"] == MEAN
    with pytest.raises(TrainingError, match=r"mean: .* now"):
        resumed(mean=(0.7, 0.7, 0.7))


def test_settings_without_a_processor_are_written_as_they_are(inputs):
    settings = settings_of("finetune", inputs, model="tiny", image_size=16, mean=(0.2, 0.3, 0.4))
    run(settings)
    assert json.loads((settings.output / "settings.json").read_text()) == json.loads(json.dumps(settings.to_dict()))


def test_a_narrow_model_gets_its_rate_when_the_run_starts(inputs, monkeypatch):
    """Settings open no file; the folder of a narrow model is recognised by its config.json when the run starts."""
    folder = save_small_model(inputs / "start", num_hidden_layers=4)
    opened: list[Any] = []
    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda file, *rest, **more: (opened.append(file), real(file, *rest, **more))[1]
    )
    for command, paper, narrow in (
        ("pretrain", 1.5e-3 * 4 / 2048, 1.5e-3),
        ("finetune", 4e-3 * 4 / 1024, 2e-3),
        ("segment", 7e-4 * 4 / 16, 1e-3),
    ):
        settings = settings_of(command, inputs, model=str(folder))
        assert opened == []
        assert settings.learning_rate == pytest.approx(paper)
        given = settings_of(command, inputs, model=str(folder), learning_rate=paper)
        elsewhere = settings_of(command, inputs, model="owner/name")
        copied = dataclasses.replace(settings, seed=7)
        assert opened == []
        for some, rate in ((settings, narrow), (given, paper), (elsewhere, paper), (copied, narrow)):
            fill_paper_rate(some)
            assert some.learning_rate == pytest.approx(rate)
        opened.clear()
    settings = settings_of("finetune", inputs, model=str(folder), warmup=0.0)
    assert run(settings)[0]["learning_rate"] == 2e-3
    assert json.loads((settings.output / "settings.json").read_text())["learning_rate"] == 2e-3
    again = settings_of("finetune", inputs, model=str(folder), warmup=0.0, resume="must")
    assert run(again)[-1]["step"] == 4

"""Settings of runs: to JSON and back, what may differ on a resume, what is refused, and that --help explains them."""

from __future__ import annotations

import ast
import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from beit.cli import checkpoints, classify, plan, predict, segment
from beit.cli import recipes as recipes_command
from beit.cli import train as train_command
from beit.core.errors import CheckpointError, ConfigError
from beit.demo import settings as demo_settings
from beit.evaluation import settings as evaluation_settings
from beit.train import recipes
from beit.train.settings import (
    FinetuneSettings,
    PaperRate,
    PretrainSettings,
    RunSettings,
    TokenizerSettings,
    differences,
    from_dict,
    from_file,
)
from beit.train.settings import base as base_settings
from beit.train.settings import finetune as finetune_settings
from beit.train.settings import pretrain as pretrain_settings
from beit.train.settings import segmentation as segmentation_settings
from beit.train.settings import tokenizer as tokenizer_settings

NEEDED: dict[type[RunSettings], dict[str, Any]] = {
    TokenizerSettings: {},
    PretrainSettings: {"tokenizer": "runs/tokenizer"},
    FinetuneSettings: {"model": "tiny"},
}


def make(kind: type[RunSettings], **changes: Any) -> RunSettings:
    return kind(**{"images": Path("photos"), "output": Path("runs/x"), **NEEDED[kind], **changes})


@pytest.mark.parametrize("kind", NEEDED)
def test_round_trip_through_json(kind):
    changes: dict[str, Any] = {"steps": 7, "crop_scale": (0.25, 0.75), "learning_rate": 1e-4, "resume": "auto"}
    if kind is FinetuneSettings:
        changes["validation"] = Path("photos/held_out")
    for settings in (make(kind), make(kind, **changes)):
        back = from_dict(kind, json.loads(json.dumps(settings.to_dict())))
        assert back == settings
        assert type(back) is kind
        assert isinstance(back.images, Path)
        assert isinstance(back.crop_scale, tuple)
        for name in ("tokenizer", "model"):  # these may be Hub ids: they stay text
            if hasattr(back, name):
                assert isinstance(getattr(back, name), str)
        assert differences(json.loads(json.dumps(settings.to_dict())), settings.to_dict()) == []


def test_saved_settings_are_checked():
    values = make(PretrainSettings).to_dict()
    with pytest.raises(CheckpointError, match="does not know: colour, shape"):
        from_dict(PretrainSettings, {**values, "shape": 1, "colour": 2})
    for name, value in {
        "steps": [1],
        "learning_rate": {"a": 1},
        "crop_scale": [[]],
        "images": 3,
        "workers": 10**20,
    }.items():
        with pytest.raises(CheckpointError, match=f"saved setting {name} is .*wanted .*damaged or was edited"):
            from_dict(PretrainSettings, {**values, name: value})
    with pytest.raises(CheckpointError, match="Saved settings are a list; wanted a JSON object"):
        from_dict(PretrainSettings, [1])
    values.pop("output")
    with pytest.raises(CheckpointError, match=r"incomplete: .*output"):
        from_dict(PretrainSettings, values)


SOME = "images: photos\noutput: run\nmodel: tiny\n"


def test_a_file_of_some_settings_leaves_the_others_at_their_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(SOME + "batch-size: 8\nlearning-rate: 1e-3\ncrop_scale: [0.5, 1]\n")
    wanted = FinetuneSettings(
        images="photos", output="run", model="tiny", batch_size=8, learning_rate=1e-3, crop_scale=(0.5, 1)
    )
    assert from_file(FinetuneSettings, file, {}) == wanted
    assert wanted.hold_out == 0.2
    # A run's own file is complete. What it leaves out is what runs without the setting did.
    saved = {name: value for name, value in wanted.to_dict().items() if name not in FinetuneSettings.ADDED}
    (tmp_path / "settings.json").write_text(json.dumps(saved))
    assert from_file(FinetuneSettings, tmp_path / "settings.json", {}).hold_out == 0.0


def test_the_command_line_gives_what_a_file_leaves_out(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("steps = 3\n")
    assert from_file(FinetuneSettings, file, {"images": "a", "output": "b"}).images == Path("a")
    with pytest.raises(ConfigError, match=r"mine.toml does not say output.*--output"):
        from_file(FinetuneSettings, file, {"images": "a"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 8", "line 4: beit finetune does not know: batchsize. Did you mean batch_size"),
        ("steps: many", "line 4: steps is 'many'; wanted a whole number or null"),
        ("steps: 2026-01-02", "line 4: steps is a date here"),
        ("flip: yes", "line 4: flip is true here"),
        ("steps: {a: 1}", "line 4: steps is a table"),
        ("more: {a: 1}", "line 4: more is a table.*at the top"),
        ("steps: .nan", "line 4: steps is nan"),
        ("learning_rate: fast", "learning_rate is 'fast'; wanted"),
        ("seed: 3\nbatch_size: -1", "mine.yaml, line 5: batch_size is -1"),
        ("compile: true\nframework: flax", "mine.yaml: Flax runs are always compiled"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_line(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(SOME + text)
    with pytest.raises(ConfigError, match=message):
        from_file(FinetuneSettings, file, {})


def test_settings_of_another_command_name_it(tmp_path):
    values = make(PretrainSettings).to_dict()
    message = "these are settings of beit pretrain, and not of beit finetune.*Use them with beit pretrain"
    with pytest.raises(CheckpointError, match=message):
        from_dict(FinetuneSettings, values)
    (tmp_path / "settings.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=message):
        from_file(FinetuneSettings, tmp_path / "settings.json", {})


def test_the_device_is_no_property_of_a_run():
    here, there = make(PretrainSettings).to_dict(), make(PretrainSettings, device="cuda:1").to_dict()
    assert "device" not in here  # runs of earlier versions have none
    assert differences(here, there, PretrainSettings.ADDED) == []


def test_a_learning_rate_of_auto_is_the_papers_and_0_the_old_word_for_it(caplog):
    left_out = make(PretrainSettings).learning_rate
    assert make(PretrainSettings, learning_rate="auto").learning_rate == left_out
    assert isinstance(make(PretrainSettings, learning_rate="auto").learning_rate, PaperRate)
    assert not caplog.records
    assert make(PretrainSettings, learning_rate=0).learning_rate == left_out
    assert "write auto instead" in caplog.text
    with pytest.raises(ConfigError, match="wanted a number above 0, or auto"):
        make(PretrainSettings, learning_rate="fast")
    with pytest.raises(ConfigError, match="learning_rate is -1"):
        make(PretrainSettings, learning_rate=-1)


@pytest.mark.parametrize("value", ["auto", "0"])
def test_learning_rate_auto_on_the_command_line(value):
    from beit.cli.parsing import parse

    flags = ["--images", "a", "--output", "b", "--learning-rate", value]
    assert isinstance(parse(FinetuneSettings, "finetune", flags).learning_rate, PaperRate)


def test_differences_name_what_a_resume_must_keep():
    old = make(PretrainSettings, seed=1, learning_rate=0.0015).to_dict()
    new = make(PretrainSettings, seed=2, learning_rate=0.5, crop_scale=(0.2, 1.0)).to_dict()
    assert differences(old, new) == [
        "crop_scale: [0.08, 1.0] then, [0.2, 1.0] now",
        "learning_rate: 0.0015 then, 0.5 now",
        "seed: 1 then, 2 now",
    ]
    watched = {"output": Path("elsewhere"), "resume": "auto", "workers": 9, "log_every": 3, "save_every": 4, "keep": 5}
    assert differences(old, make(PretrainSettings, seed=1, learning_rate=0.0015, **watched).to_dict()) == []
    assert differences({**old, "gone": 1}, old) == ["gone: 1 then, None now"]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (TokenizerSettings, {"batch_size": 0}, "batch_size is 0"),
        (TokenizerSettings, {"log_every": 0}, "log_every is 0"),
        (TokenizerSettings, {"save_every": -1}, "save_every is -1"),
        (TokenizerSettings, {"keep": 0}, "keep is 0"),
        (TokenizerSettings, {"steps": 0}, "steps is 0"),
        (TokenizerSettings, {"epochs": 0}, "epochs is 0"),
        (TokenizerSettings, {"learning_rate": -1e-9}, "it must be above 0, or auto"),
        (TokenizerSettings, {"min_learning_rate": -1e-9}, "min_learning_rate"),
        (TokenizerSettings, {"warmup": 1.0}, r"warmup is 1\.0"),
        (TokenizerSettings, {"workers": -1}, "workers is -1"),
        (TokenizerSettings, {"clip": -1}, "clip is -1"),
        (TokenizerSettings, {"weight_decay": -0.1}, r"weight_decay is -0\.1"),
        (TokenizerSettings, {"seed": -3}, "seed is -3"),
        (TokenizerSettings, {"beta2": 1.0}, r"beta2 is 1\.0"),
        (TokenizerSettings, {"crop_scale": (0.0, 1.0)}, "crop_scale"),
        (TokenizerSettings, {"min_temperature": 0.0}, "min_temperature"),
        (PretrainSettings, {"mask_ratio": 0.0}, r"mask_ratio is 0\.0"),
        (PretrainSettings, {"mask_ratio": 1.0}, r"mask_ratio is 1\.0"),
        (PretrainSettings, {"crop_scale": (0.5, 0.4)}, "crop_scale"),
        (PretrainSettings, {"crop_scale": (0.5, 1.4)}, "crop_scale"),
        (PretrainSettings, {"flip": 1.5}, r"flip is 1\.5"),
        (PretrainSettings, {"jitter": -0.1}, r"jitter is -0\.1"),
        (FinetuneSettings, {"layer_decay": 0.0}, r"layer_decay is 0\.0"),
        (FinetuneSettings, {"layer_decay": 1.1}, r"layer_decay is 1\.1"),
        (FinetuneSettings, {"crop_scale": (0.0, 0.4)}, "crop_scale"),
        (FinetuneSettings, {"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        (FinetuneSettings, {"label_smoothing": 1.1}, r"label_smoothing is 1\.1"),
        (FinetuneSettings, {"erase": -1}, "erase is -1"),
        (FinetuneSettings, {"mixup": -1}, "mixup and cutmix"),
        (FinetuneSettings, {"labels_per_class": 0}, "labels_per_class is 0"),
    ],
)
def test_impossible_values_are_refused(kind, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(kind, **changes)


def test_learning_rates_left_out_are_the_papers():
    assert make(PretrainSettings, batch_size=2048).learning_rate == pytest.approx(1.5e-3)
    assert make(PretrainSettings, batch_size=256).learning_rate == pytest.approx(1.5e-3 / 8)
    assert make(FinetuneSettings, model="a/folder", batch_size=1024).learning_rate == pytest.approx(4e-3)
    assert make(FinetuneSettings, model="a/folder", batch_size=64).learning_rate == pytest.approx(4e-3 / 16)
    assert make(PretrainSettings, learning_rate=0.25).learning_rate == 0.25
    # What is saved is the rate itself, so that a resumed run keeps it.
    assert make(PretrainSettings, batch_size=256).to_dict()["learning_rate"] == pytest.approx(1.5e-3 / 8)


@pytest.mark.parametrize(
    ("source", "least"),
    [
        (base_settings, 1),
        (tokenizer_settings, 2),
        (pretrain_settings, 1),
        (finetune_settings, 1),
        (segmentation_settings, 1),
        (classify, 2),
        (predict, 1),
        (segment, 3),
        (checkpoints, 5),
        (train_command, 1),
        (recipes_command, 1),
        (plan, 1),
        (demo_settings, 2),
        (evaluation_settings, 3),
    ],
)
def test_every_field_is_explained(source, least):
    """The string below a field is its text in --help."""
    classes = [node for node in ast.parse(inspect.getsource(source)).body if isinstance(node, ast.ClassDef)]
    assert len(classes) >= least
    for node in classes:
        assert ast.get_docstring(node), node.name
        for item, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(item, ast.AnnAssign):
                text = following.value.value if isinstance(following, ast.Expr) else ""
                assert isinstance(text, str)
                assert len(text) > 5, f"{node.name}.{item.target.id} has no text"
                assert text.endswith("."), f"{node.name}.{item.target.id}: {text}"


def test_recipes_return_settings_that_fit_together(tmp_path):
    recipe = recipes.garments(tmp_path, seed=3, length=0.01)
    assert recipe.pretrain.tokenizer == str(recipe.tokenizer.output)
    assert recipe.finetune.model == str(recipe.pretrain.output)
    tuned, scratch = recipe.finetune.to_dict(), recipe.scratch.to_dict()
    assert {name for name in tuned if tuned[name] != scratch[name]} <= {"model", "output", "layer_decay", "drop_path"}
    full = recipes.garments(tmp_path)
    for item in fields(full):
        short, long = getattr(recipe, item.name), getattr(full, item.name)
        assert (short.seed, long.seed) == (3, 0)
        assert 4 <= short.steps < long.steps / 20
        assert from_dict(type(long), json.loads(json.dumps(long.to_dict()))) == long
        assert long.output.parent == tmp_path
    assert recipes.photographs(tmp_path, tmp_path / "t").images == tmp_path

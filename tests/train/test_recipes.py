"""Recipes: the published numbers once more, by hand; scaling; and command lines that stand for the very same settings."""

from __future__ import annotations

import inspect
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beit.cli import main
from beit.cli.parsing import parse
from beit.core.errors import ConfigError
from beit.demo.settings import DemoSettings
from beit.evaluation.settings import Probe
from beit.train import recipes
from beit.train import settings as module
from beit.train.recipes import RECIPES, arguments_of, command_line, facts, find, runs
from beit.train.recipes.pretrain import parts
from beit.train.settings import FinetuneSettings, PretrainSettings, SegmentSettings, TokenizerSettings, from_dict

KINDS: dict[str, Any] = {
    "tokenizer train": TokenizerSettings,
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "finetune scratch": FinetuneSettings,
    "segment train": SegmentSettings,
    "probe": Probe,
}
GIVEN = {"images": "some/images", "output": "runs/x", "tokenizer": "runs/t", "model": "some/model"}
HALF, MEAN, STD = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def only(name: str, **changes: Any) -> Any:
    (settings,) = runs(find(name), **{**GIVEN, **changes}).values()
    return settings


def values(settings: Any) -> dict[str, Any]:
    """For comparison: a path is the same however it is typed."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}


def process_count(line: str) -> int:
    found = {name: int(number) for name, number in re.findall(r"--(nnodes|nproc-per-node) (\d+)", line)}
    return found.get("nnodes", 1) * found.get("nproc-per-node", 1)


# --- the published numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "epochs", "warmup", "layer_scale", "clip", "mean", "std"),
    [
        ("pretrain-base-in1k", "base", 800, 10 / 800, 0.1, 3.0, MEAN, STD),
        ("pretrain-large-in1k", "large", 800, 10 / 800, 1e-5, 1.0, MEAN, STD),
        ("pretrain-base-in22k", "base", 150, None, 0.1, 3.0, HALF, HALF),
        ("pretrain-large-in22k", "large", 150, None, 1e-5, 1.0, HALF, HALF),
    ],
)
def test_pre_training_is_the_papers(name, model, epochs, warmup, layer_scale, clip, mean, std):
    found = only(name)
    assert (found.model, found.epochs, found.layer_scale, found.clip) == (model, epochs, layer_scale, clip)
    assert (found.mean, found.std) == (mean, std)
    steps = 150 * (14_197_122 // 2048)
    assert found.warmup == warmup if warmup is not None else abs(found.warmup * steps - 10_000) < 1
    assert (found.batch_size, found.learning_rate, found.min_learning_rate) == (2048, 1.5e-3, 1e-5)
    assert (found.weight_decay, found.beta2, found.drop_path, found.schedule) == (0.05, 0.999, 0.1, "cosine")
    assert (found.weight_decay_end, found.ema, found.target) == (None, 0.0, "tokens")
    assert (found.mask, found.min_block, found.crop_scale) == ("block", None, (0.08, 1.0))
    assert found.mask_ratio == pytest.approx(75 / 196)
    assert (found.jitter, found.flip) == (0.4, 0.5)


@pytest.mark.parametrize(
    ("name", "rate", "batch", "epochs", "warmup", "decay", "drop", "weight_decay", "mixup", "cutmix", "size"),
    [
        ("finetune-base", 4e-3, 1024, 100, 20, 0.65, 0.1, 0.05, 0.8, 1.0, None),
        ("finetune-large", 1e-3, 1024, 50, 5, 0.75, 0.2, 0.05, 0.8, 1.0, None),
        ("finetune-base-labels", 2e-5, 512, 30, 5, 0.85, 0.1, 1e-8, 0.0, 0.0, None),
        ("finetune-large-labels", 2e-5, 512, 30, 5, 0.9, 0.4, 1e-8, 0.0, 0.0, None),
        ("finetune-base-384", 2e-5, 512, 30, 5, 0.85, 0.1, 1e-8, 0.0, 0.0, 384),
        ("finetune-large-384", 2e-5, 512, 30, 5, 0.9, 0.4, 1e-8, 0.0, 0.0, 384),
        ("finetune-large-512", 2e-5, 512, 30, 5, 0.9, 0.4, 1e-8, 0.0, 0.0, 512),
    ],
)
def test_fine_tuning_is_the_authors(name, rate, batch, epochs, warmup, decay, drop, weight_decay, mixup, cutmix, size):
    found = only(name)
    assert (found.learning_rate, found.batch_size, found.epochs) == (rate, batch, epochs)
    assert found.warmup == pytest.approx(warmup / epochs, rel=1e-5)
    assert (found.layer_decay, found.drop_path, found.weight_decay) == (decay, drop, weight_decay)
    assert (found.mixup, found.cutmix, found.mix_probability, found.image_size) == (mixup, cutmix, 1.0, size)
    assert (found.augment, found.jitter, found.erase, found.label_smoothing) == ("rand", 0.4, 0.25, 0.1)
    assert (found.crop, found.crop_scale, found.flip) == ("resized", (0.08, 1.0), 0.5)
    assert (found.min_learning_rate, found.ema, found.clip, found.beta2) == (1e-6, 0.0, 0.0, 0.999)


def test_the_linear_probe_is_the_authors():
    found = only("probe-base")
    assert (found.epochs, found.linear_batch_size, found.learning_rate) == (100, 1024, 4e-3)
    assert only("probe-base", batch_size=256).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("pretrain-base-in1k", "83.2"),
        ("pretrain-large-in1k", "85.2"),
        ("pretrain-base-in22k", "83.7"),
        ("pretrain-large-in22k", "86.0"),
        ("finetune-base", "83.2 top-1 from pretrain-base-in1k (table 1), 83.7"),
        ("finetune-large", "86.0"),
        ("finetune-base-labels", "85.2"),
        ("finetune-large-labels", "87.4"),
        ("finetune-base-384", "86.8"),
        ("finetune-large-384", "88.4"),
        ("finetune-large-512", "88.6"),
        ("probe-base", "56.7"),
        ("ade20k-base-labels", "53.6 mIoU at 640 pixels, 54.2"),
        ("ade20k-large-labels", "56.7 mIoU at 640 pixels, 57.0"),
    ],
)
def test_each_names_its_published_number(name, number):
    assert number in facts(RECIPES[name])["Published"][0]


def test_the_small_experiment():
    """CIFAR-10, with tokens or pixels as target."""
    found = recipes.small_images(Path("cifar"), Path("o"), target="tokens", labels_per_class=20)
    tokenizer, pretrain = found.tokenizer, found.pretrain
    assert (tokenizer.image_size, tokenizer.vocab_size, tokenizer.factor, tokenizer.width) == (32, 256, 4, 16)
    assert (tokenizer.steps, tokenizer.crop_scale) == (800, (0.6, 1.0))
    assert (pretrain.model, pretrain.image_size, pretrain.steps, pretrain.batch_size) == ("tiny", 32, 6000, 128)
    assert (pretrain.learning_rate, pretrain.warmup, pretrain.crop_scale) == (3e-3, 0.1, (0.6, 1.0))
    assert (pretrain.jitter, pretrain.drop_path) == (0.0, 0.0)
    assert (pretrain.mean, pretrain.std) == ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
    assert (pretrain.tokenizer, pretrain.target) == ("o/tokenizer", "tokens")
    assert (found.finetune.model, found.scratch.model) == ("o/pretrain", "tiny")
    tuned, scratch = values(found.finetune), values(found.scratch)
    assert {name for name in tuned if tuned[name] != scratch[name]} == {"model", "output", "image_size"}
    assert found.finetune.labels_per_class == 20
    pixels = recipes.small_images(Path("cifar"), Path("o"), target="pixels", seed=3, length=0.001).pretrain
    assert (pixels.tokenizer, pixels.target, pixels.seed, pixels.steps) == (None, "pixels", 3, 6)


# --- scaling -----------------------------------------------------------------------------------------------------

SCALED = [name for name, recipe in RECIPES.items() if "batch_size" in inspect.signature(recipe).parameters]


@pytest.mark.parametrize("name", SCALED)
def test_the_learning_rate_goes_with_the_batch(name):
    published, quarter = (runs(RECIPES[name], size, 1, **GIVEN) for size in (None, _batch(name) // 4))
    for command, full in published.items():
        part = quarter[command]
        if command == "tokenizer train":
            assert part == full  # its batch is its own
            continue
        assert part.learning_rate == pytest.approx(full.learning_rate / 4, rel=1e-5)
        if command == "segment train":  # counted in steps
            assert part.steps == full.steps * 4
        else:
            assert part.epochs == full.epochs
        assert getattr(part, "warmup", None) == getattr(full, "warmup", None)


def _batch(name: str) -> int:
    return inspect.signature(RECIPES[name]).parameters["batch_size"].default


@given(share=st.integers(1, 600), devices=st.integers(1, 40), most=st.integers(1, 300))
def test_a_device_holds_no_more_than_it_can(share, devices, most):
    number = parts(share * devices, devices, most)
    assert share % number == 0
    assert share // number <= most
    assert not any(share % fewer == 0 and share // fewer <= most for fewer in range(1, number))


def test_few_devices_take_a_batch_in_parts():
    assert only("pretrain-base-in1k", devices=16).accumulate == 1
    alone = only("pretrain-base-in1k", devices=1)
    assert (alone.accumulate, alone.learning_rate) == (16, 1.5e-3)
    assert only("pretrain-large-in1k", devices=8).accumulate == 4
    with pytest.raises(ConfigError, match="2048 cannot be divided among 3 devices"):
        only("pretrain-base-in1k", devices=3)


# --- command lines -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_the_docstring_says_everything_and_its_commands_are_the_recipe(name, monkeypatch):
    recipe = RECIPES[name]
    found = facts(recipe)
    assert {"About", "Command", "Hardware", "Time", "Published"} <= set(found)
    assert re.search(r"published|estimated|measured", found["Time"][0])
    for line in found["Command"]:
        arguments = shlex.split(line)
        arguments = arguments[arguments.index("beit.cli" if arguments[0] == "torchrun" else "beit") + 1 :]
        if arguments[0] == "demo":
            assert parse(DemoSettings, "demo", arguments[1:]).output == Path("runs/demo")
            continue
        monkeypatch.setenv("WORLD_SIZE", str(process_count(line)))
        command = next(text for text in KINDS if arguments[: len(text.split())] == text.split())
        parsed = parse(KINDS[command], command, arguments[len(command.split()) :])
        assert name == arguments[arguments.index("--recipe") + 1]

        # The function itself, with its own defaults: what a reader of the docstring expects to run.
        wanted = inspect.signature(recipe).parameters
        known = {item: getattr(parsed, item) for item in wanted if item in GIVEN or item == "validation"}
        known |= {item: Path(known[item]) for item in ("images", "output") if item in known}
        if "data" in wanted:
            known["data"] = Path("ADEChallengeData2016")
        if len(found["Command"]) > 1:  # an experiment: the folder of its runs
            known["output"] = parsed.output.parent
        made = recipe(**known)
        if isinstance(made, recipes.Experiment):
            made = getattr(made, command.split()[0])
        assert values(made) == values(parsed)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "garments"])
@pytest.mark.parametrize("devices", [1, 4])
def test_the_printed_command_and_json_are_the_recipe(name, devices, capsys):
    if name == "probe-base" and devices > 1:
        pytest.skip("the probe runs on one device")
    flags = [text for item, value in GIVEN.items() for text in (f"--{item}", value)]
    expected = runs(RECIPES[name], None, devices, **GIVEN)
    assert main(["recipes", name, "--command", "--devices", str(devices), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected)
    for line, (command, settings) in zip(lines, expected.items(), strict=True):
        assert process_count(line) == devices
        arguments = shlex.split(line)
        typed = command.removesuffix(" scratch").split()
        start = arguments.index(typed[0])
        assert arguments[start : start + len(typed)] == typed
        parsed = parse(KINDS[command], command, arguments[start + len(typed) :])
        assert values(parsed) == values(settings)
        assert "--recipe" not in arguments

        assert main(["recipes", name, "--json", "--part", command, "--devices", str(devices), *flags]) == 0
        printed = json.loads(capsys.readouterr().out)
        if command != "probe":
            assert values(from_dict(KINDS[command], printed)) == values(settings)


def test_a_run_from_printed_json(tmp_path, capsys):
    assert main(["recipes", "small-images", "--json", "--part", "pretrain", "--images", "i", "--output", "o"]) == 0
    file = tmp_path / "settings.json"
    file.write_text(capsys.readouterr().out)
    parsed = parse(PretrainSettings, "pretrain", ["--settings", str(file), "--steps", "7"])
    assert (parsed.steps, parsed.model, parsed.tokenizer) == (7, "tiny", "o/tokenizer")


def test_flags_override_a_recipe_and_the_batch_scales_it():
    where = ["--images", "i", "--output", "o", "--tokenizer", "t"]
    for typed in (["--batch-size", "256"], ["--batch-size=256"]):
        found = parse(PretrainSettings, "pretrain", ["--recipe", "pretrain-base-in1k", *where, *typed])
        assert (found.batch_size, found.accumulate) == (256, 2)
        assert math.isclose(found.learning_rate, 1.5e-3 / 8)
    found = parse(PretrainSettings, "pretrain", [*where, "--recipe=pretrain-base-in1k", "--learning-rate", "1e-3"])
    assert (found.batch_size, found.learning_rate, found.epochs) == (2048, 1e-3, 800)
    assert found.accumulate == 16  # one process
    assert parse(PretrainSettings, "pretrain", [*where, "--recipe", "base-100", "--resume"]).resume == "auto"


def test_arguments_of_every_kind_of_value():
    settings = PretrainSettings(
        images="photos of mine",
        output=Path("o"),
        tokenizer="t",
        gradient_checkpointing=True,
        crop_scale=(0.2, 1.0),
        steps=3,
        learning_rate=1e-5,
    )
    arguments = arguments_of(settings)
    assert parse(PretrainSettings, "pretrain", arguments) == settings
    line = command_line("pretrain", settings, 2)
    assert line.startswith("torchrun --nproc-per-node 2 -m beit.cli pretrain ")
    assert "'photos of mine'" in line


# --- what is printed, and what is refused ------------------------------------------------------------------------


def test_the_list_and_one_recipe(capsys):
    assert main(["recipes"]) == 0
    text = capsys.readouterr().out
    for name, recipe in RECIPES.items():
        assert f"{name} " in text
        assert facts(recipe)["About"][0] in text
        assert facts(recipe)["Published"][0] in text
    assert main(["recipes", "finetune-base-384"]) == 0
    text = capsys.readouterr().out
    assert "86.8" in text
    assert "gigaflop per image" in text
    assert main(["recipes", "small-images", "--print", "--part", "pretrain"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^\* learning_rate +0.003$", text, re.MULTILINE)
    assert re.search(r"^  beta2 +0.999$", text, re.MULTILINE)
    assert re.search(r"^\* images +\[images\]$", text, re.MULTILINE)


def test_every_field_is_in_the_table(capsys):
    assert main(["recipes", "ade20k-base", "--print"]) == 0
    text = capsys.readouterr().out
    for name in vars(only("ade20k-base")):
        assert f" {name} " in text


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["recipes", "finetune-bse"], "Did you mean finetune-base", 1),
        (["recipes", "xyz"], "There is no recipe 'xyz'. beit recipes lists them.", 1),
        (["recipes", "--json"], "Name a recipe", 1),
        (["recipes", "small-images", "--json"], "--part 'tokenizer train' or", 1),
        (["recipes", "small-images", "--part", "probe"], "has no part 'probe'", 1),
        (["recipes", "small-images", "--print", "--batch-size", "64"], "fixed batch", 1),
        (["recipes", "finetune-base", "--print", "--batch-size", "0"], "batch_size is 0", 1),
        (["recipes", "finetune-base", "--print", "--devices", "3"], "among 3 devices", 1),
        (["recipes", "finetune-base", "--print", "--devices", "0"], "devices is 0", 1),
        (["pretrain", "--recipe", "finetune-base"], "finetune-base is a recipe for beit finetune, not for beit", 1),
        (["finetune", "--recipe", "ade20k-base"], "a recipe for beit segment train, not for beit finetune", 1),
        (["pretrain", "--recipe", "garments"], "garments is a recipe for beit demo", 1),
        (["predict", "x.png", "--recipe", "small-images"], "not for beit predict", 1),
        (["pretrain", "--recipe"], "--recipe needs a name", 1),
        (["pretrain", "--recipe", "base-100", "--settings", "x.json"], "give one of them", 1),
        (["pretrain", "--recipe", "base-100", "--output", "o"], "--images", 2),
        (["pretrain", "--recipe", "base-100", "--batch-size", "0"], "batch_size is 0", 1),
    ],
)
def test_mistakes_are_explained(arguments, message, status, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(arguments) == status
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert "unexpected" not in printed.err


def test_recipes_load_no_framework():
    import subprocess
    import sys

    code = "import sys, beit.train.recipes as r; [r.runs(f) for n, f in r.RECIPES.items() if n != 'probe-base']; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in found.stdout.split()} & {"torch", "torchvision", "jax"}


def test_recipes_are_settings_of_the_module():
    for name, recipe in RECIPES.items():
        for command, settings in runs(recipe, **GIVEN).items():
            assert type(settings) is KINDS[command], name
            if command != "probe":
                assert isinstance(settings, module.RunSettings)
                settings.validate()

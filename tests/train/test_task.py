"""Several labels, numbers, rare classes, parts of the weights: trained, saved, resumed, measured and reported."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beit.cli import main
from beit.core.errors import ConfigError
from beit.data.sources.table_labels import MULTI, REGRESSION, SINGLE
from beit.train.distributed import Alone
from beit.train.framework import finetuning
from beit.train.parts import parts_of
from beit.train.run import Run
from beit.train.settings import FinetuneSettings
from beit.train.start import Start
from beit.train.task import SINGLE_TASK, Task, balanced_weights, in_words
from fixtures_runs import save_small_model, small_config, stripes

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from beit import BeitForImageClassification
from beit.data.sources.images import ArrayImages
from beit.evaluation.evaluate import evaluate
from beit.inference.trained import open_classifier
from beit.train import finetune as module
from beit.train.finetune import finetune
from beit.train.torch import lora

FEW = {"epochs": 1, "steps": 6, "batch_size": 8, "precision": "fp32", "workers": 0, "log_every": 2, "hold_out": 0.25}


@pytest.fixture
def table(tmp_path) -> Path:
    """A table of 16 images: a class, labels, and two numbers of very different size."""
    pixels, labels = stripes(16)
    rows = [("path", "kind", "tags", "year", "tone")]
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        tags = "upright|odd" if label else "" if number % 4 else "flat"
        rows.append((f"{number}.png", "up" if label else "flat", tags, 2000.5 + number, image.mean() / 1000))
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "t.csv"


@pytest.fixture
def start(tmp_path) -> Path:
    return save_small_model(tmp_path / "start")


def settings_of(table: Path, start: Path, columns: tuple[str, ...], **changes: Any) -> FinetuneSettings:
    values = {**FEW, "images": table, "model": str(start), "output": table.parent / "run", "label_columns": columns}
    return FinetuneSettings(**{**values, **changes})


# --- targets ---------------------------------------------------------------------------------------------------------


def test_weights_make_up_for_rare_classes():
    labels = np.array([0, 0, 0, 2])
    weights = balanced_weights(labels, 3)
    assert weights.tolist() == pytest.approx([4 / 6, 1, 2])
    assert weights[labels].mean() == pytest.approx(1)
    truth = np.array([[True, False, True], [False, False, True], [False, False, True]])
    assert balanced_weights(truth, 3).tolist() == pytest.approx([2, 1, 0.01])


def test_targets_are_what_the_loss_compares():
    numbers = np.array([[1.0, 5.0], [3.0, 5.0]])
    task = Task.of(
        ArrayImages(np.zeros((2, 4, 4), np.uint8), numbers, ["x", "y"]), FinetuneSettings(images="x", output="y")
    )
    assert task.kind == REGRESSION
    assert task.targets(numbers, 2).tolist() == [[-1, 0], [1, 0]]
    assert SINGLE_TASK.targets(np.array([1]), 3).tolist() == [[0, 1, 0]]
    assert Task(MULTI, numbers, numbers).targets(np.array([[True, False]]), 2).tolist() == [[1, 0]]


def test_labels_in_words():
    assert in_words(np.array([0, 1, 1]), ["a", "b"]) == "of 2 classes: a 1, b 2"
    assert in_words(np.array([[True, False], [False, False]]), ["a", "b"]) == (
        "with 2 labels, several an image: a 1, b 0; 1 without any"
    )
    assert in_words(np.array([[1.0], [2.0]]), ["age"]) == "with 1 number: age 1 to 2, mean 1.5"


@pytest.mark.parametrize(
    ("columns", "changes", "says"),
    [
        (("tags",), {"balanced": True}, "balanced draws each class"),
        (("tags",), {"labels_per_class": 2}, "labels_per_class is for one class"),
        (("year", "tone"), {"class_weights": "balanced"}, "class_weights is for classes"),
        (("year", "tone"), {"framework": "flax"}, "in PyTorch only"),
        (("kind",), {"freeze": True, "framework": "flax"}, "freeze is for PyTorch only"),
        (("kind",), {"freeze": True, "lora": 2}, "choose one"),
        (("kind",), {"freeze": True, "model": "tiny"}, "those of --model tiny are random"),
        (("kind",), {"lora": 2, "shard": True}, "leave out shard"),
    ],
)
def test_what_does_not_fit_the_labels_is_refused(table, start, columns, changes, says):
    with pytest.raises(ConfigError, match=says):
        finetune(settings_of(table, start, columns, **changes))


# --- runs ------------------------------------------------------------------------------------------------------------


def numbers_of(found) -> dict[str, Any]:
    return {name: value for name, value in found.to_dict().items() if name != "images_per_second"}


@pytest.mark.parametrize("columns", [("kind",), ("tags",), ("year", "tone")])
@pytest.mark.parametrize("result", ["best", "ema"])
def test_every_kind_is_trained_saved_and_resumed_to_the_bit(table, start, columns, result):
    changes = {"result": result, "ema": 0.5 if result == "ema" else 0.0, "save_every": 3, "validate_every": 3}
    whole = settings_of(table, start, columns, output=table.parent / "whole", **changes)
    history, found = finetune(whole)
    assert found is not None
    assert found.count == 4
    assert (whole.output / "report.html").is_file()
    saved = json.loads((whole.output / "config.json").read_text())
    expected = {("kind",): None, ("tags",): MULTI, ("year", "tone"): REGRESSION}[columns]
    assert saved["problem_type"] == expected

    halves = settings_of(table, start, columns, output=table.parent / "halves", **changes)
    finetune(halves)
    for name in ("config.json", "model.safetensors"):
        (halves.output / name).unlink()
    for path in (halves.output / "checkpoint-000006").iterdir():
        path.unlink()
    (halves.output / "checkpoint-000006").rmdir()
    again, other = finetune(settings_of(table, start, columns, output=halves.output, resume="must", **changes))
    assert [line["loss"] for line in again] == [line["loss"] for line in history]
    assert (whole.output / "model.safetensors").read_bytes() == (halves.output / "model.safetensors").read_bytes()
    assert numbers_of(found) == numbers_of(other)


def test_numbers_come_back_in_their_own_units(table, start):
    """A model of numbers near 2,000 and near 0.1 answers in them from the first steps on."""
    settings = settings_of(table, start, ("year", "tone"), steps=40, learning_rate=3e-3, warmup=0.0)
    history, found = finetune(settings)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    assert "accuracy" not in history[-1]
    model, processor = open_classifier(str(settings.output))
    assert model.config.class_names == ["year", "tone"]
    answers = model(**processor([Image.open(table.parent / "3.png")], return_tensors="pt")).logits[0].tolist()
    assert 1990 < answers[0] < 2030
    assert 0 < answers[1] < 0.3
    assert found is not None
    assert found.names == ["year", "tone"]
    # A run that begins from it goes on where it was: its head is not new.
    next_history, _ = finetune(settings_of(table, settings.output, ("year", "tone"), output=table.parent / "next"))
    assert next_history[0]["loss"] < history[0]["loss"]


def test_the_same_scores_while_training_and_afterwards(table, start):
    for columns, name, score in (
        (("tags",), "validation_map", "mean_average_precision"),
        (("year", "tone"), "validation_r2", "r2"),
    ):
        output = table.parent / name
        history, found = finetune(settings_of(table, start, columns, output=output, validate_every=2, result="last"))
        value = getattr(found, score)
        assert history[-1][name] == pytest.approx(np.mean(value), abs=1e-4)


@pytest.mark.parametrize("framework", ["torch", "flax"])
@pytest.mark.parametrize("kind", [SINGLE, MULTI])
def test_the_loss_is_the_formula_with_weights(tmp_path, framework, kind):
    """-Σ w_c t_c log p_c by softmax; -Σ (w_c t_c log p_c + (1 - t_c) log (1 - p_c)) / classes by sigmoids."""
    settings = FinetuneSettings(
        images="x", output=tmp_path, model="tiny", framework=framework, precision="fp32", label_smoothing=0.0
    )
    config = small_config(num_labels=3, use_relative_position_bias=True, problem_type=kind)
    task = Task(kind, np.zeros(0), np.zeros(0), np.array([0.5, 1, 3], np.float32))
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((4, 3, 16, 16)).astype(np.float32)
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    if kind == MULTI:
        targets[0] = 1
    if framework == "flax":
        pytest.importorskip("flax")
        pytest.importorskip("optax")
    module = finetuning(framework)
    run = Run(Alone() if framework == "flax" else module.processes(settings), settings)
    model = module.model(run, Start(None, config, None), config, task)
    logits = np.asarray(model(pixels if framework == "flax" else torch.from_numpy(pixels))[0].tolist(), np.float64)
    metrics = module.engine(run, model, task).step({"pixel_values": pixels, "targets": targets}, 0, 0.0, None)
    sigmoid = 1 / (1 + np.exp(-logits))
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    weighted = task.weights * targets
    expected = -(weighted * np.log(softmax)).sum(1).mean()
    if kind == MULTI:
        expected = -(weighted * np.log(sigmoid) + (1 - targets) * np.log(1 - sigmoid)).mean()
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-4)


def test_balanced_runs_learn_from_rare_classes(table, start, monkeypatch):
    pixels, labels = stripes(16)
    labels[:] = 0
    labels[0] = 1
    settings = settings_of(table, start, ("kind",), balanced=True, label_columns=None, hold_out=0.0)
    seen: list[np.ndarray] = []
    plain = module.mix

    def mix(batch, *rest):
        seen.append(np.asarray(batch["labels"]))
        return plain(batch, *rest)

    monkeypatch.setattr(module, "mix", mix)
    finetune(settings, ArrayImages(pixels, labels, ["a", "b"]))
    assert np.concatenate(seen).mean() == 0.5


# --- parts of the weights --------------------------------------------------------------------------------------------


def test_a_frozen_model_trains_its_head_alone(table, start):
    settings = settings_of(table, start, ("kind",), freeze=True, steps=4)
    assert settings.learning_rate == 5e-3
    finetune(settings)
    before, after = (BeitForImageClassification.from_pretrained(path, num_labels=2, ignore_mismatched_sizes=True).state_dict()
                     for path in (start, settings.output))  # fmt: skip
    changed = {name for name in after if name in before and not torch.equal(before[name], after[name])}
    assert {"classifier.weight", "classifier.bias"} <= changed
    assert not [name for name in changed if name.startswith(("beit.encoder", "beit.embeddings"))]
    assert json.loads((settings.output / "settings.json").read_text())["drop_path"] == 0


def test_lora_trains_updates_and_saves_a_plain_model(table, start):
    pytest.importorskip("peft")
    changes = {"lora": 2, "save_every": 3, "learning_rate": 1e-2}
    whole = settings_of(table, start, ("kind",), output=table.parent / "whole", **changes)
    history, found = finetune(whole)
    assert found is not None
    saved = BeitForImageClassification.from_pretrained(whole.output)
    assert not lora.has(saved)
    before = BeitForImageClassification.from_pretrained(start, num_labels=2, ignore_mismatched_sizes=True).state_dict()
    update = (
        saved.state_dict()["beit.encoder.layer.0.output.dense.weight"]
        - before["beit.encoder.layer.0.output.dense.weight"]
    )
    assert torch.linalg.matrix_rank(update, tol=1e-6) == 2
    bias = "beit.encoder.layer.0.output.dense.bias"
    assert torch.equal(saved.state_dict()[bias], before[bias])

    halves = settings_of(table, start, ("kind",), output=table.parent / "halves", **changes)
    finetune(halves)
    for path in (halves.output / "checkpoint-000006").iterdir():
        path.unlink()
    (halves.output / "checkpoint-000006").rmdir()
    (halves.output / "config.json").unlink()
    again, _ = finetune(settings_of(table, start, ("kind",), output=halves.output, resume="must", **changes))
    assert [line["loss"] for line in again] == [line["loss"] for line in history]
    assert (whole.output / "model.safetensors").read_bytes() == (halves.output / "model.safetensors").read_bytes()


def test_a_merged_copy_answers_as_the_model_with_updates(start):
    pytest.importorskip("peft")
    import copy

    model = BeitForImageClassification.from_pretrained(start, num_labels=2, ignore_mismatched_sizes=True).eval()
    lora.add(model, 2, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    merged = copy.deepcopy(model)
    lora.merge(merged)
    assert not lora.has(merged)
    pixels = torch.randn(2, 3, *[model.config.image_size] * 2)
    with torch.no_grad():
        assert torch.allclose(model(pixels).logits, merged(pixels).logits, atol=1e-5)


def test_rows_of_a_split_are_never_learned_from(table, start):
    """Not even where other images are given to measure on."""
    with open(table, newline="") as file:
        rows = list(csv.reader(file))
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows(
            [[*row, "split" if not n else "val" if n % 4 == 0 else "train"] for n, row in enumerate(rows)]
        )
    settings = settings_of(table, start, ("kind",))
    parts = parts_of(settings)
    assert (len(parts.learn), len(parts.measure), parts.how) == (12, 4, "split val")
    other = ArrayImages(*stripes(4), ["flat", "up"])
    parts = parts_of(settings, validation=other)
    assert len(parts.learn) == 12
    assert parts.measure is other


# --- as a user -------------------------------------------------------------------------------------------------------


def test_the_command_line_trains_and_evaluates_tables(table, start, capsys):
    flags = ["--steps", "2", "--batch-size", "8", "--workers", "0", "--precision", "fp32"]
    for columns, reached in ((["tags"], "mAP"), (["year", "tone"], "R²"), (["kind"], "top-1")):
        output = str(table.parent / columns[0])
        command = ["finetune", "--images", str(table), "--model", str(start), "--output", output, *flags]
        assert main([*command, "--label-columns", *columns]) == 0
        shown = capsys.readouterr()
        assert reached in shown.out + shown.err
        report = str(table.parent / f"{columns[0]}-report")
        command = ["evaluate", "--model", output, "--images", str(table), "--output", report]
        assert main([*command, "--label-columns", *columns]) == 0
        assert reached in capsys.readouterr().out
        assert (Path(report) / "report.html").is_file()


def test_labels_of_another_kind_are_refused(table, start, capsys):
    flags = ["--steps", "2", "--batch-size", "8", "--workers", "0", "--precision", "fp32"]
    output = str(table.parent / "run")
    command = ["finetune", "--images", str(table), "--model", str(start), "--output", output, *flags]
    assert main([*command, "--label-columns", "year", "tone"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--model", output, "--images", str(table), "--label-columns", "kind"]) == 1
    assert "the model knows year, tone" in capsys.readouterr().err
    pixels, labels = stripes(4)
    model, processor = open_classifier(output)
    with pytest.raises(ConfigError, match=r"problem_type is regression, and the labels are for single_label"):
        evaluate(model, processor, ArrayImages(pixels, labels, ["a", "b"]))

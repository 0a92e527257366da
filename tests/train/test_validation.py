"""Runs that are measured while they train: which images, what is measured, which model is the result, and when they end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beit.core.errors import CheckpointError, ConfigError
from beit.data.sources.images import ArrayImages, FolderImages
from beit.data.sources.splits import splits_of
from beit.train.parts import parts_of
from beit.train.selection import Selection
from beit.train.settings import FinetuneSettings, SegmentSettings, from_dict
from beit.train.settings.by_count import batch_for, epochs_for
from beit.train.validation import scores
from fixtures_runs import log_lines, stripes, weights_of, write_images

# --- what is measured ------------------------------------------------------------------------------------------------


def test_scores_are_the_plain_formulas() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 7)).astype(np.float32), rng.integers(0, 7, 50)
    found = scores(logits, labels)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    order = np.argsort(-logits, axis=1)
    assert found["validation_loss"] == pytest.approx(-np.log(shares[np.arange(50), labels]).mean(), abs=1e-6)
    assert found["validation_top1"] == pytest.approx((order[:, 0] == labels).mean(), abs=1e-6)
    assert found["validation_top5"] == pytest.approx(
        np.mean([y in row[:5] for y, row in zip(labels, order, strict=True)])
    )
    per_class = []
    for number in range(7):
        right = ((order[:, 0] == number) & (labels == number)).sum()
        precision, recall = right / max((order[:, 0] == number).sum(), 1), right / max((labels == number).sum(), 1)
        per_class.append(0.0 if right == 0 else 2 * precision * recall / (precision + recall))
    assert found["validation_macro_f1"] == pytest.approx(np.mean(per_class), abs=1e-6)
    assert "validation_top5" not in scores(logits[:, :3], labels % 3)


def test_a_certain_and_wrong_answer_has_a_finite_loss() -> None:
    assert scores(np.array([[1e4, 0.0]], np.float32), np.array([1]))["validation_loss"] == 1e4


# --- which step is the best ------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.5, float("nan")]), st.sampled_from([1.0, 2.0, float("nan")])), max_size=9
    )
)
def test_the_best_is_the_first_with_the_highest_score_and_then_the_lowest_loss(
    pairs: list[tuple[float, float]],
) -> None:
    selection = Selection("score", "loss")
    said = [selection.add(step, {"score": score, "loss": loss}) for step, (score, loss) in enumerate(pairs)]
    known = [
        (score, -loss if loss == loss else -np.inf, -step) for step, (score, loss) in enumerate(pairs) if score == score
    ]
    assert selection.best == (-max(known)[2] if known else None)
    if said and selection.best is not None:
        assert said[selection.best]
        assert not any(said[selection.best + 1 :])
    again = Selection("score", "loss")
    again.restore(json.loads(json.dumps(selection.state())))
    assert again.best == selection.best


def test_patience_counts_measurements_since_the_best() -> None:
    selection = Selection("score", "loss", patience=2)
    for step, score in enumerate([0.1, 0.3, 0.2]):
        selection.add(step, {"score": score})
        assert not selection.exhausted
    selection.add(3, {"score": 0.3})  # not better
    assert selection.exhausted
    assert selection.best == 1


# --- which images ----------------------------------------------------------------------------------------------------


@given(st.integers(2, 200_000))
def test_few_images_get_many_steps(count: int) -> None:
    batch, epochs = batch_for(count), epochs_for(count)
    assert 1 <= batch <= min(128, count)
    assert 5 <= epochs <= 100
    assert count % batch < batch
    assert count // batch * epochs >= 80 or count < 4


def test_the_batch_and_the_epochs_that_are_decided() -> None:
    assert [(batch_for(count), epochs_for(count)) for count in (160, 800, 8_000, 60_000, None)] == [
        (32, 75), (32, 34), (64, 11), (125, 5), (128, 5),
    ]  # fmt: skip
    assert batch_for(170) == 28  # leaves out two images of an epoch, 32 would leave out ten
    assert batch_for(800, parts=3) % 3 == 0
    given_ = FinetuneSettings(images="x", output=Path("y"), batch_size=16, epochs=3, learning_rate=1e-3).decided(100)
    assert (given_.batch_size, given_.epochs, given_.learning_rate) == (16, 3, 1e-3)
    open_ = FinetuneSettings(images="x", output=Path("y")).decided(800)
    assert open_.learning_rate == pytest.approx(4e-3 * 32 / 1024)
    assert FinetuneSettings(images="x", output=Path("y"), steps=5).decided(800).epochs == 0  # the steps count


def folder_of_parts(folder: Path, *names: str, each: int = 4) -> Path:
    for name in names:
        write_images(folder / name, each, labelled=True)
    return folder


def settings(folder: Path, **changes: Any) -> FinetuneSettings:
    return FinetuneSettings(images=folder, output=folder.with_name("run"), model="tiny", **changes)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("train", "val"), ("train", "val", None)),
        (("Train", "Test"), ("Train", "Test", None)),
        (("train", "valid", "test"), ("train", "valid", "test")),
        (("train",), ("train", None, None)),
        (("val", "test"), None),
        (("train", "cat"), None),
        (("cat", "dog"), None),
    ],
)
def test_parts_of_a_data_set_are_no_classes(tmp_path: Path, names: tuple[str, ...], found: Any) -> None:
    folder = folder_of_parts(tmp_path / "set", *names)
    (folder / ".hidden").mkdir()
    splits = splits_of(folder)
    assert (splits and tuple(part and part.name for part in splits)) == found


def test_a_folder_of_parts_is_learned_from_in_these_parts(tmp_path: Path) -> None:
    parts = parts_of(settings(folder_of_parts(tmp_path / "set", "train", "val", each=6)))
    assert isinstance(parts.learn, FolderImages)
    assert parts.learn.folder.name == "train"
    assert parts.measure is not None
    assert len(parts.measure) == 6
    assert not parts.held
    assert "6 to measure on (in val/)" in str(parts)


def test_processes_that_do_not_measure_open_nothing_to_measure_on(tmp_path: Path) -> None:
    folder = folder_of_parts(tmp_path / "set", "train", "val", each=6)
    parts = parts_of(settings(folder), main=False)
    assert parts.measure is None
    assert parts.elsewhere
    assert parts.learn.fingerprint() == parts_of(settings(folder)).learn.fingerprint()
    # What is held out changes what is learned from, so all processes hold it out.
    alone = write_images(tmp_path / "alone", 40, labelled=True)
    other, main = parts_of(settings(alone), main=False), parts_of(settings(alone))
    assert other.learn.fingerprint() == main.learn.fingerprint()
    assert not other.elsewhere


def test_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", 40, labelled=True)
    parts, again = parts_of(settings(folder)), parts_of(settings(folder))
    learn, measure = parts.learn, parts.measure
    assert isinstance(learn, FolderImages)
    assert isinstance(measure, FolderImages)
    assert {*learn.paths}.isdisjoint(measure.paths)
    assert len(learn) + len(measure) == 40
    assert again.measure is not None
    assert again.measure.fingerprint() == measure.fingerprint()
    assert parts_of(settings(folder, seed=1)).measure.fingerprint() != measure.fingerprint()  # type: ignore[union-attr]
    assert parts_of(settings(folder, hold_out=0.0)).measure is None
    parts.save(tmp_path)
    listed = json.loads((tmp_path / "split.json").read_text())["held_out"]
    assert [str(folder / name) for name in listed] == [str(path) for path in measure.paths]
    few = parts_of(settings(folder, labels_per_class=2))
    assert few.measure is not None
    assert few.measure.fingerprint() == measure.fingerprint()  # of all images, before few are chosen to learn from
    write_images(tmp_path / "one", 2, labelled=True)
    alone = parts_of(settings(tmp_path / "one"))  # both classes have a single image
    assert len(alone.learn) == 2  # type: ignore[arg-type]
    assert alone.measure is None


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def images() -> ArrayImages:
    return ArrayImages(*stripes(40, 16, 0))


def run_settings(output: Path, **changes: Any) -> FinetuneSettings:
    values: dict[str, Any] = {
        "images": "unused", "output": output, "model": "tiny", "image_size": 16, "patch_size": 8, "steps": 12,
        "batch_size": 8, "validate_every": 2, "log_every": 1, "save_every": 5, "keep": 1, "workers": 0, "precision": "fp32",
        "learning_rate": 3e-3,
    }  # fmt: skip
    return FinetuneSettings(**{**values, **changes})


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Scores that a run is told, one per measurement, instead of measured ones."""
    told: list[float] = []

    def of(*_: Any) -> Any:
        return lambda model, step: {"validation_top1": told[step // 2 - 1], "validation_loss": 1.0}

    monkeypatch.setattr("beit.train.finetune.validation_of", of)
    return told


def finetuned(settings: FinetuneSettings, images: ArrayImages) -> list[dict[str, float]]:
    pytest.importorskip("accelerate")
    from beit.train.finetune import finetune

    return finetune(settings, images)[0]


def test_the_result_is_the_model_of_the_best_step(tmp_path: Path, images: ArrayImages, made_up: list[float]) -> None:
    made_up += [0.1, 0.9, 0.2, 0.3, 0.2, 0.2]
    lines = finetuned(run_settings(tmp_path / "run"), images)
    assert [line["validation_top1"] for line in lines if "validation_top1" in line] == made_up
    kept = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert kept == ["checkpoint-000004", "checkpoint-000012"]
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "run/checkpoint-000004")
    finetuned(run_settings(tmp_path / "last", result="last"), images)
    assert weights_of(tmp_path / "last") == weights_of(tmp_path / "run/checkpoint-000012")
    assert not (tmp_path / "run/state.json").exists()
    assert not (tmp_path / "run/optimizer.pt").exists()


def test_the_average_is_measured_and_saved(tmp_path: Path, images: ArrayImages) -> None:
    lines = finetuned(run_settings(tmp_path / "run", result="ema", ema=0.8, validate_every=4), images)
    assert sum("validation_loss" in line for line in lines) == 3
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "run/ema")
    assert weights_of(tmp_path / "run") != weights_of(tmp_path / "run/checkpoint-000012")


def test_a_run_ends_when_nothing_gets_better(
    tmp_path: Path, images: ArrayImages, made_up: list[float], capsys: Any
) -> None:
    made_up += [0.5, 0.4, 0.4, 0.9, 0.9, 0.9]
    lines = finetuned(run_settings(tmp_path / "run", patience=2), images)
    assert lines[-1]["step"] == 6
    assert "Ended after step 6 of 12" in capsys.readouterr().err
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "run/checkpoint-000002")
    # A resumed run does not go on behind the end.
    assert finetuned(run_settings(tmp_path / "run", patience=2, resume="must"), images) == lines
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "run/checkpoint-000002")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [3, 5, 7])
def test_killed_and_resumed_equals_undisturbed(
    tmp_path: Path, images: ArrayImages, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """With measurements, the best model and an early end: the same lines, the same result."""
    pytest.importorskip("accelerate")
    from beit.train.torch.engine import TorchEngine

    changes = {"patience": 4, "drop_path": 0.2}
    whole = finetuned(run_settings(tmp_path / "whole", **changes), images)
    step = TorchEngine.step

    def killed(engine: Any, batch: Any, number: int, *rest: Any) -> Any:
        if number == at:
            raise Killed
        return step(engine, batch, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "step", killed)
        with pytest.raises(Killed):
            finetuned(run_settings(tmp_path / "run", **changes), images)
    cut = finetuned(run_settings(tmp_path / "run", resume="auto", **changes), images)

    def without_clock(lines: list[dict[str, float]]) -> list[dict[str, float]]:
        return [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")} for line in lines]

    assert without_clock(cut) == without_clock(whole)
    assert without_clock(log_lines(tmp_path / "run")) == without_clock(whole)
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")


def test_a_best_model_that_is_gone(tmp_path: Path, images: ArrayImages, made_up: list[float], caplog: Any) -> None:
    made_up += [0.9, 0.1, 0.1, 0.1, 0.1, 0.1]
    finetuned(run_settings(tmp_path / "run"), images)
    shutil.rmtree(tmp_path / "run/checkpoint-000002")
    finetuned(run_settings(tmp_path / "run", resume="must"), images)
    assert "The best model, of step 2, cannot be taken" in caplog.text
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "run/checkpoint-000012")


def test_a_state_that_names_other_files_copies_none(tmp_path: Path, images: ArrayImages, made_up: list[float]) -> None:
    from beit.train import checkpoint

    made_up += [0.9, 0.1, 0.1, 0.1, 0.1, 0.1]
    finetuned(run_settings(tmp_path / "run"), images)
    state = tmp_path / "run/checkpoint-000002/state.json"
    content = json.loads(state.read_text())
    assert content["model"] == ["config.json", "model.safetensors", "preprocessor_config.json"]
    del content["files"], content["checksum"]
    state.write_text(json.dumps({**content, "model": ["../../secret"]}))
    checkpoint.seal(state.parent)
    (tmp_path / "secret").write_text("x")
    finetuned(run_settings(tmp_path / "run", resume="must"), images)
    assert (tmp_path / "secret").read_text() == "x"
    assert not list((tmp_path / "run").glob("*secret*"))


def test_one_command_without_settings(tmp_path: Path, capsys: Any) -> None:
    """Images and an output are enough, but for a model, since none can be fetched here."""
    pytest.importorskip("accelerate")
    from beit.cli import main

    write_images(tmp_path / "photos", 20, labelled=True)
    arguments = ["finetune", "--images", str(tmp_path / "photos"), "--output", str(tmp_path / "run"), "--model", "tiny"]
    arguments += ["--image-size", "16", "--patch-size", "8", "--epochs", "3"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "20 images of 2 classes" in said.err
    assert "to measure on (held out, 20% of each class)" in said.err
    written = json.loads((tmp_path / "run/settings.json").read_text())
    assert written["batch_size"] == 8
    assert len(json.loads((tmp_path / "run/split.json").read_text())["held_out"]) == 4
    # Both the same command and the settings that were written go on with the run.
    assert main([*arguments, "--resume"]) == 0
    stated = from_dict(FinetuneSettings, written)
    stated.resume = "must"
    from beit.train.finetune import finetune

    finetune(stated)


def test_without_a_model_the_choices_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from beit.train.start import open_start

    monkeypatch.setenv("BEIT_CHECKPOINTS", str(tmp_path))
    monkeypatch.setattr(pytest.importorskip("huggingface_hub.constants"), "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match=r"(?s)beitv2-base-patch16-224-pt1k-ft21k, cannot be had here.*--model small"
    ):
        open_start(FinetuneSettings(images="x", output=tmp_path))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hold_out": 1.0}, "hold_out is 1.0"),
        ({"result": "worst"}, "choose best, last or ema"),
        ({"result": "ema"}, "give a decay, such as --ema 0.999"),
        ({"result": "last", "patience": 3}, "needs --result best"),
        ({"validate_every": -1}, "validate_every is -1"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        FinetuneSettings(images="x", output=Path("y"), **changes)


def test_settings_of_older_runs_mean_what_they_did() -> None:
    new = FinetuneSettings(images="x", output=Path("y")).to_dict()
    assert new["hold_out"] == 0.2
    old = {name: value for name, value in new.items() if name not in FinetuneSettings.ADDED}
    read = from_dict(FinetuneSettings, old)
    assert (read.hold_out, read.validate_every, read.result) == (0.0, 0, "last")
    assert read.to_dict() == old
    segment = SegmentSettings(images="x", output=Path("y"), model="tiny").to_dict()
    assert segment["result"] == "best"
    older = {name: value for name, value in segment.items() if name not in SegmentSettings.ADDED}
    assert from_dict(SegmentSettings, older).to_dict() == older

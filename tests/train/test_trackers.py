"""Where curves and pictures go besides log.jsonl: TensorBoard, and services by fake modules."""

from __future__ import annotations

import io
import json
import logging
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fixtures_runs import log_lines, refused, save_small_model, small_run, weights_of, write_images

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from beit.core.errors import ConfigError, MissingExtraError
from beit.train.finetune import finetune
from beit.train.pretrain import pretrain
from beit.train.settings import FinetuneSettings, PretrainSettings
from beit.train.trackers import check_tracker


class FakeWandb(types.ModuleType):
    """As much of wandb as Accelerate calls."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0
        self.fails_at: int | None = None
        outer = self

        class Run:
            id = "run-1"

            def log(self, values: dict[str, Any], step: int, **_: Any) -> None:
                if step == outer.fails_at:
                    raise RuntimeError("the server is gone")
                outer.logged.append((step, values))

            def finish(self) -> None:
                outer.finished += 1

        class Config(dict):
            def update(self, values: Any, **_: Any) -> None:  # type: ignore[override]
                super().update(values)

        self.run, self.config = Run(), Config()

    def init(self, **keywords: Any) -> Any:
        self.started.append(keywords)
        return self.run

    def Image(self, picture: Any) -> Any:
        return ("picture", picture.shape)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Any]:
    return small_run(tmp_path, images=write_images(tmp_path / "images", 16), workers=0, steps=3)


def test_numbers_settings_and_pictures_go_to_wandb(run: dict[str, Any], wandb: FakeWandb) -> None:
    settings = PretrainSettings(**run, tracker="wandb")
    pretrain(settings)
    assert wandb.started == [{"project": "beit", "name": "run", "dir": str(settings.output)}]
    assert wandb.config["batch_size"] == 8
    numbers = [(step, values) for step, values in wandb.logged if "loss" in values]
    assert [(step, values["loss"]) for step, values in numbers] == [
        (line["step"], line["loss"]) for line in log_lines(settings.output)
    ]
    pictures = [(step, values) for step, values in wandb.logged if "loss" not in values]
    assert [step for step, _ in pictures] == [1, 3]
    assert pictures[0][1] == {"views, masked, predicted": [("picture", (48, 96, 3))]}
    assert wandb.finished == 1
    assert not (settings.output / "tensorboard").exists()

    pretrain(PretrainSettings(**{**run, "steps": 4}, tracker="wandb", resume="must"))  # goes on in the same run
    assert wandb.started[1] | {"id": "run-1", "resume": "allow"} == wandb.started[1]


def test_a_service_that_fails_does_not_end_the_run(
    run: dict[str, Any], wandb: FakeWandb, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.fails_at = 2
    settings = PretrainSettings(**run, tracker="wandb")
    pretrain(settings)
    assert len(log_lines(settings.output)) == 3
    assert caplog.text.count("wandb takes nothing more: RuntimeError: the server is gone. log.jsonl") == 1
    assert {step for step, _ in wandb.logged} == {1}


def test_a_service_that_refuses_to_start(run: dict[str, Any], wandb: FakeWandb, monkeypatch: Any) -> None:
    def init(**_: Any) -> None:
        raise PermissionError("log in first")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(ConfigError, match=r"wandb could not be started: PermissionError: log in first.*tensorboard"):
        pretrain(PretrainSettings(**run, tracker="wandb"))


class FakeMlflow(types.ModuleType):
    """As much of MLflow as Accelerate calls."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.parameters: dict[str, Any] = {}
        self.images: list[str] = []
        self.started: dict[str, Any] = {}
        self.ended = False
        limits = {"MAX_PARAM_VAL_LENGTH": 500, "MAX_PARAMS_TAGS_PER_BATCH": 100}
        self.utils = types.SimpleNamespace(validation=types.SimpleNamespace(**limits))
        self.log_params = self.parameters.update

    def search_experiments(self, filter_string: str) -> list[Any]:
        return []

    def create_experiment(self, **_: Any) -> str:
        return "7"

    def start_run(self, **keywords: Any) -> Any:
        self.started = keywords
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.metrics.append((step, values))

    def log_image(self, picture: Any, artifact_file: str) -> None:
        self.images.append(artifact_file)

    def end_run(self) -> None:
        self.ended = True


def test_mlflow(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    settings = PretrainSettings(**run, tracker="mlflow")
    pretrain(settings)
    assert [step for step, _ in mlflow.metrics] == [1, 2, 3]
    assert mlflow.started["experiment_id"] == "7"
    assert mlflow.started["run_name"] == "run"
    assert mlflow.parameters["batch_size"] == 8
    assert mlflow.images == ["views-masked-predicted/00000001.png", "views-masked-predicted/00000003.png"]
    assert mlflow.ended
    assert json.loads((settings.output / "tracker.json").read_text()) == {"tracker": "mlflow", "run": "abc"}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_absent_is_named_before_the_work(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    settings = PretrainSettings(**run, tracker=name)  # type: ignore[arg-type]
    with pytest.raises(MissingExtraError, match=f"pip install {name}"):
        check_tracker(settings)
    flags = ["--images", run["images"], "--output", run["output"], "--target", "pixels", "--model", "tiny"]
    refused(capsys, ["pretrain", *flags, "--tracker", name], f"needs the package {name}", f"pip install {name}")
    assert not run["output"].exists()


def test_other_trackers_import_neither(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    for tracker in ("tensorboard", "none"):
        check_tracker(PretrainSettings(**run, tracker=tracker))  # type: ignore[arg-type]


def test_none_writes_the_log_alone_and_the_same_weights(run: dict[str, Any], tmp_path: Path) -> None:
    with_pictures = PretrainSettings(**run)
    pretrain(with_pictures)
    without = PretrainSettings(**{**run, "output": tmp_path / "other"}, tracker="none")
    pretrain(without)
    assert not (without.output / "tensorboard").exists()
    assert len(log_lines(without.output)) == 3
    assert weights_of(without.output) == weights_of(with_pictures.output)


def test_without_tensorboard_it_is_said(run: dict[str, Any], monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    with caplog.at_level(logging.WARNING):
        pretrain(PretrainSettings(**run))
    assert "TensorBoard is not installed" in caplog.text


# --- pictures ------------------------------------------------------------------------------------------------------


def pictures_of(folder: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Tag → (step, uint8 `(H, W, 3)`) of each picture in a run's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    return {
        tag: [
            (event.step, np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))) for event in events.Images(tag)
        ]
        for tag in events.Tags()["images"]
    }


@pytest.mark.filterwarnings("ignore")  # of TensorBoard's reader
@pytest.mark.parametrize("target", ["tokens", "pixels"])
def test_tensorboard_has_views_masks_and_predictions(run: dict[str, Any], target: str) -> None:
    if target == "pixels":
        run = {**run, "target": "pixels", "tokenizer": None, "model": "tiny", "image_size": 16}
    settings = PretrainSettings(**run)
    pretrain(settings)
    [(tag, shown)] = pictures_of(settings.output).items()
    assert tag == "views, masked, predicted"
    assert [step for step, _ in shown] == [1, 3]
    views, masked, predicted = shown[0][1].reshape(3, 16, 96, 3).astype(int)
    grey = (masked == 128).all(-1)
    assert 0.2 < grey.mean() < 0.7
    for row in (masked, predicted):
        assert np.array_equal(row[~grey], views[~grey])
    assert not np.array_equal(predicted, views)
    assert not np.array_equal(predicted[grey], masked[grey])


@pytest.mark.filterwarnings("ignore")
def test_fine_tuning_shows_what_the_model_sees(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 8, labelled=True)
    settings = FinetuneSettings(
        images=images,
        output=tmp_path / "run",
        model=str(save_small_model(tmp_path / "model")),
        workers=0,
        steps=2,
        batch_size=4,
        hold_out=0,
        precision="fp32",
    )
    finetune(settings)
    [(tag, shown)] = pictures_of(settings.output).items()
    assert tag == "views"
    assert shown[0][1].shape == (16, 64, 3)


def test_a_picture_that_fails_does_not_end_the_run(run: dict[str, Any], monkeypatch: Any, caplog: Any) -> None:
    from beit.train.targets.torch.tokens import TokenTarget

    def broken(*_: Any) -> None:
        raise ValueError("no picture")

    monkeypatch.setattr(TokenTarget, "predicted_pixels", broken)
    settings = PretrainSettings(**run)
    pretrain(settings)
    assert len(log_lines(settings.output)) == 3
    assert "Pictures of step 1 could not be made: no picture" in caplog.text

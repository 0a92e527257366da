"""Which device computes: names that are taken, and what is said of a device that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from beit.core.errors import ConfigError
from fixtures_runs import refused, save_classifier, write_images

torch = pytest.importorskip("torch")

from beit.inference.torch.device import chosen_device, devices_here


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_devices_that_are_there(two_gpus: None) -> None:
    assert devices_here() == ["cpu", "cuda:0", "cuda:1"]
    for name in ("cpu", "cuda", "cuda:1"):
        assert str(chosen_device(name)) == name
    assert str(chosen_device("cpu:0")) == "cpu"
    assert str(chosen_device(None)) == "cuda"
    with pytest.raises(ConfigError, match=r"no device cuda:2 here. There are: cpu, cuda:0, cuda:1"):
        chosen_device("cuda:2")


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "meta", "cpu:1"])
def test_devices_that_are_not_there(no_gpu: None, name: str) -> None:
    assert str(chosen_device(None)) == "cpu"
    with pytest.raises(ConfigError, match=f"no device {name} here. There are: cpu"):
        chosen_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "\x1b[31m"])
def test_names_of_no_device(name: str) -> None:
    with pytest.raises(ConfigError, match=r"wanted a name such as cpu.*Here there are: cpu") as found:
        chosen_device(name)
    assert "\x1b" not in str(found.value)


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "a.png", "--model", "absent"],
        ["evaluate", "--images", "a", "--model", "absent"],
        ["embed", "--images", "a", "--model", "absent", "--output", "x.npy"],
        ["probe", "--images", "a", "--model", "absent"],
        ["knn", "--images", "a", "--model", "absent"],
        ["segment", "predict", "a.png", "--model", "absent", "--output", "x"],
        ["segment", "evaluate", "--images", "a", "--model", "absent"],
        ["pretrain", "--images", "a", "--target", "pixels", "--model", "tiny", "--output", "x"],
        ["finetune", "--images", "a", "--model", "tiny", "--output", "x"],
        ["finetune", "--images", "a", "--model", "tiny", "--output", "x", "--framework", "flax"],
        ["segment", "train", "--images", "a", "--maps", "a", "--model", "tiny", "--output", "x"],
        ["tokenizer", "train", "--images", "a", "--output", "x"],
        ["tokenize", "--images", "a", "--tokenizer", "absent", "--output", "x"],
    ],
)
def test_every_command_refuses_it_before_the_work(
    no_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "a", 4, labelled=True)
    refused(capsys, [*command, "--device", "cuda:1"], "no device cuda:1", "There are: cpu")
    assert not (tmp_path / "x").exists()


def test_prediction_on_a_named_device(tmp_path: Path, capsys: Any) -> None:
    from beit.cli import main

    model, images = save_classifier(tmp_path / "model"), write_images(tmp_path / "images", 2)
    assert main(["predict", str(images), "--model", str(model), "--device", "cpu"]) == 0
    assert "flat" in capsys.readouterr().out


def test_jax_knows_its_devices_by_the_same_names() -> None:
    pytest.importorskip("jax")
    from beit.models.flax.device import chosen_devices

    every = chosen_devices("cpu")
    assert chosen_devices("cpu:0") == every[:1]
    for name in ("cuda:7", "gpu:7", "cpu:x", "cpu:999", "teapot"):
        with pytest.raises(ConfigError, match=f"no device {name} for JAX here.*cpu"):
            chosen_devices(name)


def test_prediction_with_jax_on_a_named_device(tmp_path: Path, capsys: Any) -> None:
    jax = pytest.importorskip("jax")
    pytest.importorskip("flax")
    from beit.cli import main

    model, images = save_classifier(tmp_path / "model"), write_images(tmp_path / "images", 2)
    try:
        given = ["predict", str(images), "--model", str(model), "--framework", "flax"]
        assert main([*given, "--device", "cpu"]) == 0
        assert jax.config.jax_default_device == jax.devices("cpu")[0]
        refused(capsys, [*given, "--device", "teapot"], "no device teapot for JAX")
    finally:
        jax.config.update("jax_default_device", None)

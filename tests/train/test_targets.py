"""Targets: the registry, and what a new one takes. A toy is added to it, trained on in both frameworks, and removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import pytest

from fixtures_runs import log_lines, refused, save_small_model, stripes, write_images

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch.nn.functional as F

from beit.cli import main
from beit.config import BeitConfig
from beit.core.errors import ConfigError
from beit.data.sources.images import ArrayImages
from beit.train.pretrain import pretrain
from beit.train.settings import PretrainSettings
from beit.train.settings import pretrain as pretrain_settings
from beit.train.targets import TARGETS, Target, TargetSettings, make_target, target_class
from beit.train.targets.torch import TorchTarget

IMAGES = ArrayImages(*stripes(12), ["flat", "upright"])

# --- a new target: a class for each framework (here in one file, elsewhere two), and one entry of the registry ------------


class MeanColour(TorchTarget):
    """Predicts the mean colour of each masked patch."""

    width = 3

    @classmethod
    def of(cls, settings: TargetSettings, config: BeitConfig) -> Self:
        return cls()

    def labels(self, batch: Any) -> Any:
        return F.avg_pool2d(batch["pixel_values"], 4).flatten(2).transpose(1, 2)

    def loss(self, module: Any, batch: Any, step: int) -> Any:
        mask = batch["mask"]
        logits = module(batch["pixel_values"], mask, masked_logits_only=True).logits.float()
        return F.mse_loss(logits, self.labels(batch)[mask]), {}


def flax_mean_colour() -> type[Target]:
    """The same in JAX."""
    import jax.numpy as jnp

    from beit.models.flax.losses import masked_first
    from beit.train.targets.flax import FlaxTarget

    class FlaxMeanColour(FlaxTarget):
        width = 3

        @classmethod
        def of(cls, settings: TargetSettings, config: BeitConfig) -> Self:
            return cls()

        def loss(self, predict: Any, batch: Any, most: int, constants: Any) -> Any:
            pixels, mask = batch["pixel_values"], batch["mask"]
            images, channels, height, width = pixels.shape
            patches = pixels.reshape(images, channels, height // 4, 4, width // 4, 4).mean((3, 5))
            at, counted = masked_first(mask, most)
            labels = patches.reshape(images, channels, -1).transpose(0, 2, 1)
            errors = (predict(pixels, mask, at) - jnp.take_along_axis(labels, at[..., None], axis=1)) ** 2
            return jnp.sum(errors.mean(-1), where=counted) / counted.sum(), ({}, None)

    return FlaxMeanColour


@pytest.fixture
def toy() -> Iterator[str]:
    TARGETS["colour"] = lambda framework: flax_mean_colour() if framework == "flax" else MeanColour
    yield "colour"
    del TARGETS["colour"]


def settings_of(folder: Path, **changes: Any) -> PretrainSettings:
    model = save_small_model(folder / "model", num_hidden_layers=1, vocab_size=3)
    values = {"batch_size": 4, "steps": 2, "log_every": 1, "precision": "fp32", "jitter": 0.0, "drop_path": 0.0}
    return PretrainSettings(images=folder, output=folder / "run", model=str(model), **{**values, **changes})


def test_a_new_target_trains_in_both_frameworks(tmp_path, toy, quick_compiles):
    pytest.importorskip("optax")
    pytest.importorskip("orbax.checkpoint")
    losses = []
    for framework in ("torch", "flax"):
        settings = settings_of(tmp_path / framework, target=toy, framework=framework)
        history = pretrain(settings, IMAGES)
        assert [line["step"] for line in history] == [1, 2]
        losses.append([line["loss"] for line in log_lines(settings.output)])
        assert json.loads((settings.output / "settings.json").read_text())["target"] == "colour"
        assert json.loads((settings.output / "config.json").read_text())["vocab_size"] == 3
        summary = target_class(toy, framework).summary(settings.output, history[-1])
        assert summary == f"Saved {settings.output}: loss {history[-1]['loss']:.3f}."
        other = settings_of(tmp_path / "other", target=toy, framework=framework, tokenizer="x")
        with pytest.raises(ConfigError, match=r"target is colour, which needs no tokenizer\. Leave it out"):
            make_target(other, BeitConfig())
    assert min(losses[0]) > 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_the_command_line_takes_a_new_target(tmp_path, toy, capsys, monkeypatch):
    monkeypatch.setattr(
        pretrain_settings, "TargetName", Literal[tuple(TARGETS)]
    )  # an entry in the file is there at import
    images = write_images(tmp_path / "images", 8)
    model = save_small_model(tmp_path / "model", num_hidden_layers=1, vocab_size=3)
    arguments = ["pretrain", "--images", images, "--model", model, "--steps", "1", "--batch-size", "4"]
    assert main([str(text) for text in [*arguments, "--output", tmp_path / "run", "--target", toy]]) == 0
    assert f"Saved {tmp_path / 'run'}: loss" in capsys.readouterr().out


def test_the_toy_is_gone(tmp_path, capsys):
    assert list(TARGETS) == ["tokens", "pixels"]
    with pytest.raises(ConfigError, match=r"target is 'colour'; choose tokens or pixels\."):
        settings_of(tmp_path, target="colour")
    arguments = ["pretrain", "--images", tmp_path, "--output", tmp_path / "o", "--target", "colour"]
    refused(capsys, arguments, "colour", "tokens", "pixels", status=2)
    assert main(["pretrain", "--help"]) == 0
    assert "{tokens,pixels}" in capsys.readouterr().out

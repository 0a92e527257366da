"""The tensors of a file → the parameters of a model: nothing lost silently, and every difference reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import beit
from beit import CheckpointError
from beit.checkpoints import names
from beit.checkpoints.match import PROJECTION, match_weights
from beit.core.errors import MismatchError
from fixtures_names import same, some_disk


def wanted(memory: dict[str, np.ndarray], *without: str) -> dict[str, tuple[int, ...]]:
    return {n: a.shape for n, a in memory.items() if not any(part in n for part in without)}


def fit(disk: dict[str, np.ndarray], want: dict[str, tuple[int, ...]], **more: Any) -> Any:
    memory, left_over = names.to_state_dict(disk)
    return match_weights(memory, want, model="BeitThing", left_over=left_over, **more)


def test_fit_of_the_same_model() -> None:
    disk = some_disk()
    memory, _ = names.to_state_dict(disk)
    found, report = fit(disk, wanted(memory))
    same(found, memory)
    assert not report
    assert not report.needs_training
    assert str(report) == "every tensor of the file has its place"


def test_fit_of_a_bare_model_from_a_whole_one_and_back() -> None:
    disk = some_disk()
    memory, _ = names.to_state_dict(disk)
    body = {n.removeprefix("beit."): a.shape for n, a in memory.items() if n.startswith("beit.")}
    found, report = fit(disk, body)
    assert found.keys() == body.keys()
    assert {name for name, _ in report.unused} == {"lm_head", "classifier", "layernorm"}
    assert "BeitThing has no such part" in str(report)
    assert not report.needs_training
    found, report = fit(some_disk(bare=True), wanted(memory))
    assert {name for name, _ in report.new} == {"lm_head", "classifier", "layernorm"}
    assert report.needs_training
    assert "train it before use" in str(report)
    assert not any(name.startswith(("lm_head", "classifier", "layernorm")) for name in found)


def test_words_of_the_report() -> None:
    disk = some_disk()
    memory, _ = names.to_state_dict(disk)

    def without(*parts: str) -> Any:
        kept = {n: a for n, a in disk.items() if not any(part in n for part in parts)}
        return fit(kept, wanted(memory))[1]

    pooler = without("pooler")
    assert pooler.new == [
        ("pooler.layernorm", "this checkpoint is self-supervised, and pooling comes with fine-tuning")
    ]
    assert "saved without a pooler" in str(without("pooler", "lm_head"))
    assert "newly initialized" not in str(pooler)
    assert "without a mask token" in str(without("mask_token"))
    assert "starts at zero" in str(without("encoder.relative_position_bias"))
    final = without("beit.layernorm")
    assert "no final norm" in str(final)
    assert not final.needs_training
    disk["ema.decay"] = np.zeros(1)
    assert "ema.decay: in the file, not used because no BEiT model has tensors of this name" in str(
        fit(disk, wanted(memory))[1]
    )


def test_shared_table_is_copied_into_layers() -> None:
    disk = {n: a for n, a in some_disk(3).items() if "attention.attention.relative_position_bias" not in n}
    shared = disk["beit.encoder.relative_position_bias.relative_position_bias_table"]
    memory, _ = names.to_state_dict(some_disk(3))
    found, report = fit(disk, wanted(memory, "encoder.relative_position_bias.relative_position_bias_table"))
    for i in range(3):
        np.testing.assert_array_equal(
            found[f"beit.encoder.layer.{i}.attention.attention.relative_position_bias.relative_position_bias_table"],
            shared,
        )
    found["beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table"][:] = 9
    assert (
        found["beit.encoder.layer.1.attention.attention.relative_position_bias.relative_position_bias_table"] != 9
    ).all(), "copies, not one array"
    assert (shared != 9).all()
    assert "copied into each of the 3 layers" in str(report)
    assert report


def test_other_shapes() -> None:
    disk = some_disk()
    memory, _ = names.to_state_dict(disk)
    want = {**wanted(memory), "classifier.weight": (9, 2), "classifier.bias": (9, 2)}
    with pytest.raises(CheckpointError, match=r"classifier: file \(4, 2\), model \(9, 2\).*ignore_mismatched_sizes"):
        fit(disk, want)
    found, report = fit(disk, want, ignore_mismatched_sizes=True)
    assert "classifier.weight" not in found
    assert report.needs_training
    assert "(4, 2) in the file and (9, 2) in the model" in str(report)
    many = dict.fromkeys(memory, (1, 1))
    with pytest.raises(CheckpointError, match=r"and \d+ more"):
        fit(disk, many)


def test_incomplete_file() -> None:
    disk = some_disk()
    memory, _ = names.to_state_dict(disk)
    for lost in (
        "beit.encoder.layer.1.output.dense.bias",
        "beit.embeddings.cls_token",
        "beit.encoder.layer.0.lambda_1",
    ):
        kept = {n: a for n, a in disk.items() if n != lost}
        with pytest.raises(CheckpointError, match=r"lacks 1 tensors of BeitThing.*incomplete"):
            fit(kept, wanted(memory))


def test_fewer_layers_than_the_file() -> None:
    memory, _ = names.to_state_dict(some_disk(2))
    found, report = fit(some_disk(4), wanted(memory))
    assert found.keys() == memory.keys()
    assert any("encoder.layer.3" in name for name, _ in report.unused)


@pytest.mark.parametrize(
    "disk", [{}, {"vit.encoder.layer.0.output.dense.weight": np.zeros(1)}, {"lm_head.weight": np.zeros(1)}]
)
def test_other_architecture(disk: dict[str, np.ndarray]) -> None:
    memory, _ = names.to_state_dict(some_disk())
    with pytest.raises(CheckpointError, match="no BEiT checkpoint"):
        fit(disk, wanted(memory))


def with_kernels(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Parameters of which the patch projection has this shape."""
    memory, _ = names.to_state_dict(some_disk())
    return {**memory, PROJECTION: np.random.default_rng(0).normal(size=shape).astype(np.float32)}


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_other_channels(channels: int) -> None:
    memory = with_kernels((8, 3, 2, 4))
    old = memory[PROJECTION].copy()
    want = {**wanted(memory), PROJECTION: (8, channels, 2, 4)}
    found, report = match_weights(memory, want, model="BeitThing")
    assert found[PROJECTION].dtype == old.dtype
    for channel in range(channels):
        right = old.sum(1) if channels == 1 else old[:, channel % 3] * 3 / channels
        np.testing.assert_allclose(found[PROJECTION][:, channel], right, rtol=1e-5)
    assert f"from 3 channels to {channels}" in str(report)
    assert report.needs_training
    np.testing.assert_array_equal(memory[PROJECTION], old)


def test_other_channels_and_another_patch_size() -> None:
    memory = with_kernels((8, 3, 2, 4))
    with pytest.raises(MismatchError, match=r"Shapes of the file and of BeitThing differ: embeddings.patch_embeddings"):
        match_weights(memory, {**wanted(memory), PROJECTION: (8, 4, 4, 4)}, model="BeitThing")


@pytest.mark.parametrize("framework", ["", "Flax"])
def test_a_grey_image_means_what_it_meant(tmp_path: Path, tiny: Any, framework: str) -> None:
    pytest.importorskip("flax" if framework else "torch")
    kind = getattr(beit, f"{framework}BeitForImageClassification")
    model = kind(tiny())
    model.save_pretrained(tmp_path)
    grey = np.random.default_rng(0).random((2, 1, *np.broadcast_to(model.config.image_size, 2)), np.float32)
    adapted = kind.from_pretrained(tmp_path, num_channels=1)
    assert adapted.config.num_channels == 1

    def logits(of: Any, images: np.ndarray) -> np.ndarray:
        if framework:
            return np.asarray(of(images).logits)
        import torch

        with torch.no_grad():
            return np.asarray(of.eval()(torch.from_numpy(images)).logits)

    np.testing.assert_allclose(logits(adapted, grey), logits(model, np.repeat(grey, 3, 1)), atol=1e-6)

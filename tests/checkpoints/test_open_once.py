"""An open `Checkpoint` serves config, processor and models: each weight file is read once, and no two models share arrays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

import beit
from beit import BeitConfig, BeitForImageClassification, BeitImageProcessor, CheckpointError
from beit.checkpoints import Checkpoint, names, read_weights
from beit.cli import main

KINDS = ("model.pth", "sharded", "folder", "timm")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each weight file is read and how often names are translated, by the file's name."""
    counted: Counter[str] = Counter()
    read_file, to_state_dict = read_weights.read_file, names.to_state_dict

    def counting(path: Path, *rest: Any) -> Any:
        counted[path.name] += 1
        return read_file(path, *rest)

    def translating(*arguments: Any) -> Any:
        counted["translations"] += 1
        return to_state_dict(*arguments)

    monkeypatch.setattr(read_weights, "read_file", counting)
    monkeypatch.setattr(names, "to_state_dict", translating)
    return counted


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in four layouts; two of them state no settings of ours, so these are inferred from the tensors."""
    root = tmp_path_factory.mktemp("places")
    torch.manual_seed(0)
    config = BeitConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8,
        use_relative_position_bias=True, num_labels=3,
    )  # fmt: skip
    model = BeitForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.normal_()
    model.save_pretrained(root / "folder")
    model.save_pretrained(root / "sharded", max_shard_size=200_000)
    BeitImageProcessor(size=32, crop_size=32).save_pretrained(root / "sharded")
    for layout, name in (("unilm", "model.pth"), ("timm", "timm")):
        assert main(["convert", str(root / "folder"), str(root / name), "--to", layout, "--no-check"]) == 0
    return {kind: root / kind for kind in KINDS}


def weight_files(place: Path) -> list[str]:
    files = [place] if place.is_file() else [*place.glob("*.safetensors")]
    return sorted(path.name for path in files)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["config first", "model first"])
def test_each_file_is_read_once(kind: str, order: str, places: dict[str, Path], reads: Counter[str]) -> None:
    checkpoint = Checkpoint(places[kind])
    if order == "config first":
        config = BeitConfig.from_pretrained(checkpoint)
        BeitImageProcessor.stored_in(checkpoint)
        model = BeitForImageClassification.from_pretrained(checkpoint, config=config)
    else:  # what is inferred from tensors is known after a model has taken them
        model = BeitForImageClassification.from_pretrained(checkpoint)
        config = BeitConfig.from_pretrained(checkpoint, num_labels=7)
        BeitImageProcessor.stored_in(checkpoint)
        assert checkpoint.architecture == "BeitForImageClassification"
    assert reads == dict.fromkeys([*weight_files(places[kind]), "translations"], 1)
    assert (config.num_labels, model.config.num_labels) == ((3, 3) if order == "config first" else (7, 3))
    alone = BeitForImageClassification.from_pretrained(places[kind])
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_gives_what_its_path_gives(kind: str, places: dict[str, Path]) -> None:
    checkpoint = Checkpoint(places[kind])
    assert BeitConfig.from_pretrained(checkpoint) == BeitConfig.from_pretrained(places[kind])
    if kind != "folder":
        assert (
            BeitImageProcessor.from_pretrained(checkpoint).to_dict()
            == BeitImageProcessor.from_pretrained(places[kind]).to_dict()
        )
    assert type(beit.load(checkpoint)) is BeitForImageClassification


def test_a_folder_without_a_processor(places: dict[str, Path]) -> None:
    checkpoint = Checkpoint(places["folder"])
    assert BeitImageProcessor.stored_in(checkpoint) is None
    with pytest.raises(CheckpointError, match=r"has no preprocessor_config\.json"):
        BeitImageProcessor.from_pretrained(checkpoint)


@pytest.mark.parametrize("kind", KINDS)
def test_two_models_share_no_array(kind: str, places: dict[str, Path], reads: Counter[str]) -> None:
    checkpoint = Checkpoint(places[kind])
    first = BeitForImageClassification.from_pretrained(checkpoint)
    before = {name: value.clone() for name, value in first.state_dict().items()}
    with torch.no_grad():
        for value in first.parameters():
            value.add_(1)
    second = BeitForImageClassification.from_pretrained(checkpoint)
    assert all(torch.equal(value, before[name]) for name, value in second.state_dict().items())
    with torch.no_grad():
        for value in second.parameters():
            value.zero_()
    assert all(torch.equal(value, before[name] + 1) for name, value in first.named_parameters())
    assert set(reads.values()) == {2}, "the second model has the files read again"


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_held_by_the_model_alone(kind: str, places: dict[str, Path]) -> None:
    checkpoint = Checkpoint(places[kind])
    config = BeitConfig.from_pretrained(checkpoint)
    BeitForImageClassification.from_pretrained(checkpoint, config=config)
    kept = [*checkpoint._files.read.tensors.values(), *checkpoint._files.translated.state_dict.values()]
    assert sum(array.nbytes for array in kept if any(array.strides)) < 10_000  # the relative-position indices
    # Whoever asks for values gets values.
    assert checkpoint.state_dict["beit.encoder.layer.0.attention.attention.key.weight"].std() > 0.01


def test_fields_given_later_do_not_change_the_checkpoint(places: dict[str, Path], reads: Counter[str]) -> None:
    checkpoint = Checkpoint(places["model.pth"])
    small = BeitForImageClassification.from_pretrained(checkpoint.with_given({"num_labels": 3}), image_size=16)
    assert small.config.grid == (2, 2)
    assert (
        small.beit.encoder.layer[0].attention.attention.relative_position_bias.relative_position_bias_table.shape[0]
        == 3 * 3 + 3
    )
    assert checkpoint.given == {}
    assert BeitConfig.from_pretrained(checkpoint).grid == (4, 4)
    assert checkpoint.grid == (4, 4)
    assert reads["model.pth"] == 1


def test_fields_given_at_opening_hold_for_all_that_is_made_of_it(places: dict[str, Path]) -> None:
    checkpoint = Checkpoint(places["model.pth"], {"drop_path_rate": 0.5})
    assert BeitConfig.from_pretrained(checkpoint).drop_path_rate == 0.5
    assert BeitForImageClassification.from_pretrained(checkpoint).config.drop_path_rate == 0.5
    assert BeitConfig.from_pretrained(checkpoint, drop_path_rate=0.25).drop_path_rate == 0.25
    config = BeitConfig.from_pretrained(checkpoint, drop_path_rate=0.75)
    assert BeitForImageClassification.from_pretrained(checkpoint, config=config).config.drop_path_rate == 0.75


def test_a_revision_comes_too_late(places: dict[str, Path]) -> None:
    checkpoint = Checkpoint(places["folder"])
    for kind in (BeitConfig, BeitForImageClassification, BeitImageProcessor):
        with pytest.raises(CheckpointError, match="open already, so revision comes too late"):
            kind.from_pretrained(checkpoint, revision="main")
    with pytest.raises(CheckpointError, match="comes too late"):
        beit.load(checkpoint, revision="main")


@pytest.mark.parametrize("kind", KINDS)
def test_flax_reads_each_file_once(kind: str, places: dict[str, Path], reads: Counter[str]) -> None:
    pytest.importorskip("flax")
    import jax

    checkpoint = Checkpoint(places[kind])
    config = BeitConfig.from_pretrained(checkpoint)
    model = beit.FlaxBeitForImageClassification.from_pretrained(checkpoint, config=config)
    del reads["translations"]  # to the parameters, and from there to the names of Flax
    assert set(reads.values()) == {1}
    alone = beit.FlaxBeitForImageClassification.from_pretrained(places[kind])
    jax.tree.map(np.testing.assert_array_equal, model.params, alone.params)


@pytest.mark.parametrize("kind", ["model.pth", "sharded"])
@pytest.mark.parametrize("to", ["hf", "unilm", "flax"])
def test_convert_and_its_check_read_each_file_once(
    kind: str, to: str, places: dict[str, Path], reads: Counter[str], tmp_path: Path
) -> None:
    if to == "flax":
        pytest.importorskip("flax")
    # What is written by another project's layout leaves an epsilon to be guessed, so its check makes a second model of it.
    output = tmp_path / ("written.pth" if to == "unilm" else "written")
    assert main(["convert", str(places[kind]), str(output), "--to", to]) == 0
    written = {"hf": "model.safetensors", "unilm": "written.pth", "flax": "flax_model.msgpack"}[to]
    translations = 3 if to == "flax" else 2  # there are Flax's own names too
    assert reads == {**dict.fromkeys([*weight_files(places[kind]), written], 1), "translations": translations}


@pytest.mark.parametrize("kind", ["model.pth", "sharded"])
def test_inspect_and_resize_read_each_file_once(
    kind: str, places: dict[str, Path], reads: Counter[str], tmp_path: Path
) -> None:
    assert main(["inspect", str(places[kind]), "--tensors"]) == 0
    assert reads == dict.fromkeys([*weight_files(places[kind]), "translations"], 1)
    reads.clear()
    assert main(["resize", str(places[kind]), str(tmp_path / "larger"), "--image-size", "48"]) == 0
    files = Counter(weight_files(places[kind])) + Counter({"model.safetensors": 1, "translations": 2})
    assert reads == files

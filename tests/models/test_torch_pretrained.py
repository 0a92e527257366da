"""Saving and loading of the PyTorch models."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import beit
from beit import (
    BeitConfig,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    BeitModel,
    CheckpointError,
    ConfigError,
)
from beit.checkpoints import read_weights
from beit.checkpoints.write_weights import write_tensors
from beit.core.files import write_json

KINDS = [BeitModel, BeitForMaskedImageModeling, BeitForImageClassification]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"use_relative_position_bias": True, "use_shared_relative_position_bias": False, "use_mean_pooling": False},
    {"use_absolute_position_embeddings": True, "layer_scale_init_value": 0, "image_size": (8, 24), "num_labels": 0},
]


def same_parameters(a: Any, b: Any) -> None:
    torch.testing.assert_close(dict(a.named_parameters()), dict(b.named_parameters()), rtol=0, atol=0)


def pixels(config: BeitConfig) -> Any:
    height, width = np.broadcast_to(config.image_size, 2)
    return torch.randn(2, 3, int(height), int(width), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def saved(tmp_path: Path, tiny: Any) -> tuple[Any, Path]:
    model = BeitForImageClassification(tiny()).eval()
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
@pytest.mark.parametrize("shard", ["5GB", "3KB"])
def test_round_trip(kind: Any, settings: dict[str, Any], shard: str, tmp_path: Path, tiny: Any) -> None:
    model = kind(tiny(**settings)).eval()
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors").is_file() == (shard == "5GB")
    again = kind.from_pretrained(tmp_path)
    same_parameters(model, again)
    assert not again.load_report
    assert not again.training
    assert again.config == model.config.replace(architectures=[kind.__name__])
    assert all(p.requires_grad for p in again.parameters())
    assert all(p.device.type == "cpu" for p in again.parameters())
    with torch.no_grad():
        torch.testing.assert_close(again(pixels(model.config))[0], model(pixels(model.config))[0])
    assert type(beit.load(tmp_path)) is kind


def test_names_on_disk_are_those_of_the_reference(saved: Any) -> None:
    _, folder = saved
    names = read_weights.read_tensors(folder / "model.safetensors").keys()
    assert "beit.encoder.layer.1.attention.attention.query.weight" in names
    assert "beit.pooler.layernorm.weight" in names
    assert "classifier.bias" in names
    assert not any("qkv" in name or "index" in name for name in names)
    values = json.loads((folder / "config.json").read_text())
    assert values["architectures"] == ["BeitForImageClassification"]
    assert values["model_type"] == "beit"


def test_a_loaded_model_learns(saved: Any) -> None:
    model = BeitForImageClassification.from_pretrained(saved[1]).train()
    before = [p.detach().clone() for p in model.parameters()]
    model(pixels(model.config), labels=torch.tensor([0, 1])).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    changed = sum(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert changed > len(before) / 2
    same_parameters(BeitForImageClassification.from_pretrained(saved[1]), saved[0])


def test_load_picks_the_class(tmp_path: Path, tiny: Any) -> None:
    for kind in KINDS:
        folder = tmp_path / kind.__name__
        kind(tiny()).save_pretrained(folder)
        values = json.loads((folder / "config.json").read_text())
        for architectures in (["Flax" + kind.__name__], [], None):
            (folder / "config.json").write_text(json.dumps({**values, "architectures": architectures}))
            assert type(beit.load(folder)) is kind
    (folder / "config.json").write_text(json.dumps({**values, "architectures": ["BeitForSorting"]}))
    with pytest.raises(CheckpointError, match=r"BeitForSorting.*BeitForMaskedImageModeling"):
        beit.load(folder)
    assert type(BeitForMaskedImageModeling.from_pretrained(folder)) is BeitForMaskedImageModeling


def test_other_architecture(tmp_path: Path, tiny: Any, saved: Any) -> None:
    write_json(tmp_path / "config.json", {"model_type": "vit", "architectures": ["ViTModel"], "hidden_size": 24})
    write_tensors(tmp_path / "model.safetensors", {"encoder.layer.0.output.dense.weight": np.zeros((2, 2), "f4")})
    with pytest.raises(CheckpointError, match=r"another architecture.*vit"):
        BeitModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"ViTModel.*vit"):
        beit.load(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "vit"})
    with pytest.raises(CheckpointError, match=r"vit"):
        beit.load(tmp_path)
    write_tensors(tmp_path / "model.safetensors", {"conv1.weight": np.zeros((2, 2), "f4")})
    with pytest.raises(CheckpointError, match=r"no BEiT checkpoint.*conv1.weight"):
        BeitModel.from_pretrained(tmp_path, config=tiny())


def test_heads_come_and_go(tmp_path: Path, tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Pre-train, then fine-tune: the new parts are initialised and said in plain words."""
    pretrained = BeitForMaskedImageModeling(tiny())
    pretrained.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO, "beit"):
        classifier = BeitForImageClassification.from_pretrained(
            tmp_path, use_shared_relative_position_bias=False, use_relative_position_bias=True, num_labels=7
        )
    assert "train it before use" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING
    report = str(classifier.load_report)
    for words in (
        "classifier: not in the file",
        "self-supervised",
        "lm_head: in the file, not used",
        "copied into each",
    ):
        assert words in report
    assert classifier.classifier.weight.shape == (7, 16)
    assert classifier.classifier.weight.abs().max() > 0
    assert (classifier.beit.pooler.layernorm.weight == 1).all()
    table = pretrained.beit.encoder.relative_position_bias.relative_position_bias_table
    for layer in classifier.beit.encoder.layer:
        torch.testing.assert_close(layer.attention.attention.relative_position_bias.relative_position_bias_table, table)
    caplog.clear()
    with caplog.at_level(logging.INFO, "beit"):
        body = BeitModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert body.pooler is None
    assert caplog.records[-1].levelno == logging.INFO
    caplog.clear()
    BeitForMaskedImageModeling.from_pretrained(tmp_path)
    assert caplog.records == []


def test_shared_table_means_the_same_in_each_layer(tmp_path: Path, tiny: Any) -> None:
    shared = BeitModel(tiny())
    torch.nn.init.normal_(shared.encoder.relative_position_bias.relative_position_bias_table)
    shared.eval().save_pretrained(tmp_path)
    own = BeitModel.from_pretrained(tmp_path, use_shared_relative_position_bias=False, use_relative_position_bias=True)
    with torch.no_grad():
        x = pixels(shared.config)
        torch.testing.assert_close(own(x).last_hidden_state, shared(x).last_hidden_state, rtol=1e-5, atol=1e-5)


def test_mismatched_sizes(saved: Any) -> None:
    with pytest.raises(CheckpointError, match=r"classifier: file \(3, 16\), model \(5, 16\).*ignore_mismatched_sizes"):
        BeitForImageClassification.from_pretrained(saved[1], num_labels=5)
    model = BeitForImageClassification.from_pretrained(saved[1], num_labels=5, ignore_mismatched_sizes=True)
    assert model.classifier.weight.shape == (5, 16)
    assert model.load_report.needs_training
    assert model.config.id2label[4] == "LABEL_4"
    torch.testing.assert_close(
        model.beit.encoder.layer[0].intermediate.dense.weight, saved[0].beit.encoder.layer[0].intermediate.dense.weight
    )


def test_own_config_and_overrides(saved: Any, tiny: Any) -> None:
    config = tiny(drop_path_rate=0.3)
    model = BeitForImageClassification.from_pretrained(saved[1], config=config)
    assert model.config.drop_path_rate == 0.3
    model = BeitForImageClassification.from_pretrained(saved[1], config=config, hidden_dropout_prob=0.2)
    assert (model.config.drop_path_rate, model.config.hidden_dropout_prob) == (0.3, 0.2)
    assert config.hidden_dropout_prob == 0.0
    with pytest.raises(ConfigError, match="drop_path_rate"):
        BeitForImageClassification.from_pretrained(saved[1], drop_path_rate=3)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float64"])
def test_types(name: str, saved: Any, tmp_path: Path) -> None:
    dtype = getattr(torch, name)
    for choice in (dtype, name, f"torch.{name}"):
        model = BeitForImageClassification.from_pretrained(saved[1], torch_dtype=choice)
        assert {p.dtype for p in model.parameters()} == {dtype}
    assert BeitForImageClassification.from_pretrained(saved[1], dtype=name).dtype == dtype
    model.save_pretrained(tmp_path / "other")
    again = BeitForImageClassification.from_pretrained(tmp_path / "other")
    assert again.dtype == torch.float32
    torch.testing.assert_close(again.classifier.weight, model.classifier.weight.float(), rtol=0, atol=0)
    values = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**values, "torch_dtype": name}))
    assert BeitForImageClassification.from_pretrained(tmp_path / "other", torch_dtype="auto").dtype == dtype


def test_refused_types(saved: Any) -> None:
    for choice in ("int8", "float99", "nn", torch.long):
        with pytest.raises(ConfigError, match="torch_dtype"):
            BeitForImageClassification.from_pretrained(saved[1], torch_dtype=choice)
    for size in ("5 bananas", "xGB", ""):
        with pytest.raises(ConfigError, match="max_shard_size"):
            saved[0].save_pretrained(saved[1], max_shard_size=size)


def test_bin_and_half_files(saved: Any, tmp_path: Path, tiny: Any) -> None:
    model, _ = saved
    state = {name: torch.from_numpy(array) for name, array in model.disk_tensors().items()}
    tiny().save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    same_parameters(BeitForImageClassification.from_pretrained(tmp_path), model)
    torch.save({name: value.bfloat16() for name, value in state.items()}, tmp_path / "pytorch_model.bin")
    loaded = BeitForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.classifier.weight, model.classifier.weight.bfloat16().float(), rtol=0, atol=0)


def test_damaged_and_incomplete_folders(saved: Any, tmp_path: Path) -> None:
    model, folder = saved
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    with pytest.raises(CheckpointError, match="damaged"):
        BeitForImageClassification.from_pretrained(folder)
    tensors = model.disk_tensors()
    del tensors["beit.encoder.layer.0.layernorm_after.bias"]
    write_tensors(weights, tensors)
    with pytest.raises(CheckpointError, match="incomplete"):
        BeitForImageClassification.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        BeitForImageClassification.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config.json"):
        BeitForImageClassification.from_pretrained(folder)
    (tmp_path / "x").touch()
    with pytest.raises(CheckpointError, match=r"is a file"):
        model.save_pretrained(tmp_path / "x")


def test_saving_again_over_another_model(saved: Any, tiny: Any) -> None:
    _, folder = saved
    other = BeitForMaskedImageModeling(tiny())
    other.save_pretrained(folder)
    loaded = beit.load(folder)
    assert type(loaded) is BeitForMaskedImageModeling
    same_parameters(loaded, other)


def test_properties(tiny: Any) -> None:
    model = BeitModel(tiny(hidden_size=8, num_hidden_layers=1, intermediate_size=8))
    embeddings = 8 * 48 + 8 + 8 + 8  # patches, their bias, cls and mask token
    layer = 3 * 64 + 16 + 64 + 8 + 2 * (64 + 8) + 2 * 16 + 16
    assert model.num_parameters() == embeddings + layer + 52 * 2 + 16
    assert model.device.type == "cpu"
    assert model.dtype == torch.float32
    assert model.get_input_embeddings().projection.weight.shape == (8, 3, 4, 4)
    assert model.load_report is None


# --- parts put in by hand ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "head", "layer", "field", "outputs"),
    [
        ("ForImageClassification", "classifier", lambda: torch.nn.Linear(16, 7), "num_labels", 7),
        ("ForImageClassification", "classifier", torch.nn.Identity, "num_labels", 0),
        ("ForMaskedImageModeling", "lm_head", lambda: torch.nn.Linear(16, 99), "vocab_size", 99),
    ],
)
def test_a_head_put_in_by_hand_is_saved_as_it_is(
    tiny: Any, tmp_path: Path, caplog, kind, head, layer, field, outputs
) -> None:
    model = getattr(beit, f"Beit{kind}")(tiny())
    setattr(model, head, layer())
    model.save_pretrained(tmp_path / "saved")
    assert f"head has {outputs} outputs" in caplog.text
    again = type(model).from_pretrained(tmp_path / "saved")
    assert getattr(again.config, field) == outputs
    assert not again.load_report.needs_training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "classifier", torch.nn.Linear(16, 3, bias=False)),
        lambda model: setattr(model, "classifier", torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Linear(8, 3))),
        lambda model: setattr(model, "classifier", torch.nn.Linear(12, 3)),
        lambda model: model.beit.encoder.layer.__delitem__(1),
        lambda model: setattr(model.beit.embeddings.patch_embeddings, "projection", torch.nn.Conv2d(5, 16, 4, 4)),
    ],
)
def test_a_part_that_no_config_describes_is_not_saved(tiny: Any, tmp_path: Path, change) -> None:
    model = beit.BeitForImageClassification(tiny())
    change(model)
    with pytest.raises(CheckpointError, match="the folder could not be loaded"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_weights_of_tensorflow_are_called_by_their_name(tiny: Any, tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    with pytest.raises(CheckpointError, match=r"tf_model\.h5 holds weights for TensorFlow.*from_tf=True"):
        beit.BeitModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"is an HDF5 file: weights of TensorFlow"):
        beit.BeitModel.from_pretrained(tmp_path / "tf_model.h5")

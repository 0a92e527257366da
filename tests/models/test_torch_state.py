"""State dicts of other names, and folders as Trainer and Accelerate ask for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

import beit
from beit import BeitConfig, BeitForImageClassification, BeitModel, CheckpointError, ConfigError
from beit.checkpoints import names

SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 16,
    "patch_size": 8, "use_relative_position_bias": True, "layer_norm_eps": 1e-6,
}  # fmt: skip


def build(kind: type = BeitForImageClassification, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    model = kind(BeitConfig(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def in_names_of(model: Any, dialect: str) -> dict[str, torch.Tensor]:
    arrays = names.to_disk({name: value.numpy() for name, value in model.state_dict().items()}, dialect)
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


# --- load_state_dict ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("dialect", ["hf", "unilm", "openmmlab", "short"])
def test_names_of_any_dialect_with_any_prefix(dialect: str, prefix: str) -> None:
    source, model = build(), build(seed=1)
    state = {prefix + name: value for name, value in in_names_of(source, dialect).items()}
    result = model.load_state_dict(state)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert equal(source, model)
    pointers = [value.untyped_storage().data_ptr() for value in model.state_dict().values()]
    assert len(set(pointers)) == len(pointers), "no two parameters share their memory"


def test_what_was_done_is_said(caplog: pytest.LogCaptureFixture) -> None:
    source, model = build(), build(seed=1)
    with caplog.at_level("INFO", logger="beit"):
        model.load_state_dict(source.state_dict())
        assert caplog.text == ""
        model.load_state_dict({f"module.{name}": value for name, value in in_names_of(source, "unilm").items()})
    assert (
        "the prefix 'module.' was taken off and names of the authors' repository (unilm) and timm were" in caplog.text
    )


def test_a_body_into_a_model_with_a_head_and_back() -> None:
    body, model = build(BeitModel), build(seed=1)
    before = model.classifier.weight.clone()
    result = model.load_state_dict(body.state_dict(), strict=False)
    assert result.missing_keys == ["classifier.weight", "classifier.bias"]
    assert equal(body, model.beit)
    assert torch.equal(model.classifier.weight, before)
    other = build(BeitModel, seed=2)
    result = other.load_state_dict(model.state_dict(), strict=False)
    assert result.unexpected_keys == ["classifier.weight", "classifier.bias"]
    assert equal(other, body)


def test_a_part_of_a_model() -> None:
    source, model = build(), build(seed=1)
    head = {name: value for name, value in source.state_dict().items() if name.startswith("classifier")}
    assert len(model.load_state_dict(head, strict=False).missing_keys) == len(source.state_dict()) - 2
    assert torch.equal(model.classifier.weight, source.classifier.weight)
    assert model.load_state_dict({}, strict=False).unexpected_keys == []
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(head)


def test_ours_are_loaded_as_by_any_module() -> None:
    source, model = build(), build(seed=1)
    state = source.state_dict()
    assert equal(source, source.load_state_dict(state, assign=True) and source)
    del state["beit.encoder.layer.0.attention.attention.key.weight"]
    state["more"] = torch.zeros(1)
    result = model.load_state_dict(state, strict=False)
    assert result.missing_keys == ["beit.encoder.layer.0.attention.attention.key.weight"]
    assert result.unexpected_keys == ["more"]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("what", ["resnet", "vit", "nearly nothing"])
def test_a_state_dict_of_something_else_is_refused(what: str, strict: bool) -> None:
    model = build()
    state = {
        "resnet": {"conv1.weight": torch.zeros(3), "fc.weight": torch.zeros(3)},
        "vit": {"blocks.0.attn.qkv.weight": torch.zeros(3, 1), "blocks.0.attn.qkv.bias": torch.zeros(3)},
        "nearly nothing": {"classifier.weight": torch.zeros(2, 16), "a": torch.zeros(1), "b": torch.zeros(1)},
    }[what]
    with pytest.raises(
        CheckpointError, match=rf"{int(what == 'nearly nothing')} of the {len(state)} tensors have a place"
    ):
        model.load_state_dict(state, strict=strict)


def test_a_matrix_that_is_not_three_is_refused() -> None:
    state = in_names_of(build(), "unilm")
    state["blocks.0.attn.qkv.weight"] = torch.zeros(47, 16)
    with pytest.raises(CheckpointError, match=r"blocks.0.attn.qkv.weight has the shape \(47, 16\); wanted 3 matrices"):
        build().load_state_dict(state)


# --- files that others wrote of our models ---------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("dialect", ["hf", "short"])
def test_a_file_of_torch_save(dialect: str, prefix: str, tmp_path: Path) -> None:
    source = build(num_attention_heads=2)
    state = {prefix + name: value for name, value in in_names_of(source, dialect).items()}
    torch.save(state, tmp_path / "model.pth")
    opened = beit.load(tmp_path / "model.pth", layer_norm_eps=1e-6)
    assert equal(source, opened)
    assert (f"The prefix '{prefix}' was taken off the names of the file." in opened.load_report.copied) == bool(prefix)


def test_an_averaged_model(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(build())
    torch.save(averaged.state_dict(), tmp_path / "swa.pth")
    opened = beit.load(tmp_path / "swa.pth")
    assert equal(averaged.module, opened)
    assert any("n_averaged" in name for name, _ in opened.load_report.unused)


def test_a_folder_without_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Trainer and `accelerator.save_model` write so: weights under our names, and no config.json."""
    source = build()
    save_file(source.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level("WARNING", logger="beit"):
        assert equal(source, beit.load(tmp_path))
    assert "has weights and no config.json" in caplog.text
    assert equal(source, BeitForImageClassification.from_pretrained(tmp_path, config=source.config))


# --- save_pretrained ---------------------------------------------------------------------------------------------------


def test_the_type_stays(tmp_path: Path) -> None:
    model = build().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    assert saved["classifier.weight"].dtype == torch.bfloat16
    again = BeitForImageClassification.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert equal(model, again)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_given_state_dict_is_written(prefix: str, tmp_path: Path) -> None:
    model, other = build(), build(seed=1)
    model.save_pretrained(tmp_path, state_dict={prefix + name: value for name, value in other.state_dict().items()})
    assert equal(other, BeitForImageClassification.from_pretrained(tmp_path))


def test_a_state_dict_of_a_part_is_refused(tmp_path: Path) -> None:
    model = build()
    state = model.state_dict()
    del state["classifier.bias"]
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors \(classifier.bias\) and has 1 others \(odd\)"):
        model.save_pretrained(tmp_path / "new", state_dict={**state, "odd": torch.zeros(1)})
    assert not (tmp_path / "new").exists()


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "new", is_main_process=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("size", ["5GB", "4KB"])
def test_a_pickle_where_it_is_asked_for(size: str, tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, safe_serialization=False, max_shard_size=size)
    found = {path.name for path in tmp_path.iterdir()}
    assert "model.safetensors" not in found, "it would be read instead"
    if size == "5GB":
        assert found == {"config.json", "pytorch_model.bin"}
    else:
        index = json.loads((tmp_path / "pytorch_model.bin.index.json").read_text())
        assert set(index["weight_map"].values()) == found - {"config.json", "pytorch_model.bin.index.json"}
        assert "pytorch_model-00001-of-00007.bin" in found
    assert equal(model, BeitForImageClassification.from_pretrained(tmp_path))
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "pytorch_model.bin"}


def test_a_function_that_saves(tmp_path: Path) -> None:
    model, calls = build(), []

    def save(tensors: dict[str, torch.Tensor], path: Any) -> None:
        calls.append(sorted(tensors))
        torch.save(tensors, path)

    model.save_pretrained(tmp_path, safe_serialization=False, save_function=save)
    assert calls == [sorted(model.state_dict())]
    assert equal(model, BeitForImageClassification.from_pretrained(tmp_path))


def test_variants_lie_beside_each_other(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    model.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    model.save_pretrained(tmp_path, variant="small", max_shard_size="4KB")
    found = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "model.fp16.safetensors", "model.safetensors.index.small.json"} <= found
    assert any(name.startswith("model.small-00001-of-") for name in found)
    assert load_file(tmp_path / "model.fp16.safetensors")["classifier.bias"].dtype == torch.float16
    model.save_pretrained(tmp_path, variant="small")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"config.json", "model.safetensors", "model.fp16.safetensors", "model.small.safetensors"}
    with pytest.raises(ConfigError, match=r"variant is '../x'"):
        model.save_pretrained(tmp_path, variant="../x")


def test_arguments_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    model = build()
    with pytest.raises(ConfigError, match=r"is_main_process is '500MB'.*max_shard_size"):
        model.save_pretrained(tmp_path, "500MB")
    with pytest.warns(UserWarning, match="odd"):
        model.save_pretrained(tmp_path, odd=1)
    with torch.device("meta"):
        empty = BeitModel(BeitConfig(**SMALL))
    with pytest.raises(CheckpointError, match="on the meta device"):
        empty.save_pretrained(tmp_path)


def test_saved_and_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        "beit.checkpoints.hub.upload_folder",
        lambda folder, repo_id, **keywords: calls.append(
            (sorted(p.name for p in Path(folder).iterdir()), repo_id, keywords)
        ),
    )
    (tmp_path / "secret.txt").write_text("not for the Hub")
    build().save_pretrained(tmp_path, push_to_hub=True, repo_id="me/mine", token="t", private=True)
    files = ["config.json", "model.safetensors"]
    assert calls == [(files, "me/mine", {"token": "t", "private": True})]

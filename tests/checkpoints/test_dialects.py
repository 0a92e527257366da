"""A dialect is one file and one entry: a toy is added, opened, written and removed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

import beit
from beit import BeitConfig, BeitForImageClassification, CheckpointError
from beit.checkpoints import Checkpoint, names
from beit.checkpoints.dialects import DIALECTS
from beit.checkpoints.dialects.dialect import Dialect
from beit.checkpoints.write_weights import write_tensors
from beit.export.layouts import write


def pack(tensors: dict[str, Any], segments: bool, classes: tuple[str, ...]) -> dict[str, Any]:
    return {"net": tensors, "about": {"classes": list(classes)}}


# All that a new file in `checkpoints/dialects/` would hold.
TOY = Dialect(
    name="toy",
    project="a toy",
    sign=r"stage\.\d+\.mix\.qb",
    prefix="trunk.",
    encoder="trunk.stage.",
    layer="{i}.",
    table="""
        trunk.cls       beit.embeddings.cls_token
        trunk.pos       beit.embeddings.position_embeddings
        trunk.stem.*    beit.embeddings.patch_embeddings.projection.*
        trunk.last.*    beit.layernorm.*
        trunk.pooled.*  beit.pooler.layernorm.*
        top.*           classifier.*
    """,
    layer_table="""
        pre.*      layernorm_before.*
        post.*     layernorm_after.*
        mix.vqk    attention.attention.{value,query,key}.weight
        mix.qb     attention.attention.query.bias
        mix.vb     attention.attention.value.bias
        mix.table  attention.attention.relative_position_bias.relative_position_bias_table
        mix.out.*  attention.output.dense.*
        wide.*     intermediate.dense.*
        narrow.*   output.dense.*
        scale1     lambda_1
        scale2     lambda_2
    """,
    layer_norm_eps=1e-7,
    pack=pack,
)


def model() -> BeitForImageClassification:
    torch.manual_seed(0)
    config = BeitConfig(
        hidden_size=12, num_hidden_layers=3, num_attention_heads=3, intermediate_size=20, image_size=16, patch_size=8,
        use_relative_position_bias=True, layer_norm_eps=1e-7, id2label={0: "cat", 1: "dog", 2: "eel"},
    )  # fmt: skip
    made = BeitForImageClassification(config)
    with torch.no_grad():
        made.classifier.weight.normal_()
    return made


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIALECTS, "toy", TOY)


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_file_in_a_new_dialect_is_opened(wrapper: str, toy: None, tmp_path: Path) -> None:
    made = model()
    disk = names.to_disk(names.to_state_dict(made.disk_tensors())[0], "toy")
    assert {"trunk.cls", "trunk.stage.2.mix.vqk", "top.bias"} <= disk.keys()
    write_tensors(tmp_path / "x.safetensors", {wrapper + name: array for name, array in disk.items()})
    checkpoint = Checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.dialect == "toy"
    assert checkpoint.left_over == []
    assert {guess.name: guess.value for guess in checkpoint.guesses}["layer_norm_eps"] == 1e-7
    opened = beit.load(checkpoint)
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in made.state_dict().items())


def test_a_file_in_a_new_dialect_is_written(toy: None, tmp_path: Path) -> None:
    made = model()
    state_dict, _ = names.to_state_dict(made.disk_tensors())
    losses = write(tmp_path / "x.pth", "toy", state_dict, made.config, None)  # type: ignore[arg-type]
    assert losses == [], "the epsilon is the toy's own"
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    assert content["about"]["classes"] == ["cat", "dog", "eel"]
    again = Checkpoint(tmp_path / "x.pth").state_dict
    assert again.keys() == state_dict.keys()
    assert all(np.array_equal(array, again[name]) for name, array in state_dict.items())


def test_a_layer_that_it_does_not_have_is_refused(toy: None, tmp_path: Path) -> None:
    disk = names.to_disk(names.to_state_dict(model().disk_tensors())[0], "toy")
    write_tensors(tmp_path / "x.safetensors", {**disk, "trunk.stage.0.gate": np.zeros(2, "f4")})
    with pytest.raises(CheckpointError, match=r"no BEiT.*trunk\.stage\.0\.gate"):
        BeitConfig.from_pretrained(tmp_path / "x.safetensors")


def test_without_the_entry_it_is_refused(tmp_path: Path) -> None:
    assert "toy" not in DIALECTS
    write_tensors(tmp_path / "x.safetensors", {"trunk.stage.0.mix.qb": np.zeros(2, "f4")})
    with pytest.raises(CheckpointError, match=r"none of its tensors is a BEiT layer.*trunk\.stage"):
        beit.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", DIALECTS)
def test_every_table_has_every_parameter(name: str) -> None:
    assert DIALECTS[name].name == name
    assert DIALECTS[name].rows.keys() == DIALECTS["hf"].rows.keys()


def test_signs_do_not_match_each_other() -> None:
    signs = {
        "hf": "beit.encoder.layer.0.attention.attention.query.weight",
        "unilm": "backbone.blocks.11.attn.q_bias",
        "openmmlab": "backbone.layers.3.attn.q_bias",
        "short": "beit.encoder.layers.3.attn.q_bias",
    }
    for name, dialect in DIALECTS.items():
        assert [other for other, sign in signs.items() if dialect.pattern.match(sign)] == [name]

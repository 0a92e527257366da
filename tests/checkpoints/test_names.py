"""THE table of names: exact both ways, nothing lost silently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from beit import CheckpointError
from beit.checkpoints import names as weights
from beit.checkpoints.dialects import DIALECTS
from beit.checkpoints.match import match_weights

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

WIDTH = 4
TABLE = DIALECTS["hf"].rows
LAYER = "encoder.layer.{}."
# One layer of the reference, word for word (transformers 4.37.2, BeitForMaskedImageModeling().state_dict()).
REFERENCE_LAYER = [
    "attention.attention.query.weight",
    "attention.attention.query.bias",
    "attention.attention.key.weight",
    "attention.attention.value.weight",
    "attention.attention.value.bias",
    "attention.attention.relative_position_bias.relative_position_bias_table",
    "attention.output.dense.weight",
    "attention.output.dense.bias",
    "intermediate.dense.weight",
    "intermediate.dense.bias",
    "output.dense.weight",
    "output.dense.bias",
    "layernorm_before.weight",
    "layernorm_before.bias",
    "layernorm_after.weight",
    "layernorm_after.bias",
    "lambda_1",
    "lambda_2",
]
REFERENCE_BODY = [
    "embeddings.cls_token",
    "embeddings.mask_token",
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.projection.bias",
    "encoder.relative_position_bias.relative_position_bias_table",
    "layernorm.weight",
    "layernorm.bias",
    "pooler.layernorm.weight",
    "pooler.layernorm.bias",
]
REFERENCE_HEADS = [
    "layernorm.weight",
    "layernorm.bias",
    "lm_head.weight",
    "lm_head.bias",
    "classifier.weight",
    "classifier.bias",
]


def some_disk(layers: int = 2, bare: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = [*REFERENCE_BODY, *(LAYER.format(i) + name for i in range(layers) for name in REFERENCE_LAYER)]
    if not bare:
        names = [f"beit.{name}" for name in names] + REFERENCE_HEADS
    return {name: rng.standard_normal((WIDTH, 2)).astype("f4") for name in names}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes()
        assert a[name].shape == b[name].shape


@pytest.mark.parametrize("bare", [False, True])
def test_whole_reference_model(bare: bool) -> None:
    disk = some_disk(13, bare)
    memory, unknown = weights.to_state_dict(disk)
    assert unknown == []
    assert all(
        name.startswith("beit.") or name.split(".")[0] in ("layernorm", "lm_head", "classifier") for name in memory
    )
    qkv = memory["beit.encoder.layers.12.attn.qkv.weight"]
    prefix = "" if bare else "beit."
    for i, part in enumerate(("query", "key", "value")):
        np.testing.assert_array_equal(
            qkv[i * WIDTH : (i + 1) * WIDTH], disk[f"{prefix}encoder.layer.12.attention.attention.{part}.weight"]
        )
    if bare:
        memory = {name.removeprefix("beit."): array for name, array in memory.items()}
    same(dict(sorted(weights.to_disk(memory).items())), dict(sorted(disk.items())))


def test_names_of_the_bare_norm_and_of_the_head_do_not_mix() -> None:
    disk = some_disk(1)
    memory, _ = weights.to_state_dict(disk)
    np.testing.assert_array_equal(memory["layernorm.weight"], disk["layernorm.weight"])
    np.testing.assert_array_equal(memory["beit.layernorm.weight"], disk["beit.layernorm.weight"])
    bare, _ = weights.to_state_dict(some_disk(1, bare=True))
    assert "layernorm.weight" not in bare
    assert "beit.layernorm.weight" in bare


def test_a_backbone_with_the_prefix_on_some_names_only() -> None:
    """So transformers 5 saves one that shares its table."""
    disk = some_disk(2, bare=True)
    wanted, _ = weights.to_state_dict(disk)
    table = "encoder.relative_position_bias.relative_position_bias_table"
    mixed = {("beit." + name if name == table else name): array for name, array in disk.items()}
    mixed = {name: array for name, array in mixed.items() if not name.startswith("layernorm")}  # a backbone has none
    found, unknown = weights.to_state_dict(mixed)
    assert unknown == []
    same(found, {name: array for name, array in wanted.items() if not name.startswith("beit.layernorm")})


def test_every_row_is_met_once() -> None:
    memory = [*TABLE]
    disk = [name for row in TABLE.values() for name in row]
    assert len(set(memory)) == len(memory)
    assert len(set(disk)) == len(disk)
    assert {f"beit.encoder.layer.{{i}}.{name}" for name in REFERENCE_LAYER} <= set(disk)
    assert {f"beit.{name}" for name in REFERENCE_BODY} <= set(disk)
    assert set(REFERENCE_HEADS) <= set(disk)


@given(
    st.lists(st.sampled_from([*TABLE]), unique=True),
    st.lists(st.integers(0, 120), min_size=1, max_size=3, unique=True),
    st.sampled_from(["f4", "f8", "f2"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.booleans(),
)
def test_round_trip(rows: list[str], numbers: list[int], dtype: str, shape: list[int], bare: bool) -> None:
    rng = np.random.default_rng(len(rows))
    memory: dict[str, np.ndarray] = {"beit.embeddings.cls_token": np.ones(3, dtype)}
    for row in rows:
        for number in numbers:
            lead = 3 * WIDTH if "qkv" in row else WIDTH
            memory[row.replace("{i}", str(number))] = rng.standard_normal((lead, *shape)).astype(dtype)
    if bare:
        memory = {n.removeprefix("beit."): a for n, a in memory.items() if n.startswith("beit.")}
    disk = weights.to_disk(memory)
    assert sum(array.nbytes for array in disk.values()) == sum(array.nbytes for array in memory.values())
    again, unknown = weights.to_state_dict(disk)
    assert unknown == []
    if bare:
        again = {name.removeprefix("beit."): array for name, array in again.items()}
    same({n: again[n] for n in sorted(again)}, {n: memory[n] for n in sorted(memory)})


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_missing_part(part: str) -> None:
    disk = some_disk()
    name = f"beit.encoder.layer.1.attention.attention.{part}.weight"
    del disk[name]
    with pytest.raises(CheckpointError, match=rf"layers.1.attn.qkv.weight.*lacks .*{part}.weight.*incomplete"):
        weights.to_state_dict(disk)


def test_parts_that_do_not_fit() -> None:
    disk = some_disk()
    disk["beit.encoder.layer.0.attention.attention.key.weight"] = np.zeros((4, 3), "f4")
    with pytest.raises(CheckpointError, match=r"\(4, 2\), \(4, 3\), \(4, 2\)"):
        weights.to_state_dict(disk)


def test_unknown_and_derived_names() -> None:
    disk = some_disk()
    disk["beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"] = np.zeros(2)
    disk["beit.encoder.relative_position_bias.relative_position_index"] = np.zeros(2)
    disk["beit.encoder.layer.0.attention.attention.key.bias"] = np.zeros(2)
    disk["head.fc.weight"] = np.zeros(2)
    _, unknown = weights.to_state_dict(disk)
    assert sorted(unknown) == ["beit.encoder.layer.0.attention.attention.key.bias", "head.fc.weight"]
    with pytest.raises(CheckpointError, match=r"beit.encoder.layers.0.attn.nothing has no name on disk"):
        weights.to_disk({"beit.encoder.layers.0.attn.nothing": np.zeros(1)})


# --- fit ---------------------------------------------------------------------------------------------------------


def wanted(memory: dict[str, np.ndarray], *without: str) -> dict[str, tuple[int, ...]]:
    return {n: a.shape for n, a in memory.items() if not any(part in n for part in without)}


def fit(disk: dict[str, np.ndarray], want: dict[str, tuple[int, ...]], **more: Any) -> Any:
    memory, left_over = weights.to_state_dict(disk)
    return match_weights(memory, want, model="BeitThing", left_over=left_over, **more)


def test_fit_of_the_same_model() -> None:
    disk = some_disk()
    memory, _ = weights.to_state_dict(disk)
    found, report = fit(disk, wanted(memory))
    same(found, memory)
    assert not report
    assert not report.needs_training
    assert str(report) == "every tensor of the file has its place"


def test_fit_of_a_bare_model_from_a_whole_one_and_back() -> None:
    disk = some_disk()
    memory, _ = weights.to_state_dict(disk)
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
    memory, _ = weights.to_state_dict(disk)

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
    memory, _ = weights.to_state_dict(some_disk(3))
    found, report = fit(disk, wanted(memory, "encoder.relative_position.table"))
    for i in range(3):
        np.testing.assert_array_equal(found[f"beit.encoder.layers.{i}.attn.relative_position.table"], shared)
    found["beit.encoder.layers.0.attn.relative_position.table"][:] = 9
    assert (found["beit.encoder.layers.1.attn.relative_position.table"] != 9).all(), "copies, not one array"
    assert (shared != 9).all()
    assert "copied into each of the 3 layers" in str(report)
    assert report


def test_other_shapes() -> None:
    disk = some_disk()
    memory, _ = weights.to_state_dict(disk)
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
    memory, _ = weights.to_state_dict(disk)
    for lost in (
        "beit.encoder.layer.1.output.dense.bias",
        "beit.embeddings.cls_token",
        "beit.encoder.layer.0.lambda_1",
    ):
        kept = {n: a for n, a in disk.items() if n != lost}
        with pytest.raises(CheckpointError, match=r"lacks 1 tensors of BeitThing.*incomplete"):
            fit(kept, wanted(memory))


def test_fewer_layers_than_the_file() -> None:
    memory, _ = weights.to_state_dict(some_disk(2))
    found, report = fit(some_disk(4), wanted(memory))
    assert found.keys() == memory.keys()
    assert any("encoder.layer.3" in name for name, _ in report.unused)


@pytest.mark.parametrize(
    "disk", [{}, {"vit.encoder.layer.0.output.dense.weight": np.zeros(1)}, {"lm_head.weight": np.zeros(1)}]
)
def test_other_architecture(disk: dict[str, np.ndarray]) -> None:
    memory, _ = weights.to_state_dict(some_disk())
    with pytest.raises(CheckpointError, match="no BEiT checkpoint"):
        fit(disk, wanted(memory))

"""THE table of names: exact both ways, nothing lost silently."""

from __future__ import annotations

import numpy as np
import pytest

from beit import CheckpointError
from beit.checkpoints import names
from beit.checkpoints.dialects import DIALECTS
from fixtures_names import REFERENCE_BODY, REFERENCE_HEADS, REFERENCE_LAYER, WIDTH, same, some_disk

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

TABLE = DIALECTS["hf"].rows


@pytest.mark.parametrize("bare", [False, True])
def test_whole_reference_model(bare: bool) -> None:
    disk = some_disk(13, bare)
    memory, unknown = names.to_state_dict(disk)
    assert unknown == []
    assert all(
        name.startswith("beit.") or name.split(".")[0] in ("layernorm", "lm_head", "classifier") for name in memory
    )
    for name, array in disk.items():
        assert memory[f"beit.{name}" if bare else name] is array, "neither renamed nor copied"
    if bare:
        memory = {name.removeprefix("beit."): array for name, array in memory.items()}
    same(dict(sorted(names.to_disk(memory).items())), dict(sorted(disk.items())))


@pytest.mark.parametrize("bare", [False, True])
def test_short_names(bare: bool) -> None:
    disk = some_disk(13, bare)
    short = names.to_short(disk)
    prefix = "" if bare else "beit."
    qkv = short[f"{prefix}encoder.layers.12.attn.qkv.weight"]
    for i, part in enumerate(("query", "key", "value")):
        np.testing.assert_array_equal(
            qkv[i * WIDTH : (i + 1) * WIDTH], disk[f"{prefix}encoder.layer.12.attention.attention.{part}.weight"]
        )
    assert f"{prefix}encoder.layers.3.gamma1" in short
    back = names.from_short(short)
    same(dict(sorted(back.items())), dict(sorted(disk.items())))
    with pytest.raises(CheckpointError, match="odd is no parameter"):
        names.from_short({**short, "odd": np.zeros(1)})
    for name, array in short.items():
        first = names.from_short_name(name)
        known = first.removeprefix("beit.") if bare else first
        assert known in disk
        assert len(disk[known]) in (len(array), len(array) // 3)
    assert names.from_short_name("a.b") == "a.b"


def test_names_of_the_bare_norm_and_of_the_head_do_not_mix() -> None:
    disk = some_disk(1)
    memory, _ = names.to_state_dict(disk)
    np.testing.assert_array_equal(memory["layernorm.weight"], disk["layernorm.weight"])
    np.testing.assert_array_equal(memory["beit.layernorm.weight"], disk["beit.layernorm.weight"])
    bare, _ = names.to_state_dict(some_disk(1, bare=True))
    assert "layernorm.weight" not in bare
    assert "beit.layernorm.weight" in bare


def test_a_backbone_with_the_prefix_on_some_names_only() -> None:
    """So transformers 5 saves one that shares its table."""
    disk = some_disk(2, bare=True)
    wanted, _ = names.to_state_dict(disk)
    table = "encoder.relative_position_bias.relative_position_bias_table"
    mixed = {("beit." + name if name == table else name): array for name, array in disk.items()}
    mixed = {name: array for name, array in mixed.items() if not name.startswith("layernorm")}  # a backbone has none
    found, unknown = names.to_state_dict(mixed)
    assert unknown == []
    same(found, {name: array for name, array in wanted.items() if not name.startswith("beit.layernorm")})


def test_every_row_is_met_once() -> None:
    assert all(place.disk == name for name, place in TABLE.items()), "our names are those on disk"
    assert {f"beit.encoder.layer.{{i}}.{name}" for name in REFERENCE_LAYER} <= set(TABLE)
    assert {f"beit.{name}" for name in REFERENCE_BODY} <= set(TABLE)
    assert set(REFERENCE_HEADS) <= set(TABLE)


@given(
    st.lists(st.sampled_from([*TABLE]), unique=True),
    st.lists(st.integers(0, 120), min_size=1, max_size=3, unique=True),
    st.sampled_from(["f4", "f8", "f2"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.booleans(),
    st.sampled_from(["hf", "short"]),
)
def test_round_trip(
    rows: list[str], numbers: list[int], dtype: str, shape: list[int], bare: bool, dialect: str
) -> None:
    rng = np.random.default_rng(len(rows))
    memory: dict[str, np.ndarray] = {"beit.embeddings.cls_token": np.ones(3, dtype)}
    for row in rows:
        for number in numbers:
            for name in DIALECTS[dialect].rows[row].parameters:
                memory[name.replace("{i}", str(number))] = rng.standard_normal((WIDTH, *shape)).astype(dtype)
    if bare:
        memory = {n.removeprefix("beit."): a for n, a in memory.items() if n.startswith("beit.")}
    disk = names.to_disk(memory, dialect)
    assert sum(array.nbytes for array in disk.values()) == sum(array.nbytes for array in memory.values())
    again, unknown = names.to_state_dict(disk, dialect)
    assert unknown == []
    if bare:
        again = {name.removeprefix("beit."): array for name, array in again.items()}
    same({n: again[n] for n in sorted(again)}, {n: memory[n] for n in sorted(memory)})


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_missing_part(part: str) -> None:
    memory = some_disk()
    del memory[f"beit.encoder.layer.1.attention.attention.{part}.weight"]
    with pytest.raises(CheckpointError, match=rf"layers.1.attn.qkv.weight cannot be built: .*{part}.weight is missing"):
        names.to_disk(memory, "short")


@pytest.mark.parametrize("shape", [(4, 2), ()])
def test_a_matrix_that_is_not_three(shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"blocks.0.attn.qkv.weight has the shape \(.*wanted 3 matrices"):
        names.to_state_dict({"blocks.0.attn.qkv.weight": np.zeros(shape, "f4")}, "unilm")


def test_unknown_and_derived_names() -> None:
    disk = some_disk()
    disk["beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"] = np.zeros(2)
    disk["beit.encoder.relative_position_bias.relative_position_index"] = np.zeros(2)
    disk["beit.encoder.layer.0.attention.attention.key.bias"] = np.zeros(2)
    disk["head.fc.weight"] = np.zeros(2)
    _, unknown = names.to_state_dict(disk)
    assert sorted(unknown) == ["beit.encoder.layer.0.attention.attention.key.bias", "head.fc.weight"]
    with pytest.raises(CheckpointError, match=r"beit.encoder.layer.0.attn.nothing has no name on disk"):
        names.to_disk({"beit.encoder.layer.0.attn.nothing": np.zeros(1)})

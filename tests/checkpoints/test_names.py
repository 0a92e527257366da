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
    qkv = memory["beit.encoder.layers.12.attn.qkv.weight"]
    prefix = "" if bare else "beit."
    for i, part in enumerate(("query", "key", "value")):
        np.testing.assert_array_equal(
            qkv[i * WIDTH : (i + 1) * WIDTH], disk[f"{prefix}encoder.layer.12.attention.attention.{part}.weight"]
        )
    if bare:
        memory = {name.removeprefix("beit."): array for name, array in memory.items()}
    same(dict(sorted(names.to_disk(memory).items())), dict(sorted(disk.items())))


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
    disk = names.to_disk(memory)
    assert sum(array.nbytes for array in disk.values()) == sum(array.nbytes for array in memory.values())
    again, unknown = names.to_state_dict(disk)
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
        names.to_state_dict(disk)


def test_parts_that_do_not_fit() -> None:
    disk = some_disk()
    disk["beit.encoder.layer.0.attention.attention.key.weight"] = np.zeros((4, 3), "f4")
    with pytest.raises(CheckpointError, match=r"\(4, 2\), \(4, 3\), \(4, 2\)"):
        names.to_state_dict(disk)


def test_unknown_and_derived_names() -> None:
    disk = some_disk()
    disk["beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"] = np.zeros(2)
    disk["beit.encoder.relative_position_bias.relative_position_index"] = np.zeros(2)
    disk["beit.encoder.layer.0.attention.attention.key.bias"] = np.zeros(2)
    disk["head.fc.weight"] = np.zeros(2)
    _, unknown = names.to_state_dict(disk)
    assert sorted(unknown) == ["beit.encoder.layer.0.attention.attention.key.bias", "head.fc.weight"]
    with pytest.raises(CheckpointError, match=r"beit.encoder.layers.0.attn.nothing has no name on disk"):
        names.to_disk({"beit.encoder.layers.0.attn.nothing": np.zeros(1)})

"""Folders of the Flax models: to PyTorch and back, `flax_model.msgpack`, damage, layouts; no torch needed."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
flax = pytest.importorskip("flax")
msgpack = pytest.importorskip("msgpack")
torch = pytest.importorskip("torch")
import jax.numpy as jnp
from flax import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import beit
import fixtures_flax
from beit import (
    BeitConfig,
    BeitForImageClassification,
    CheckpointError,
    FlaxBeitForImageClassification,
    FlaxBeitForMaskedImageModeling,
    FlaxBeitModel,
)
from beit.checkpoints import flax_layout, hub, names
from beit.checkpoints import msgpack as msgpack_file
from beit.checkpoints.write_weights import write_tensors
from fixtures_flax import close, pair, pixels, same_outputs
from golden import make_flax as golden
from test_imports import run

pytestmark = pytest.mark.usefixtures("quick_compiles")
KINDS = ("BeitModel", "BeitForMaskedImageModeling", "BeitForImageClassification", "BeitForSemanticSegmentation")


def small(**changes: Any) -> BeitConfig:
    tables = {"use_shared_relative_position_bias": False, "use_relative_position_bias": True}
    return fixtures_flax.small(**{"num_hidden_layers": 1, **tables, **changes})


def same_params(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), a, b)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def architecture(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["architectures"][0]


@pytest.fixture(scope="module")
def classifier() -> tuple[Any, Any]:
    """(PyTorch model, Flax model that keeps the same numbers)."""
    model, flax_model, params = pair("BeitForImageClassification", small())
    flax_model.params = params
    return model, flax_model


@pytest.fixture
def saved(classifier: Any, tmp_path: Path) -> tuple[Any, Path]:
    """(Flax model, its folder)."""
    classifier[1].save_pretrained(tmp_path / "model")
    return classifier[1], tmp_path / "model"


# --- between the frameworks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "msgpack"])
def test_flax_to_pytorch_and_back(kind: str, safe: bool, tmp_path: Path) -> None:
    layers = 4 if kind == "BeitForSemanticSegmentation" else 1
    model, flax_model, params = pair(kind, small(num_hidden_layers=layers, auxiliary_channels=4))
    flax_model.save_pretrained(tmp_path / "a", params, safe_serialization=safe)
    assert files(tmp_path / "a") == ["config.json", hub.SAFETENSORS if safe else hub.MSGPACK]
    assert architecture(tmp_path / "a") == kind  # a folder belongs to no framework
    again = beit.load(tmp_path / "a")
    assert type(again) is type(model)
    assert not again.load_report
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):  # which Flax does not have
            torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0, msg=name)
    again.save_pretrained(tmp_path / "b")
    if safe:
        first, second = ((tmp_path / folder / hub.SAFETENSORS).read_bytes() for folder in "ab")
        assert first == second
    back, back_params = type(flax_model).from_pretrained(tmp_path / "b", _do_init=False)
    assert not back.load_report
    same_params(back_params, params)
    assert back.config.replace(architectures=None) == flax_model.config.replace(architectures=None)
    own, own_params = type(flax_model).from_pretrained(tmp_path / "a", _do_init=False)
    assert not own.load_report
    same_params(own_params, params)


def test_outputs_are_the_same_on_both_sides(saved: Any, classifier: Any) -> None:
    _, folder = saved
    x = pixels(small())
    wanted = classifier[0](torch.from_numpy(x))
    with torch.no_grad():
        torch.testing.assert_close(
            BeitForImageClassification.from_pretrained(folder)(torch.from_numpy(x)).logits, wanted.logits
        )
    flax_model = FlaxBeitForImageClassification.from_pretrained(folder)
    same_outputs(flax_model(x), wanted)
    model, params = FlaxBeitForImageClassification.from_pretrained(folder, _do_init=False, from_pt=True)
    same_outputs(model(x, params=params), wanted)
    assert model._params is None


@pytest.mark.parametrize("shard", ["3KB", "5GB"])
def test_shards_of_either_framework(shard: str, classifier: Any, tmp_path: Path) -> None:
    for folder, model in zip(("torch", "flax"), classifier, strict=True):
        model.save_pretrained(tmp_path / folder, max_shard_size=shard)
        assert (tmp_path / folder / hub.SAFETENSORS).is_file() == (shard == "5GB")
        same_params(FlaxBeitForImageClassification.from_pretrained(tmp_path / folder).params, classifier[1].params)
    assert files(tmp_path / "torch") == files(tmp_path / "flax")


def test_folders_with_names_of_pytorch_in_a_bin(classifier: Any, tmp_path: Path) -> None:
    model, flax_model = classifier
    state = {name: torch.from_numpy(array) for name, array in model.disk_tensors().items()}
    assert "beit.encoder.layer.0.attention.attention.query.weight" in state
    small().save_pretrained(tmp_path)
    torch.save(state, tmp_path / hub.BIN)
    same_params(FlaxBeitForImageClassification.from_pretrained(tmp_path).params, flax_model.params)


def test_architectures_of_flax_pick_the_class(saved: Any) -> None:
    """Some folders name a Flax class; `load` gives that of PyTorch."""
    flax_model, folder = saved
    values = json.loads((folder / "config.json").read_text())
    for named in (["FlaxBeitForImageClassification"], [], None):
        (folder / "config.json").write_text(json.dumps({**values, "architectures": named}))
        assert type(beit.load(folder)) is BeitForImageClassification
        same_params(FlaxBeitForImageClassification.from_pretrained(folder).params, flax_model.params)


def test_saving_one_kind_removes_the_other(saved: Any, tiny: Any) -> None:
    """Or whoever reads next would take the older file for current."""
    flax_model, folder = saved
    for arguments, there in (
        ({"safe_serialization": False}, [hub.MSGPACK]),
        ({}, [hub.SAFETENSORS]),
        ({"max_shard_size": "5KB"}, [name for name in files(folder) if "-of-" in name]),
        ({"safe_serialization": False}, [hub.MSGPACK]),
    ):
        flax_model.save_pretrained(folder, jax.tree.map(jnp.zeros_like, flax_model.params), **arguments)
        kinds = [name for name in files(folder) if name != "config.json"]
        if "max_shard_size" in arguments:
            assert hub.SAFETENSORS_INDEX in kinds
            assert not {hub.SAFETENSORS, hub.MSGPACK} & set(kinds)
        else:
            assert kinds == there
        assert not FlaxBeitForImageClassification.from_pretrained(folder, _do_init=False)[1]["classifier"][
            "kernel"
        ].any()


def test_saving_params_instead_of_the_models_own(classifier: Any, tmp_path: Path) -> None:
    flax_model = classifier[1]
    own = np.array(flax_model.params["classifier"]["bias"])
    flax_model.save_pretrained(tmp_path, jax.tree.map(lambda leaf: leaf + 1, flax_model.params))
    loaded = FlaxBeitForImageClassification.from_pretrained(tmp_path).params
    np.testing.assert_array_equal(loaded["classifier"]["bias"], own + 1)
    np.testing.assert_array_equal(flax_model.params["classifier"]["bias"], own)
    frozen = flax.core.freeze(flax_model.params)
    flax_model.save_pretrained(tmp_path, frozen)
    same_params(FlaxBeitForImageClassification.from_pretrained(tmp_path).params, flax_model.params)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "msgpack"])
def test_half_files(name: str, safe: bool, classifier: Any, tmp_path: Path) -> None:
    flax_model = classifier[1]
    cast = flax_model.to_bf16 if name == "bfloat16" else flax_model.to_fp16
    half = cast(flax_model.params)
    flax_model.save_pretrained(tmp_path, half, safe_serialization=safe)
    loaded = FlaxBeitForImageClassification.from_pretrained(tmp_path).params
    same_params(loaded, flax_model.to_fp32(half))
    wanted = np.asarray(half["classifier"]["bias"].astype(jnp.float32))
    np.testing.assert_array_equal(BeitForImageClassification.from_pretrained(tmp_path).classifier.bias.detach(), wanted)


def test_half_files_of_others(classifier: Any, tmp_path: Path) -> None:
    """bfloat16 as the reference's Flax writes it, and as PyTorch does."""
    model, flax_model = classifier
    small().save_pretrained(tmp_path)
    reference = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.bfloat16), flax_layout.to_reference(model.disk_tensors())
    )
    (tmp_path / hub.MSGPACK).write_bytes(serialization.to_bytes(reference))
    wanted = flax_model.to_fp32(flax_model.to_bf16(flax_model.params))
    same_params(FlaxBeitForImageClassification.from_pretrained(tmp_path).params, wanted)
    safetensors = pytest.importorskip("safetensors.torch")
    state = {n: torch.from_numpy(a.copy()).bfloat16() for n, a in model.disk_tensors().items()}
    safetensors.save_file(state, tmp_path / hub.SAFETENSORS, metadata={"format": "pt"})
    (tmp_path / hub.MSGPACK).unlink()
    same_params(FlaxBeitForImageClassification.from_pretrained(tmp_path).params, wanted)


# --- what does not fit ---------------------------------------------------------------------------------------------


def test_mismatched_sizes(saved: Any) -> None:
    flax_model, folder = saved
    with pytest.raises(CheckpointError, match=r"FlaxBeitForImageC.*classifier: file \(3, 16\), model \(5, 16\)"):
        FlaxBeitForImageClassification.from_pretrained(folder, num_labels=5)
    other = FlaxBeitForImageClassification.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
    assert other.params["classifier"]["kernel"].shape == (16, 5)
    assert np.asarray(other.params["classifier"]["kernel"]).std() > 0
    assert other.load_report.needs_training
    assert other.config.id2label[4] == "LABEL_4"
    same_params(other.params["beit"], flax_model.params["beit"])


def test_from_pretraining_to_fine_tuning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The head is new, the shared table goes into each layer, and the report has PyTorch's words."""
    config = small(use_shared_relative_position_bias=True, use_relative_position_bias=False, num_hidden_layers=2)
    _, pretrained, params = pair("BeitForMaskedImageModeling", config)
    pretrained.save_pretrained(tmp_path, params)
    changes = {"use_shared_relative_position_bias": False, "use_relative_position_bias": True}
    with caplog.at_level(logging.INFO, "beit"):
        model = FlaxBeitForImageClassification.from_pretrained(tmp_path, num_labels=7, **changes)
    assert caplog.records[-1].levelno == logging.WARNING
    assert "FlaxBeitForImageClassification" in caplog.records[-1].getMessage()
    theirs = BeitForImageClassification.from_pretrained(tmp_path, num_labels=7, **changes)
    ours = str(model.load_report).replace("FlaxBeit", "Beit").splitlines()
    assert sorted(ours) == sorted(str(theirs.load_report).splitlines())
    table = np.asarray(params["beit"]["encoder"]["relative_position"]["table"])
    for layer in ("layers_0", "layers_1"):
        got = model.params["beit"]["encoder"][layer]["attn"]["relative_position"]["table"]
        np.testing.assert_array_equal(got, table)
    with caplog.at_level(logging.INFO, "beit"):
        body = FlaxBeitModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert caplog.records[-1].levelno == logging.INFO
    assert "pooler" not in body.params
    caplog.clear()
    FlaxBeitForMaskedImageModeling.from_pretrained(tmp_path)
    assert caplog.records == []


def test_arguments_of_the_constructor_and_of_the_config(saved: Any) -> None:
    _, folder = saved
    model = FlaxBeitForImageClassification.from_pretrained(
        folder, dtype="bfloat16", gradient_checkpointing=True, seed=4, hidden_dropout_prob=0.2
    )
    assert (model.dtype, model.seed) == (jnp.bfloat16, 4)
    assert model.module.gradient_checkpointing
    assert model.config.hidden_dropout_prob == model.module.config.hidden_dropout_prob == 0.2
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model.params)} == {"float32"}
    other = FlaxBeitForImageClassification.from_pretrained(
        folder, config=small(drop_path_rate=0.3), hidden_dropout_prob=0.1
    )
    assert (other.config.drop_path_rate, other.config.hidden_dropout_prob) == (0.3, 0.1)
    with pytest.raises(beit.ConfigError, match="drop_path_rate"):
        FlaxBeitForImageClassification.from_pretrained(folder, drop_path_rate=3)


def test_damaged_and_incomplete_folders(saved: Any, tmp_path: Path) -> None:
    flax_model, folder = saved
    disk = flax_model.disk_tensors()
    del disk["beit.encoder.layer.0.layernorm_after.bias"]
    for write in (write_tensors, msgpack_file.write_msgpack):
        for stale in folder.glob("*model*"):
            stale.unlink()
        write(folder / (hub.MSGPACK if "msgpack" in write.__name__ else hub.SAFETENSORS), disk)
        with pytest.raises(CheckpointError, match=r"lacks 1 tensors of FlaxBeit.*layernorm_after\.bias"):
            FlaxBeitForImageClassification.from_pretrained(folder)
    (folder / hub.MSGPACK).write_bytes(b"")
    for load in (FlaxBeitForImageClassification.from_pretrained, beit.load):
        with pytest.raises(CheckpointError, match="damaged"):
            load(folder)
    (folder / hub.MSGPACK).unlink()
    with pytest.raises(CheckpointError, match=r"no weights: .*flax_model\.msgpack"):
        FlaxBeitForImageClassification.from_pretrained(folder)
    (tmp_path / "x").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        flax_model.save_pretrained(tmp_path / "x")
    with pytest.raises(beit.ConfigError, match="max_shard_size"):
        flax_model.save_pretrained(folder, max_shard_size="5 bananas")


@pytest.mark.parametrize("step", ["replace", "fsync"])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "msgpack"])
def test_a_failed_save_leaves_the_old_files(step: str, safe: bool, saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flax_model, folder = saved
    for old in (True, False):
        flax_model.save_pretrained(folder, safe_serialization=old)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(hub.os, step, full)
            with pytest.raises(CheckpointError, match=r"Free some space; what was there before is untouched"):
                flax_model.save_pretrained(
                    folder, jax.tree.map(jnp.zeros_like, flax_model.params), safe_serialization=safe
                )
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# --- the msgpack file ----------------------------------------------------------------------------------------------

TYPES = ["<f4", "<f2", "<f8", "<i8", "<i4", "|u1", "|b1"]
ARRAYS = st.sampled_from(TYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))
)
NAMES = st.lists(st.sampled_from(["a", "b", "layer", "0", "1", "é"]), min_size=1, max_size=3).map(".".join)


def no_name_is_the_start_of_another(names: list[str]) -> bool:
    paths = [name.split(".") for name in names]
    return not any(a != b and b[: len(a)] == a for a in paths for b in paths)


# Names as on disk: a matrix, a vector or a convolution is a `weight`; a number is none.
DISK = st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=5).map(
    lambda found: {f"{n}.{'weight' if a.ndim in (1, 2, 4) else 'bias'}": a for n, a in found.items()}
)
DISK = DISK.filter(lambda found: no_name_is_the_start_of_another([name.rpartition(".")[0] for name in found]))


def same_tensors(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name], strict=True, err_msg=name)


@given(disk=DISK)
def test_the_references_tree_and_back(disk: dict[str, np.ndarray]) -> None:
    same_tensors(flax_layout.from_reference(flax_layout.to_reference(disk)), disk)


@given(disk=DISK, piece=st.sampled_from([8, 16, 2**30]))
def test_msgpack_round_trip(tmp_path_factory: pytest.TempPathFactory, disk: dict[str, np.ndarray], piece: int) -> None:
    """Ours by ours, ours by Flax, Flax's by ours; large arrays in pieces."""
    path = tmp_path_factory.getbasetemp() / "round.msgpack"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(msgpack_file, "_LONGEST_PIECE", piece)
        patch.setattr(serialization, "MAX_CHUNK_SIZE", piece)
        msgpack_file.write_msgpack(path, disk)
        same_tensors(msgpack_file.read_msgpack(path), disk)
        theirs = serialization.msgpack_restore(path.read_bytes())
        same_tensors(flax_layout.from_reference(theirs), disk)
        path.write_bytes(serialization.msgpack_serialize(flax_layout.to_reference(disk)))
        same_tensors(msgpack_file.read_msgpack(path), disk)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A file with all that there is: a matrix, a vector, a number, a convolution, pieces."""
    path = tmp_path_factory.mktemp("whole") / "flax_model.msgpack"
    disk = {
        "a.weight": np.ones((2, 3), np.float32),
        "a.bias": np.ones(3, np.float16),
        "b": np.zeros((), np.int64),
        "c.weight": np.ones((2, 1, 2, 2), np.float32),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(msgpack_file, "_LONGEST_PIECE", 24)
        msgpack_file.write_msgpack(path, disk)
    same_tensors(msgpack_file.read_msgpack(path), disk)
    return path, path.read_bytes()


def reads_or_refuses(path: Path, data: bytes) -> None:
    """Arrays, if only their numbers were hit, or a CheckpointError; nothing else."""
    path.write_bytes(data)
    try:
        tensors = msgpack_file.read_msgpack(path)
    except CheckpointError:
        return
    assert all(type(array) is np.ndarray for array in tensors.values())


def test_a_cut_file_is_refused(whole: tuple[Path, bytes]) -> None:
    path, data = whole
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(CheckpointError, match="damaged or not a msgpack file"):
            msgpack_file.read_msgpack(path)
    path.write_bytes(data + b"\x00")
    with pytest.raises(CheckpointError, match="damaged"):
        msgpack_file.read_msgpack(path)


@settings(max_examples=400)
@given(hits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes(whole: tuple[Path, bytes], hits: list[tuple[int, int]]) -> None:
    path, data = whole
    changed = bytearray(data)
    for place, value in hits:
        changed[place % len(data)] = value
    reads_or_refuses(path, bytes(changed))


@settings(max_examples=200)
@given(data=st.binary(max_size=60))
def test_random_bytes(whole: tuple[Path, bytes], data: bytes) -> None:
    reads_or_refuses(whole[0], data)


def packed_array(shape: Any, name: Any, content: Any, kind: int = 1) -> bytes:
    return msgpack.packb({"a": msgpack.ExtType(kind, msgpack.packb((shape, name, content)))})


STRANGE: dict[str, bytes] = {
    "an endless side": packed_array((float("inf"),), "float32", b""),
    "a side that is no number": packed_array((float("nan"),), "float32", b""),
    "a negative side": packed_array((-1,), "float32", b"\0" * 4),
    "two negative sides": packed_array((-1, -1), "float32", b"\0" * 4),
    "a side beyond all memory": packed_array((0, 2**63), "float32", b""),
    "too few bytes": packed_array((2,), "float32", b"\0" * 4),
    "an odd bfloat16": packed_array((1,), "bfloat16", b"\0"),
    "objects": packed_array((1,), "object", b"\0" * 8),
    "an expression": packed_array((1,), "f4,(f4", b"\0" * 8),
    "a record": packed_array((1,), "f4,f4", b"\0" * 8),
    "text": packed_array((1,), "<U1", b"\0" * 4),
    "no name": packed_array((1,), None, b"\0" * 8),
    "a name that is a list": packed_array((1,), ["float32"], b"\0" * 4),
    "no array": packed_array((1,), "float32", b"\0" * 4)[:-6] + b"abcdef",
    "a complex number": packed_array((1,), "float32", b"\0" * 4, kind=2),
    "another extension": packed_array((1,), "float32", b"\0" * 4, kind=77),
    "a time": msgpack.packb({"a": msgpack.Timestamp(5)}),
    "a number": msgpack.packb({"a": 5}),
    "text for an array": msgpack.packb({"a": {"b": "cat"}}),
    "a list": msgpack.packb([1, 2]),
    "an empty tree": msgpack.packb({}),
    "pieces that are none": msgpack.packb({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": {}}}),
    "pieces without a shape": msgpack.packb({"a": {"__msgpack_chunked_array__": True}}),
    "a tree too deep": b"\x81\xa1a" * 990 + msgpack.packb(1),
    "a list for a name": b"\x81\x91\x01\x01",
}


@pytest.mark.parametrize("strange", STRANGE)
def test_strange_content_is_refused(strange: str, tmp_path: Path) -> None:
    (tmp_path / hub.MSGPACK).write_bytes(STRANGE[strange])
    with pytest.raises(CheckpointError, match=r"flax_model\.msgpack"):
        msgpack_file.read_msgpack(tmp_path / hub.MSGPACK)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        msgpack_file.read_msgpack(tmp_path / "absent.msgpack")


def test_damaged_shards(tmp_path: Path) -> None:
    source = golden.FOLDERS / "shards"
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    second = tmp_path / "flax_model-00002-of-00002.msgpack"
    second.write_bytes(second.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.msgpack is damaged"):
        FlaxBeitForImageClassification.from_pretrained(tmp_path)
    second.unlink()
    with pytest.raises(CheckpointError, match=r"has no flax_model-00002-of-00002\.msgpack"):
        FlaxBeitForImageClassification.from_pretrained(tmp_path)


# --- layouts -------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    kind=st.sampled_from(KINDS),
    heads=st.sampled_from([1, 2]),
    sizes=st.tuples(st.integers(2, 3), st.integers(2, 3), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])),
    flags=st.tuples(*[st.booleans()] * 6),
)
def test_layout_round_trip_of_random_models(
    kind: str, heads: int, sizes: tuple[int, ...], flags: tuple[bool, ...]
) -> None:
    """Memory → tree → memory, and the tree has just the paths and shapes that the Flax module wants."""
    rows, columns, height, width = sizes
    config = small(
        hidden_size=4 * heads,
        num_attention_heads=heads,
        num_hidden_layers=4 if kind == "BeitForSemanticSegmentation" else 2,
        intermediate_size=5,
        image_size=(rows * height, columns * width),
        patch_size=(height, width),
        auxiliary_channels=3,
        use_relative_position_bias=flags[0],
        use_shared_relative_position_bias=flags[1],
        use_absolute_position_embeddings=flags[2],
        use_mask_token=flags[3],
        use_mean_pooling=flags[4],
        layer_scale_init_value=0.1 * flags[5],
    )
    with torch.device("meta"):
        state = getattr(beit, kind)(config).state_dict()
    rng = np.random.default_rng(0)
    memory = {
        name: np.zeros((), np.int64)
        if name.endswith("tracked")
        else rng.standard_normal(value.shape).astype(np.float32)
        for name, value in state.items()
    }
    tree = flax_layout.to_tree(memory)
    same_tensors(flax_layout.from_tree(tree), memory)
    wanted = getattr(beit, "Flax" + kind)(config, _do_init=False)
    paths = dict(flax_layout.flatten(wanted._variables(wanted._shapes())))
    found = dict(flax_layout.flatten(tree))
    # Segmentation reads layers before the encoder's last norm: PyTorch's model has that norm all the same, as the reference's.
    unread = ("params", "beit", "layernorm") if kind == "BeitForSemanticSegmentation" else ()
    shapes = {path: leaf.shape for path, leaf in found.items() if not unread or path[:3] != unread}
    assert shapes == {path: leaf.shape for path, leaf in paths.items()}
    short = names.to_short(memory)
    for path, leaf in found.items():
        name = flax_layout.name_of(path)
        assert flax_layout.shape_of(name, path[-1], leaf.shape) == short[name].shape
    disk = memory
    same_tensors(flax_layout.from_reference(flax_layout.to_reference(disk)), disk)


def test_a_tensor_below_a_tensor_is_refused() -> None:
    with pytest.raises(CheckpointError, match="lies below something that is a tensor itself"):
        flax_layout.to_reference({"a.b": np.ones(1), "a.b.c": np.ones(1)})


# --- without torch -------------------------------------------------------------------------------------------------


def test_a_model_is_loaded_called_and_saved_where_torch_is_not_installed(saved: Any, tmp_path: Path) -> None:
    flax_model, folder = saved
    np.save(tmp_path / "pixels.npy", pixels(small()))
    run(
        f"""
import sys
import numpy as np
import beit
from beit import FlaxBeitForImageClassification
model = FlaxBeitForImageClassification.from_pretrained({str(folder)!r})
output = model(np.load({str(tmp_path / "pixels.npy")!r}), labels=np.array([0, 2]))
assert output.loss > 0
np.save({str(tmp_path / "logits.npy")!r}, output.logits)
model.save_pretrained({str(tmp_path / "safe")!r})
model.save_pretrained({str(tmp_path / "msgpack")!r}, safe_serialization=False)
assert FlaxBeitForImageClassification.from_pretrained({str(tmp_path / "msgpack")!r}).load_report is not None
import beit.models.flax.segmentation
assert not any(name.partition(".")[0] == "torch" for name in sys.modules)
""",
        "torch",
        "torchvision",
        "transformers",
    )
    close(np.load(tmp_path / "logits.npy"), flax_model(pixels(small())).logits)
    assert (tmp_path / "safe" / hub.SAFETENSORS).read_bytes() == (folder / hub.SAFETENSORS).read_bytes()
    same_params(FlaxBeitForImageClassification.from_pretrained(tmp_path / "msgpack").params, flax_model.params)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32"])
def test_parameters_are_saved_in_the_type_that_they_have(kind: str, safe: bool, tmp_path: Path) -> None:
    model = FlaxBeitForImageClassification(small())
    cast = {"bfloat16": model.to_bf16, "float16": model.to_fp16, "float32": model.to_fp32}[kind]
    params = cast(model.params)
    model.save_pretrained(tmp_path, params=params, safe_serialization=safe)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == kind
    again = FlaxBeitForImageClassification.from_pretrained(tmp_path)
    same_params(again.params, model.to_fp32(params))
    of_torch = BeitForImageClassification.from_pretrained(tmp_path, torch_dtype="auto")
    assert of_torch.dtype == getattr(torch, kind)
    if safe:
        from safetensors import safe_open

        with safe_open(tmp_path / hub.SAFETENSORS, "numpy") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert kinds == {{"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[kind]}

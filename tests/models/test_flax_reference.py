"""Numbers of the reference's Flax models (transformers 4.37.2), and the folders that they wrote."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden import make_flax as golden
from golden.make_models import draw_weights, flatten

jax = pytest.importorskip("jax")
flax = pytest.importorskip("flax")

import beit
from beit import BeitConfig, FlaxBeitForImageClassification, FlaxBeitForMaskedImageModeling, FlaxBeitModel
from beit.checkpoints import flax_layout, hub
from beit.checkpoints import msgpack as msgpack_file
from beit.checkpoints.names import to_state_dict

CLASSES = {
    kind.__name__.removeprefix("Flax"): kind
    for kind in (FlaxBeitModel, FlaxBeitForMaskedImageModeling, FlaxBeitForImageClassification)
}
CASES = golden.load()
DRAWN = [case for case in CASES if "folder" not in case]
FOLDERS = [case for case in CASES if "folder" in case]
# The reference's Flax adds positions after the mask token. Its config.json cannot say it, and our Flax models do it by default.
AS_FLAX = {"mask_keeps_position": True}
TOLERANCE = 5e-5
LARGEST: dict[str, float] = {}  # largest differences, printed by test_largest_difference


def compare(case: dict[str, Any], output: Any, way: str) -> None:
    """All outputs that there are against the stored ones."""
    named = flatten(output)
    assert named.keys() <= case["outputs"].keys()
    for name, value in named.items():
        shape, wanted = case["outputs"][name]
        value = np.asarray(value)
        assert list(value.shape) == shape, name
        assert value.dtype == np.float32
        got = golden.sample(value)
        difference = float(np.abs(got[:-1] - wanted[:-1]).max())
        LARGEST[way] = max(LARGEST.get(way, 0.0), difference)
        assert difference <= TOLERANCE, f"{name}: {difference:.1e}"
        np.testing.assert_allclose(got[-1], wanted[-1], atol=1e-3, rtol=1e-4, err_msg=f"sum of {name}")


def name_of(case: dict[str, Any]) -> str:
    return case.get("folder") or f"{case['seed']}-{case['kind'].removeprefix('Beit').removeprefix('For')}"


def folder_of(case: dict[str, Any]) -> Path:
    return golden.FOLDERS / case["folder"]


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_cases_cover_all_switches() -> None:
    assert len(DRAWN) >= 30
    for kind in CLASSES:
        mine = [case["config"] for case in DRAWN if case["kind"] == kind]
        for switch in [
            "use_absolute_position_embeddings",
            "use_relative_position_bias",
            "use_shared_relative_position_bias",
            "layer_scale_init_value",
            "use_mean_pooling",
            "num_channels",
            "num_hidden_layers",
            "layer_norm_eps",
        ]:
            assert len({config[switch] for config in mine}) > 1, (kind, switch)
        assert {config["hidden_act"] for config in mine} == {"gelu", "relu", "gelu_new"}
    masked = [case["config"] for case in DRAWN if case["call"]["mask"]]
    assert {config["use_absolute_position_embeddings"] for config in masked} == {False, True}
    assert {case["call"]["mask"] for case in DRAWN} == {None, "bool", "int"}


@pytest.mark.usefixtures("quick_compiles")
@pytest.mark.parametrize("case", DRAWN, ids=name_of)
def test_numbers_of_the_reference(case: dict[str, Any]) -> None:
    model = CLASSES[case["kind"]](BeitConfig(**case["config"]), _do_init=False, **case["arguments"])
    params = model.fill(*to_state_dict(draw_weights(case["shapes"], case["seed"])))
    assert str(model.load_report) == "every tensor of the file has its place"
    output = model(**golden.draw_inputs(case), params=params, output_attentions=True, output_hidden_states=True)
    assert set(flatten(output)) == set(case["outputs"])
    compare(case, output, "plain attention")


# --- its folders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FOLDERS, ids=name_of)
def test_folders_open_in_flax(case: dict[str, Any]) -> None:
    """Attention weights are not asked for, so this is the fused attention."""
    model = CLASSES[case["kind"]].from_pretrained(folder_of(case))
    assert str(model.load_report) == "every tensor of the file has its place"
    compare(case, model(**golden.draw_inputs(case), output_hidden_states=True), "fused attention")


@pytest.mark.parametrize("case", FOLDERS, ids=name_of)
def test_folders_open_in_pytorch(case: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    model = getattr(beit, case["kind"]).from_pretrained(folder_of(case), **AS_FLAX)
    assert str(model.load_report) == "every tensor of the file has its place"
    assert type(beit.load(folder_of(case))) is type(model)
    inputs = {name: torch.from_numpy(array) for name, array in golden.draw_inputs(case).items()}
    with torch.no_grad():
        compare(case, model(**inputs, output_attentions=True, output_hidden_states=True), "PyTorch")


def test_folders_are_of_every_form() -> None:
    files = {case["folder"]: {path.name for path in folder_of(case).iterdir()} for case in FOLDERS}
    assert all("config.json" in names for names in files.values())
    assert hub.MSGPACK in files["model"] & files["masked"] & files["classifier"] & files["bfloat16"]
    assert hub.MSGPACK_INDEX in files["shards"]
    assert len(files["shards"]) == 4
    assert hub.SAFETENSORS in files["safetensors"]
    half = flax.serialization.msgpack_restore((golden.FOLDERS / "bfloat16" / hub.MSGPACK).read_bytes())
    assert {array.dtype.name for _, array in flax_layout.flatten(half)} == {"bfloat16"}


# --- our folders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FOLDERS[:3], ids=name_of)
def test_msgpack_of_ours_is_that_of_the_reference(case: dict[str, Any], tmp_path: Path) -> None:
    """Read by Flax itself: the same names, layouts and numbers. And read back by ours, in both frameworks."""
    kind = CLASSES[case["kind"]]
    model = kind.from_pretrained(folder_of(case))
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", hub.MSGPACK}
    theirs, ours = (
        dict(flax_layout.flatten(flax.serialization.msgpack_restore((folder / hub.MSGPACK).read_bytes())))
        for folder in (folder_of(case), tmp_path)
    )
    assert theirs.keys() == ours.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=str(name), strict=True)

    again = kind.from_pretrained(tmp_path)
    assert str(again.load_report) == "every tensor of the file has its place"
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert again.config == model.config  # the name of the architecture too
    if importlib.util.find_spec("torch"):
        in_torch = getattr(beit, case["kind"]).from_pretrained(tmp_path).disk_tensors()
        disk = model.disk_tensors()
        assert in_torch.keys() == disk.keys()
        for name, array in disk.items():
            np.testing.assert_array_equal(in_torch[name], array, err_msg=name)


def test_large_arrays_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 1 GiB in life; Flax reads the pieces of ours, and ours those of Flax."""
    array = np.random.default_rng(0).normal(size=(7, 9, 2)).astype("f4")
    monkeypatch.setattr(msgpack_file, "_LONGEST_PIECE", 100)
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 100)
    disk = {"beit.table": array, "beit.cls_token": array[:1, :1]}
    msgpack_file.write_msgpack(tmp_path / hub.MSGPACK, disk)
    written = (tmp_path / hub.MSGPACK).read_bytes()
    assert b"__msgpack_chunked_array__" in written
    restored = flax.serialization.msgpack_restore(written)["beit"]
    np.testing.assert_array_equal(restored["table"], array, strict=True)
    (tmp_path / "theirs.msgpack").write_bytes(flax.serialization.msgpack_serialize({"beit": dict(restored)}))
    for name in (hub.MSGPACK, "theirs.msgpack"):
        found = msgpack_file.read_msgpack(tmp_path / name)
        for key, wanted in disk.items():
            np.testing.assert_array_equal(found[key], wanted, strict=True)


def test_largest_difference() -> None:
    print(f"largest differences from the reference's Flax: {LARGEST}")
    assert all(difference < 2e-5 for difference in LARGEST.values())

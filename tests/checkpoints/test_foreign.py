"""Checkpoints that other projects' own code wrote: opened without a word, the same numbers, and back to the same bytes.

The files and outputs in golden/foreign were made by `golden/make_foreign.py`, each in an environment of its project.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

import beit
from beit import BeitConfig, BeitImageProcessor
from beit.checkpoints import Checkpoint, dialects
from beit.checkpoints.names import _lookup_key
from beit.cli import main
from beit.export.layouts import write
from beit.export.parity import compare
from golden import make_foreign as golden

BAR = 1e-5
OUTPUTS = golden.load()
INPUTS = golden.inputs()
FILES = {path.name.partition(".")[0]: path for path in sorted(golden.FOLDER.iterdir())}
# No table shows the heads of these.
WITHOUT_TABLE = {"timm_beit_abs", "unilm_pretrain_abs"}
CLASSES = {
    "mim": "BeitForMaskedImageModeling",
    "pretrain": "BeitForMaskedImageModeling",
    "segment": "BeitForSemanticSegmentation",
    "backbone": "BeitBackbone",
    "hf4_dit": "BeitForMaskedImageModeling",
    "hf4_data2vec": "BeitModel",
}


def given(name: str) -> dict[str, Any]:
    return {"num_attention_heads": golden.HEADS} if name in WITHOUT_TABLE else {}


def architecture(name: str) -> str:
    if name in CLASSES:
        return CLASSES[name]
    name = name.replace("mmpretrain", "mm")  # its name says nothing of what is in a file
    return next(
        (kind for word, kind in CLASSES.items() if word in name and not word.startswith("hf4")),
        "BeitForImageClassification",
    )


def pixels(name: str) -> np.ndarray:
    return INPUTS["pixel_values_64" if name == "unilm_segment" else "pixel_values"]


def outputs_of(model: Any, name: str, what: str, tensor: Any) -> np.ndarray:
    mask = {}
    if what == "logits" and f"{name}/logits_no_mask" in OUTPUTS:
        mask = {"bool_masked_pos": tensor(INPUTS["mask"])}
    found = model(tensor(pixels(name)), **mask)
    if what.startswith("stage_"):
        return np.asarray(found.feature_maps[int(what[6:])])
    if what == "last_hidden_state":
        return np.asarray(found.last_hidden_state)
    return np.asarray(found.logits)


def whats(name: str) -> list[str]:
    """What is comparable: the auxiliary and BEiT v2's early head are no outputs of our models."""
    found = [key.partition("/")[2] for key in OUTPUTS if key.startswith(f"{name}/")]
    return [what for what in found if not what.startswith(("auxiliary", "early"))]


def same_tensors(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype, name
        assert array.shape == second[name].shape, name
        assert array.tobytes() == second[name].tobytes(), name


@pytest.mark.parametrize("name", FILES)
def test_the_same_numbers(name: str) -> None:
    assert whats(name), "golden outputs are missing"
    model = beit.load(FILES[name], **given(name))
    assert type(model).__name__ == architecture(name)
    with torch.no_grad():
        for what in whats(name):
            found, wanted = outputs_of(model, name, what, torch.from_numpy), OUTPUTS[f"{name}/{what}"]
            np.testing.assert_allclose(found, wanted, atol=BAR, rtol=0, err_msg=what)


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_has_its_place(name: str) -> None:
    checkpoint = Checkpoint(FILES[name], given(name))
    report = beit.load(FILES[name], **given(name)).load_report
    assert report.new == []
    assert report.needs_training is False
    extra = {"unilm_v2_pretrain": "cls_pt_layers.", "mmpretrain_pretrain": "target_generator."}.get(name)
    assert all(extra is not None and left.startswith(extra) for left in checkpoint.left_over)
    assert bool(checkpoint.left_over) == (extra is not None)


@pytest.mark.parametrize("name", [name for name in FILES if "backbone" not in name and "data2vec" not in name])
@pytest.mark.usefixtures("quick_compiles")
def test_flax_opens_them_too(name: str) -> None:
    pytest.importorskip("flax")
    jnp = pytest.importorskip("jax.numpy")
    # transformers' PyTorch, which wrote the outputs of its folders, forgets the position of a masked patch; its Flax does not.
    of_torch = {"mask_keeps_position": False} if name.startswith(("hf4", "hf5")) else {}
    model = getattr(beit, f"Flax{architecture(name)}").from_pretrained(FILES[name], **given(name), **of_torch)
    for what in whats(name):
        found, wanted = outputs_of(model, name, what, jnp.asarray), OUTPUTS[f"{name}/{what}"]
        np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=0, err_msg=what)


def back_of(name: str) -> Any:
    if name.startswith("hf4_flax"):
        return "flax"
    return {"hf4": "hf", "hf5": "hf", "timm": "timm", "unilm": "unilm"}.get(name.partition("_")[0], "openmmlab")


@pytest.mark.parametrize("name", FILES)
def test_through_our_folder_and_back(name: str, tmp_path: Path) -> None:
    """Theirs → transformers' layout → theirs: every tensor as it was, to the byte."""
    source = Checkpoint(FILES[name], given(name))
    config = BeitConfig.from_pretrained(source, **given(name)).replace(architectures=[source.architecture])
    extra = {left: source.tensors[left] for left in source.left_over}
    write(tmp_path / "ours", "hf", source.state_dict, config, source.pixels)
    ours = Checkpoint(tmp_path / "ours")
    assert ours.architecture == architecture(name)
    assert ours.dialect == "hf"
    assert ours.guesses == []
    own_config = BeitConfig.from_pretrained(ours)
    to, path = back_of(name), tmp_path / ("back" if back_of(name) in ("hf", "timm", "flax") else "back.pth")
    write(path, to, ours.state_dict, own_config, ours.pixels, extra)
    again = Checkpoint(path, given(name))
    wanted = dict(source.tensors)
    same_tensors(
        *({k: v for k, v in t.items() if not k.endswith("relative_position_index")} for t in (wanted, again.tensors))
    )
    index = [key for key in wanted if key.endswith("relative_position_index")]
    if to in ("unilm", "openmmlab"):  # in what they save, derived numbers are tensors too
        same_tensors({key: wanted[key] for key in index}, {key: again.tensors[key] for key in index})
    assert BeitConfig.from_pretrained(again, **given(name)).to_dict() == BeitConfig.from_pretrained(
        source, **given(name)
    ).to_dict() or to in (
        "hf",
        "flax",
    )


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("hf4_classify", "unilm"),
        ("hf4_classify", "timm"),
        ("hf4_mim", "unilm"),
        ("hf4_segment", "openmmlab"),
        ("timm_beitv2", "flax"),
        ("unilm_finetune_cls", "timm"),
        ("unilm_segment", "hf"),
        ("unilm_v2_pretrain", "hf"),
        ("mmseg_segment", "unilm"),
        ("mmpretrain_classify", "timm"),
        ("hf4_data2vec_classify", "unilm"),
    ],
)
def test_from_each_to_another(name: str, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("msgpack")
    path = tmp_path / "result.pth" if to in ("unilm", "openmmlab") else tmp_path / "result"
    assert main(["convert", str(FILES[name]), str(path), "--to", to]) == 0
    told = capsys.readouterr().out
    assert "the same numbers" in told
    assert "NOT" not in told
    model = beit.load(path, layer_norm_eps=beit.load(FILES[name]).config.layer_norm_eps)
    with torch.no_grad():
        found = outputs_of(model, name, "logits", torch.from_numpy)
    if name != "hf4_segment":  # its heads see other layers than a file without settings suggests
        np.testing.assert_allclose(found, OUTPUTS[f"{name}/logits"], atol=BAR, rtol=0)


def test_parity_sees_a_wrong_tensor(tmp_path: Path) -> None:
    source = Checkpoint(FILES["unilm_finetune"])
    config = BeitConfig.from_pretrained(source).replace(architectures=[source.architecture])
    memory = dict(source.state_dict)
    name = "beit.encoder.layer.1.layernorm_after.bias"
    memory[name] = memory[name] + np.float32(1e-3)
    write(tmp_path / "wrong", "hf", memory, config, source.pixels)
    result = compare(source, tmp_path / "wrong", config, source.pixels)
    assert not result.equal
    assert "NOT the same numbers" in str(result)


# --- what is inferred ------------------------------------------------------------------------------------------------


def guessed(name: str) -> dict[str, Any]:
    checkpoint = Checkpoint(FILES[name], given(name))
    return {guess.name: guess.value for guess in (*checkpoint.guesses, *checkpoint.pixel_guesses)}


def test_settings_of_a_file_that_states_none() -> None:
    config = BeitConfig.from_pretrained(FILES["unilm_pretrain"])
    assert config.use_shared_relative_position_bias
    assert not config.use_relative_position_bias
    assert config.use_mask_token
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (12, 4, 3)
    assert (config.image_size, config.patch_size, config.vocab_size) == (32, 8, 16)
    assert config.layer_norm_eps == 1e-6
    assert guessed("unilm_pretrain")["layer_norm_eps"] == 1e-6
    assert BeitConfig.from_pretrained(FILES["unilm_finetune_cls"]).use_mean_pooling is False
    without = BeitConfig.from_pretrained(FILES["unilm_pretrain_abs"], num_attention_heads=3)
    assert without.layer_scale_init_value == 0
    assert without.mask_keeps_position
    assert guessed("unilm_pretrain_abs")["mask_keeps_position"] is True


def test_heads_without_a_table_must_be_said() -> None:
    with pytest.raises(beit.CheckpointError, match="num_attention_heads="):
        beit.load(FILES["timm_beit_abs"])


def test_segmentation_settings() -> None:
    config = BeitConfig.from_pretrained(FILES["unilm_segment"])
    assert config.segmentation_layers == [1, 2, 3, 4]
    assert [config.id2label[i] for i in range(5)] == list(golden.NAMES)
    assert config.use_auxiliary_head
    for name in ("unilm_segment", "mmseg_segment"):
        assert guessed(name)["image_mean, image_std"] == "imagenet"
        assert BeitImageProcessor.from_pretrained(FILES[name]).image_mean == [0.485, 0.456, 0.406]


def test_pixels_of_timm_are_stated() -> None:
    processor = BeitImageProcessor.from_pretrained(FILES["timm_beitv2"])
    assert processor.image_mean == [0.485, 0.456, 0.406]
    assert "image_mean, image_std" not in guessed("timm_beitv2")


def test_nothing_is_said_while_loading() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("hf4_data2vec_classify", "hf5_data2vec_classify", "unilm_22k"):
            beit.load(FILES[name])


def test_every_row_of_the_table_is_met_by_a_real_file() -> None:
    met: dict[str, set[str]] = {"hf": set(), "unilm": set(), "openmmlab": set()}
    for name, path in FILES.items():
        checkpoint = Checkpoint(path, given(name))
        met[checkpoint.dialect] |= {_lookup_key(key)[0] for key in checkpoint.tensors}
    for dialect, names in met.items():
        in_table = set(dialects.DIALECTS[dialect].by_disk)
        lacking = {key for key in in_table - names if key.removeprefix("beit.") not in names}
        # Not in these few files: OpenMMLab's absolute positions, and its encoder with a norm of its own.
        allowed = (
            {"backbone.pos_embed", "backbone.ln1.weight", "backbone.ln1.bias"} if dialect == "openmmlab" else set()
        )
        assert lacking <= allowed, dialect

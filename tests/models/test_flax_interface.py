"""What scripts for transformers' Flax models ask of a model besides its numbers; compared with 4.37.2 call by call."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
flax = pytest.importorskip("flax")
pytest.importorskip("torch")
import jax.numpy as jnp

import fixtures_flax
from beit import BeitConfig, ConfigError, FlaxBeitForImageClassification, FlaxBeitModel
from fixtures_flax import close, pixels

pytestmark = pytest.mark.usefixtures("quick_compiles")
CONFIG = fixtures_flax.small(num_hidden_layers=1)
SIZE = tuple(np.broadcast_to(CONFIG.image_size, 2).tolist())


@pytest.fixture(scope="module")
def model() -> Any:
    return FlaxBeitForImageClassification(CONFIG, (1, *SIZE, 3), 2, jnp.float32)


def test_what_code_for_all_models_asks(model: Any) -> None:
    assert (model.framework, model.base_model_prefix, model.main_input_name) == ("flax", "beit", "pixel_values")
    assert model.config_class is BeitConfig
    assert not model.can_generate()
    assert model.generation_config is None
    assert model.input_shape == (1, *SIZE, 3)
    assert FlaxBeitModel(CONFIG, _do_init=False).input_shape == (1, *SIZE, CONFIG.num_channels)
    shapes = jax.tree.map(lambda leaf: leaf.shape, model.params)
    assert jax.tree.map(lambda leaf: leaf.shape, model.params_shape_tree) == shapes
    assert ("classifier", "kernel") in model.required_params
    first, second = (FlaxBeitModel._from_config(CONFIG, dtype=jnp.bfloat16, seed=seed) for seed in (1, 2))
    assert first.dtype == jnp.bfloat16
    assert not np.array_equal(jax.random.key_data(first.key), jax.random.key_data(second.key))
    with pytest.raises(ConfigError, match="wanted a BeitConfig"):
        FlaxBeitModel(None)


def test_copies_and_pickles_answer_alike(model: Any) -> None:
    x = pixels(CONFIG)
    wanted = model(x).logits
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        close(other(x).logits, wanted, 0)
        other.params = jax.tree.map(jnp.zeros_like, other.params)
        assert not np.any(other(x).logits)
    close(model(x).logits, wanted, 0)
    output = pickle.loads(pickle.dumps(model(x)))
    close(output.logits, wanted, 0)
    assert output.replace(logits=output.logits + 1).logits[0, 0] == wanted[0, 0] + 1


def test_outputs_go_through_jax(model: Any) -> None:
    x = pixels(CONFIG)
    output = jax.jit(lambda images: model(images))(x)
    assert list(output) == ["logits"]
    close(jax.tree.map(lambda leaf: leaf * 2, output).logits, output.logits * 2, 0)
    with_loss = jax.jit(lambda images: model(images).replace(loss=images.sum()))(x)
    assert list(with_loss) == ["loss", "logits"]


def test_frozen_params_and_masks(model: Any) -> None:
    frozen = flax.core.freeze(model.params)
    other = copy.copy(model)
    other.params = frozen
    assert type(other.params) is dict
    mask = jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == "classifier", model.params)
    for params, chosen in ((model.params, mask), (frozen, mask), (model.params, flax.core.freeze(mask))):
        cast = model.to_bf16(params, chosen)
        assert cast["classifier"]["kernel"].dtype == jnp.bfloat16
        assert cast["beit"]["encoder"]["layers_0"]["attn"]["qkv"]["kernel"].dtype == jnp.float32
    assert model.to_fp32(model.to_fp16(model.params))["classifier"]["kernel"].dtype == jnp.float32


def test_gradient_checkpointing_switched_on_later(model: Any) -> None:
    other, x = copy.copy(model), pixels(CONFIG)
    other.enable_gradient_checkpointing()
    assert other.module.gradient_checkpointing
    assert not model.module.gradient_checkpointing

    def text(one: Any) -> str:
        params = one.params
        return str(jax.make_jaxpr(jax.grad(lambda p: one(x, params=p, train=True).logits.sum()))(params))

    assert "remat" in text(other) or "checkpoint" in text(other)
    assert "remat" not in text(model)
    close(other(x).logits, model(x).logits, 0)


def test_save_and_upload(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def upload(folder: Any, repo_id: str, **keywords: Any) -> str:
        seen.append((repo_id, keywords, sorted(path.name for path in Path(folder).iterdir())))
        return "address"

    monkeypatch.setattr("beit.checkpoints.hub.upload_folder", upload)
    model.save_pretrained(tmp_path / "mine", token="secret")
    assert seen == []
    model.save_pretrained(tmp_path / "mine", model.params, True, "1GB", "t")
    assert seen.pop() == ("mine", {"token": "t"}, ["config.json", "model.safetensors"])
    with pytest.warns(FutureWarning, match="use `token`"):
        model.save_pretrained(tmp_path / "other", push_to_hub=True, repo_id="me/it", use_auth_token="t")
    assert seen.pop()[:2] == ("me/it", {"token": "t"})
    assert model.push_to_hub("me/it", use_temp_dir=True, safe_serialization=False, private=True) == "address"
    assert seen.pop() == ("me/it", {"private": True}, ["config.json", "flax_model.msgpack"])
    with pytest.warns(UserWarning, match="unknown to an upload: tags"):
        model.push_to_hub("me/it", tags=["a"])
    with pytest.raises(TypeError, match="push_to_hub is '5GB'"):
        model.save_pretrained(tmp_path / "mine", model.params, "5GB")
    assert b"secret" not in (tmp_path / "mine/config.json").read_bytes()

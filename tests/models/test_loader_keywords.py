"""Keywords of `from_pretrained`: none of them, and no value of one, reaches a file; what is not honoured is said."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import beit
from beit import BeitConfig, BeitForImageClassification, BeitImageProcessor, BeitModel, CheckpointError, ConfigError
from beit.checkpoints import hub, keywords
from fixtures_runs import tiny_config

SECRET = "hf_Qx7secretvalue"
HAS_FLAX = importlib.util.find_spec("flax") is not None
# Every keyword → a value that can be recognised in a file.
VALUES: dict[str, Any] = {
    **dict.fromkeys(sorted(keywords.LOADER), SECRET),
    "cache_dir": f"/nowhere/{SECRET}",
    "local_files_only": True,
    "force_download": True,
    "proxies": {"https": f"http://user:{SECRET}@proxy"},
    "user_agent": {"token": SECRET},
    "adapter_kwargs": {"token": SECRET},
    "_commit_hash": SECRET,
    "max_memory": {0: SECRET},
    "state_dict": {"x": SECRET},
    "offload_folder": f"/nowhere/{SECRET}",
    "subfolder": "",
    "device_map": "cpu",
    "dtype": "float32",
    "torch_dtype": "float32",
    "attn_implementation": "sdpa",
    "use_safetensors": True,
    "variant": None,
    "config": None,
    "return_unused_kwargs": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    BeitForImageClassification(tiny_config()).save_pretrained(path)
    BeitImageProcessor(size=16, crop_size=16).save_pretrained(path)
    return path


def loaders() -> list[Any]:
    found = [
        BeitConfig.from_pretrained,
        BeitImageProcessor.from_pretrained,
        BeitForImageClassification.from_pretrained,
        beit.load,
        beit.AutoConfig.from_pretrained,
        beit.AutoModelForImageClassification.from_pretrained,
        beit.AutoImageProcessor.from_pretrained,
    ]
    if HAS_FLAX:
        found += [
            beit.FlaxBeitForImageClassification.from_pretrained,
            beit.FlaxAutoModelForImageClassification.from_pretrained,
        ]
    return found


def assert_clean(written: Path, name: str, before: dict[str, Any]) -> None:
    texts = [path.read_bytes() for path in written.iterdir()]
    assert texts
    assert not any(SECRET.encode() in text for text in texts)
    for path in written.glob("*.json"):
        new = set(json.loads(path.read_text())) - set(before)
        assert name not in new, path.name


@pytest.mark.parametrize("name", sorted(VALUES))
@pytest.mark.parametrize("load", loaders(), ids=lambda load: load.__qualname__)
def test_no_keyword_reaches_a_file(load: Any, name: str, folder: Path, tmp_path: Path) -> None:
    before = {
        **json.loads((folder / "config.json").read_text()),
        **json.loads((folder / "preprocessor_config.json").read_text()),
    }
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        refused: Exception | None = None
        try:
            loaded = load(folder, **{name: VALUES[name]})
        except (ConfigError, CheckpointError) as error:
            refused = error
        if refused is not None:  # nothing to save
            assert SECRET not in str(refused) or name in ("variant", "attn_implementation")
            return
        if isinstance(loaded, tuple):
            loaded = loaded[0]
        loaded.save_pretrained(tmp_path / "new")
    assert not any(SECRET in str(warning.message) for warning in said)
    assert_clean(tmp_path / "new", name, before)
    assert SECRET not in repr(getattr(loaded, "config", loaded))


@pytest.mark.parametrize("name", sorted(keywords.SECRETS))
@pytest.mark.parametrize("kind", [BeitConfig, BeitImageProcessor])
def test_no_secret_is_kept_whichever_way_it_comes(kind: Any, name: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=f"does not keep {name}") as said:
        made = kind(**{name: SECRET})
    assert not any(SECRET in str(warning.message) for warning in said)
    if kind is BeitConfig:
        with pytest.raises(ConfigError, match="public"):
            setattr(made, name, SECRET)
        with pytest.raises(ConfigError, match="public"):
            made.update({name: SECRET})
        with pytest.warns(UserWarning, match=name):
            assert made.replace(**{name: SECRET}) == made
    else:
        setattr(made, name, SECRET)
    made.save_pretrained(tmp_path)
    assert_clean(tmp_path, name, {})
    with pytest.warns(UserWarning, match=name):  # a folder that an older version wrote
        old = kind.from_dict({**made.to_dict(), name: SECRET})
    assert SECRET not in repr(old)


def test_old_name_of_token(folder: Path) -> None:
    with pytest.warns(FutureWarning, match="use token"):
        assert keywords.split({"use_auth_token": "x"}, "f").where == {"token": "x"}
    with pytest.warns(FutureWarning, match="token"), pytest.raises(ConfigError, match="Both token and use_auth_token"):
        BeitModel.from_pretrained(folder, token="a", use_auth_token="b")
    assert keywords.with_token({"use_auth_token": None}) == {}
    defaults = {"token": None, "revision": None, "subfolder": "", "force_download": False, "local_files_only": False}
    assert keywords.split(defaults, "f").where == {}
    assert keywords.split({"token": False}, "f").where == {"token": False}  # send none
    BeitModel.from_pretrained(beit.checkpoints.Checkpoint(folder), **defaults)


def test_uploads_take_the_old_name_too(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import huggingface_hub

    tokens: list[Any] = []

    def create(repo_id: str, *, token: Any, **_: Any) -> Any:
        tokens.append(token)
        return type("Repo", (), {"repo_id": repo_id})

    def upload(*, folder_path: str, token: Any, **_: Any) -> Any:
        tokens.append(token)
        assert not any(SECRET.encode() in path.read_bytes() for path in Path(folder_path).iterdir())
        return type("Info", (), {"commit_url": "url"})

    monkeypatch.setattr(huggingface_hub, "create_repo", create)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
    config = BeitConfig.from_pretrained(folder)
    processor = BeitImageProcessor.from_pretrained(folder)
    for made in (config, processor):
        with pytest.warns(FutureWarning):
            assert made.push_to_hub("a/b", use_auth_token=SECRET) == "url"
    assert tokens == [SECRET] * 4


def test_an_unknown_keyword_is_named_with_the_nearest_and_not_its_value(folder: Path, tmp_path: Path) -> None:
    for load in (BeitConfig.from_pretrained, BeitModel.from_pretrained):
        with pytest.warns(UserWarning, match=r"no keyword hub_tokn: it has no effect and is not saved\.") as said:
            load(folder, hub_tokn=SECRET).save_pretrained(tmp_path)
        assert not any(SECRET in str(warning.message) for warning in said)
        assert_clean(tmp_path, "hub_tokn", {})
        with pytest.warns(UserWarning, match=r"drop_path_rat\b.*Did you mean drop_path_rate"):
            load(folder, drop_path_rat=0.3)
        with pytest.warns(UserWarning, match=r"use_safetensor\b.*Did you mean use_safetensors"):
            load(folder, use_safetensor=True)
    with pytest.warns(UserWarning, match="no keyword hub_tokn"):
        BeitModel.from_pretrained(folder, config=BeitConfig.from_pretrained(folder), hub_tokn=SECRET)


@pytest.mark.parametrize(
    "name", ["quantization_config", "load_in_8bit", "load_in_4bit", "from_tf", "tp_plan", "key_mapping"]
)
def test_what_would_change_results_is_refused_with_the_reason(name: str, folder: Path) -> None:
    for load in loaders():
        if "Config" in load.__qualname__ or "Processor" in load.__qualname__:
            continue
        with pytest.raises(ConfigError, match=rf"cannot do {name}: \w+"):
            load(folder, **{name: True})
        load(folder, **{name: None})


def test_what_has_no_effect_is_said_once(folder: Path) -> None:
    with pytest.warns(UserWarning, match="proxies has no effect: .*HTTPS_PROXY") as said:
        BeitModel.from_pretrained(folder, proxies={"https": "x"})
    assert len(said) == 1
    assert said[0].filename == __file__
    with pytest.warns(UserWarning, match="trust_remote_code has no effect"):
        beit.load(folder, trust_remote_code=True)
    with pytest.warns(UserWarning, match="a config has no weights"):
        BeitConfig.from_pretrained(folder, device_map="auto")
    with pytest.warns(UserWarning, match="an image processor has no weights"):
        BeitImageProcessor.from_pretrained(folder, low_cpu_mem_usage=True, device_map="auto")
    with pytest.warns(UserWarning, match="max_memory has no effect without a device_map"):
        BeitModel.from_pretrained(folder, max_memory={"cpu": "1GB"})
    quiet = {
        "low_cpu_mem_usage": True,
        "resume_download": True,
        "from_flax": False,
        "_from_auto": True,
        "proxies": None,
    }
    BeitModel.from_pretrained(folder, trust_remote_code=False, adapter_kwargs={}, **quiet)


@pytest.mark.skipif(not HAS_FLAX, reason="needs Flax")
def test_flax_says_what_only_pytorch_honours(folder: Path) -> None:
    load = beit.FlaxBeitForImageClassification.from_pretrained
    for name, words in (
        ("torch_dtype", "to_bf16"),
        ("device_map", "device_put"),
        ("output_loading_info", "load_report"),
    ):
        with pytest.warns(UserWarning, match=f"{name} has no effect: .*{words}"):
            load(folder, **{name: "auto"})
    import jax.numpy as jnp

    model = load(pretrained_model_name_or_path=folder, dtype=jnp.bfloat16, config=str(folder))
    assert model.dtype == jnp.bfloat16
    assert load(folder, jnp.float16, (1, 16, 16, 3), 7).seed == 7
    with pytest.raises(CheckpointError, match=r"model\.fp16\.safetensors"):
        load(folder, variant="fp16")


# --- what PyTorch's models honour ------------------------------------------------------------------------------------


def test_first_argument_by_name_and_positional_arguments(folder: Path) -> None:
    model = BeitModel.from_pretrained(pretrained_model_name_or_path=folder)
    assert model.pooler is not None
    assert BeitModel.from_pretrained(folder, False).pooler is None
    for load in loaders():
        if load is not beit.load:
            load(pretrained_model_name_or_path=folder)


def test_loading_info(folder: Path) -> None:
    model, info = BeitForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, BeitForImageClassification)
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}
    _, info = BeitModel.from_pretrained(folder, output_loading_info=True)
    assert sorted(info["unexpected_keys"]) == ["classifier.bias", "classifier.weight"]
    changes = {"num_labels": 5, "ignore_mismatched_sizes": True}
    _, info = BeitForImageClassification.from_pretrained(folder, output_loading_info=True, **changes)
    assert ("classifier.weight", (3, 16), (5, 16)) in info["mismatched_keys"]
    _, info = beit.BeitForMaskedImageModeling.from_pretrained(folder, output_loading_info=True)
    assert {"lm_head.weight", "lm_head.bias"} <= set(info["missing_keys"])


def test_variant_and_kind_of_file(folder: Path, tmp_path: Path) -> None:
    state = BeitModel.from_pretrained(folder).state_dict()
    config = tmp_path / "config.json"
    config.write_bytes((folder / "config.json").read_bytes())
    plain, half = tmp_path / hub.SAFETENSORS, tmp_path / "model.fp16.safetensors"
    plain.write_bytes((folder / hub.SAFETENSORS).read_bytes())
    plain.rename(half)
    loaded = BeitModel.from_pretrained(tmp_path, variant="fp16")
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(CheckpointError, match=r"model\.int8\.safetensors.*Its variants: fp16\."):
        BeitModel.from_pretrained(tmp_path, variant="int8")
    with pytest.raises(CheckpointError, match=r"looked for model\.safetensors.*Its variants: fp16\."):
        BeitModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        BeitModel.from_pretrained(folder, use_safetensors=False)
    torch.save({name: value + 1 for name, value in state.items()}, tmp_path / hub.BIN)
    with pytest.raises(CheckpointError, match=r"Without a variant it has pytorch_model\.bin"):
        BeitModel.from_pretrained(tmp_path, use_safetensors=True)
    half.rename(plain)
    first = next(iter(state))
    assert torch.equal(BeitModel.from_pretrained(tmp_path, use_safetensors=False).state_dict()[first], state[first] + 1)
    assert torch.equal(BeitModel.from_pretrained(tmp_path, use_safetensors=True).state_dict()[first], state[first])
    with pytest.raises(CheckpointError, match="only file"):
        BeitModel.from_pretrained((tmp_path / hub.BIN).rename(tmp_path / "x.bin"), use_safetensors=True)


def test_config_by_path_and_state_dict(folder: Path) -> None:
    made = BeitForImageClassification.from_pretrained(folder)
    state = {f"module.{name}": value + 1 for name, value in made.state_dict().items()}
    for path, given in ((folder, {}), (None, {"config": str(folder)}), (None, {"config": made.config})):
        model = BeitForImageClassification.from_pretrained(path, state_dict=state, **given)
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[f"module.{name}"]), name
    model.classifier.weight.data.zero_()
    assert state["module.classifier.weight"].any(), "the model has memory of its own"
    with pytest.raises(CheckpointError, match="int under 'x'"):
        BeitModel.from_pretrained(folder, state_dict={"x": 1})
    with pytest.raises(CheckpointError, match="no BEiT"):
        BeitModel.from_pretrained(folder, state_dict={"x": torch.zeros(1)})
    with pytest.raises(ConfigError, match="wanted a BeitConfig"):
        BeitModel.from_pretrained(folder, config=3)
    with pytest.raises(CheckpointError, match="None"):
        BeitModel.from_pretrained(None, config=made.config)


def test_attention(folder: Path) -> None:
    for choice in (None, "eager", "sdpa"):
        BeitModel.from_pretrained(folder, attn_implementation=choice)
    with pytest.raises(ConfigError, match=r"'flash_attention_2'; flash attention has no relative positions"):
        BeitModel.from_pretrained(folder, attn_implementation="flash_attention_2")


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_type_of_the_weights_is_saved_and_comes_back(name: str, folder: Path, tmp_path: Path) -> None:
    model = BeitModel.from_pretrained(folder, **{name: "bfloat16"})
    assert model.dtype == torch.bfloat16
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    again = BeitModel.from_pretrained(tmp_path, **{name: "auto"})
    assert again.dtype == torch.bfloat16
    assert again.config.torch_dtype == torch.bfloat16
    assert BeitModel.from_pretrained(tmp_path).dtype == torch.float32
    BeitModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "float32"


def test_auto_type_without_a_word_in_the_config_is_that_of_the_file(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = BeitModel.from_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    del values["torch_dtype"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        state = {name: value.to(dtype) for name, value in model.state_dict().items()}
        save_file(state, tmp_path / hub.SAFETENSORS)
        assert BeitModel.from_pretrained(tmp_path, torch_dtype="auto").dtype == dtype
        assert BeitModel.from_pretrained(tmp_path, torch_dtype="auto", state_dict=state).dtype == dtype


def test_one_device(folder: Path) -> None:
    for place in ("cpu", torch.device("cpu"), {"": "cpu"}, {"embeddings": "cpu", "encoder": "cpu"}):
        model = BeitModel.from_pretrained(folder, device_map=place)
        assert model.device == torch.device("cpu")
        assert model.hf_device_map == {"": torch.device("cpu")}
    if not torch.accelerator.is_available():
        assert BeitModel.from_pretrained(folder, device_map="auto").device == torch.device("cpu")
    for place in ("cuda:77", {"": "cuda:77"}, 77, {"encoder": "cpu", "embeddings": 77}):
        with pytest.raises(ConfigError, match=r"77.*is not there. There are .*cpu; or choose auto"):
            BeitModel.from_pretrained(folder, device_map=place)
    with pytest.raises(ConfigError, match="'nonsense', which is no device"):
        BeitModel.from_pretrained(folder, device_map="nonsense")
    with pytest.raises(ConfigError, match="say where: offload_folder"):
        BeitModel.from_pretrained(folder, device_map={"embeddings": "cpu", "encoder": "disk"})


def test_several_devices_need_accelerate(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    plain = BeitForImageClassification.from_pretrained(folder)
    places = {
        "beit.embeddings": "cpu",
        "beit.encoder": "disk",
        "beit.layernorm": "cpu",
        "beit.pooler": "cpu",
        "classifier": "cpu",
    }
    model = BeitForImageClassification.from_pretrained(folder, device_map=places, offload_folder=tmp_path)
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).logits, plain(pixels).logits, atol=1e-6, rtol=0)
    assert model.hf_device_map == places
    with pytest.raises(ConfigError, match="does not fit this model"):
        BeitForImageClassification.from_pretrained(
            folder, device_map={"no": "cpu", "classifier": "disk"}, offload_folder=tmp_path
        )
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(beit.MissingExtraError, match="pip install accelerate"):
        BeitForImageClassification.from_pretrained(folder, device_map=places, offload_folder=tmp_path)


def test_a_url_leaves_its_secrets_behind() -> None:
    assert hub.without_secrets(f"https://me:{SECRET}@host/a/b.pth?token={SECRET}#x") == "https://host/a/b.pth"
    assert hub.without_secrets("owner/name") == "owner/name"
    assert hub.without_secrets(Path("/a/b@c")) == "/a/b@c"


def test_where_a_model_came_from(folder: Path) -> None:
    model = BeitModel.from_pretrained(folder)
    assert model.config.name_or_path == str(folder)
    assert copy.deepcopy(model.config).name_or_path == str(folder)
    assert "_name_or_path" not in model.config.to_dict()
    assert str(folder) not in repr(model.config)


# --- the mask and absolute positions ---------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_FLAX, reason="needs Flax")
def test_a_config_that_does_not_say_means_each_framework_s_own(tmp_path: Path) -> None:
    import jax.numpy as jnp

    positions = {"use_absolute_position_embeddings": True, "use_shared_relative_position_bias": False}
    config = tiny_config(**positions)
    assert config.mask_keeps_position is None
    assert "mask_keeps_position" not in config.to_dict()
    model = BeitModel(config).eval()
    model.embeddings.position_embeddings.data.normal_()
    model.embeddings.mask_token.data.normal_()
    model.save_pretrained(tmp_path)
    assert "mask_keeps_position" not in json.loads((tmp_path / "config.json").read_text())
    pixels, mask = torch.randn(1, 3, 16, 16), torch.arange(16)[None] % 3 == 0

    def of_torch(**given: Any) -> Any:
        loaded = BeitModel.from_pretrained(tmp_path, **given)
        return loaded(pixels, bool_masked_pos=mask).last_hidden_state.detach().numpy()

    def of_flax(**given: Any) -> Any:
        loaded = beit.FlaxBeitModel.from_pretrained(tmp_path, **given)
        return np.asarray(loaded(jnp.asarray(pixels.numpy()), jnp.asarray(mask.numpy())).last_hidden_state)

    keeps, loses = of_torch(mask_keeps_position=True), of_torch(mask_keeps_position=False)
    assert np.abs(keeps - loses).max() > 0.01
    np.testing.assert_array_equal(of_torch(), loses)
    np.testing.assert_allclose(of_flax(), keeps, atol=1e-5)
    np.testing.assert_allclose(of_flax(mask_keeps_position=False), loses, atol=1e-5)
    again = BeitModel.from_pretrained(tmp_path, mask_keeps_position=False)
    again.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["mask_keeps_position"] is False
    with pytest.raises(ConfigError, match="mask_keeps_position is 'yes'"):
        tiny_config(mask_keeps_position="yes")


# --- AutoModel and its relatives -------------------------------------------------------------------------------------

AUTO = {
    "AutoModel": "BeitModel",
    "AutoModelForImageClassification": "BeitForImageClassification",
    "AutoModelForMaskedImageModeling": "BeitForMaskedImageModeling",
    "AutoModelForSemanticSegmentation": "BeitForSemanticSegmentation",
    "AutoBackbone": "BeitBackbone",
}
AUTO |= {f"Flax{name}": f"Flax{kind}" for name, kind in AUTO.items() if kind != "BeitBackbone"}


@pytest.mark.parametrize("name", AUTO)
@pytest.mark.usefixtures("quick_compiles" if HAS_FLAX else "tmp_path")
def test_auto_class(name: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if name.startswith("Flax") and not HAS_FLAX:
        pytest.skip("needs Flax")
    caplog.set_level(logging.ERROR)
    auto, kind = getattr(beit, name), getattr(beit, AUTO[name])
    four = {"num_hidden_layers": 4, "segmentation_layers": [1, 2, 3, 4]} if "Segmentation" in name else {}
    config = tiny_config(**four)
    if "Segmentation" not in name:
        assert type(auto.from_pretrained(folder)) is kind
    assert type(auto.from_config(config, **({"_do_init": False} if "Flax" in name else {}))) is kind
    other = type("ViTConfig", (), {"model_type": "vit"})()
    with pytest.raises(ConfigError, match="of 'vit'"):
        auto.from_config(other)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointError, match="another architecture"):
        auto.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"{name}.from_pretrained"):
        auto()


def test_auto_config(folder: Path, tmp_path: Path) -> None:
    config = beit.AutoConfig.from_pretrained(folder, num_labels=7)
    assert type(config) is BeitConfig
    assert config.num_labels == 7
    assert beit.AutoConfig.for_model("beit", num_labels=4).num_labels == 4
    with pytest.raises(ConfigError, match="'vit'"):
        beit.AutoConfig.for_model("vit")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointError, match="another architecture"):
        beit.AutoConfig.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="not by calling it"):
        beit.AutoConfig()

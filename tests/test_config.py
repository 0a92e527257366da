"""BeitConfig: the contract's fields and defaults, refusals, labels, files."""

from __future__ import annotations

import ast
import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from beit import BeitConfig, CheckpointError, ConfigError
from beit.config import PRESETS

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

# The line of the API contract, word for word.
SIGNATURE = """( vocab_size = 8192 hidden_size = 768 num_hidden_layers = 12 num_attention_heads = 12 intermediate_size = 3072
hidden_act = 'gelu' hidden_dropout_prob = 0.0 attention_probs_dropout_prob = 0.0 initializer_range = 0.02 layer_norm_eps
= 1e-12 image_size = 224 patch_size = 16 num_channels = 3 use_mask_token = False use_absolute_position_embeddings = False
use_relative_position_bias = False use_shared_relative_position_bias = False layer_scale_init_value = 0.1 drop_path_rate
= 0.1 use_mean_pooling = True pool_scales = [1, 2, 3, 6] use_auxiliary_head = True auxiliary_loss_weight = 0.4
auxiliary_channels = 256 auxiliary_num_convs = 1 auxiliary_concat_input = False semantic_loss_ignore_index = 255
out_features = None out_indices = None add_fpn = False reshape_hidden_states = True **kwargs )"""
CONTRACT = {
    name: ast.literal_eval(value)
    for name, value in re.findall(r"(\w+)\s*=\s*(\[.*?\]|\S+)", SIGNATURE.replace("**kwargs", ""))
}


# "Defaults to the last stage", says the text below that line.
CONTRACT |= {"out_features": ["stage12"], "out_indices": [12]}


def test_contract_line_was_read_whole() -> None:
    assert len(CONTRACT) == 31
    assert CONTRACT["pool_scales"] == [1, 2, 3, 6]
    assert CONTRACT["layer_norm_eps"] == 1e-12


@pytest.mark.parametrize("name", CONTRACT)
def test_field_of_the_contract(name: str) -> None:
    value = getattr(BeitConfig(), name)
    assert value == CONTRACT[name]
    assert type(value) is type(CONTRACT[name])
    other = {"hidden_act": "relu", "hidden_size": 24, "image_size": 32, "patch_size": 8}.get(name)
    if other is None:
        default = CONTRACT[name]
        if isinstance(default, bool):
            other = not default
        elif isinstance(default, int):
            other = default + default
        elif isinstance(default, float):
            other = default / 2
        else:
            other = {"pool_scales": [1, 2], "out_features": ["stage1"], "out_indices": [3]}[name]
    config = BeitConfig(**{name: other, **({"num_attention_heads": 4} if name == "hidden_size" else {})})
    assert getattr(config, name) == other
    assert BeitConfig.from_dict(json.loads(config.to_json_string())) == config
    assert f"\n        {name}: " in (BeitConfig.__doc__ or ""), "every field is documented"


def test_defaults_are_not_shared() -> None:
    BeitConfig().pool_scales.append(9)
    BeitConfig().id2label[7] = "x"
    assert BeitConfig().pool_scales == [1, 2, 3, 6]
    assert BeitConfig().num_labels == 2


def test_only_keywords() -> None:
    with pytest.raises(TypeError):
        BeitConfig(8192)  # type: ignore[call-arg]


REFUSALS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"hidden_size": 0}, ("hidden_size", "0", "at least 1")),
    ({"hidden_size": 10.0}, ("hidden_size", "10.0", "whole number")),
    ({"num_hidden_layers": True}, ("num_hidden_layers", "True")),
    ({"vocab_size": -1}, ("vocab_size", "-1")),
    ({"num_channels": "3"}, ("num_channels", "'3'")),
    ({"hidden_size": 100, "num_attention_heads": 12}, ("100", "12", "hidden_size 96")),
    ({"hidden_size": 2, "num_attention_heads": 12}, ("multiple", "hidden_size 12")),
    ({"image_size": 225}, ("225x225", "16x16", "224x224")),
    ({"image_size": (32, 40)}, ("32x40", "32x32")),
    ({"image_size": 8}, ("8x8", "16x16")),
    ({"image_size": (224, 224, 3)}, ("image_size", "(height, width)")),
    ({"image_size": 0}, ("image_size", "0")),
    ({"image_size": 224.0}, ("image_size", "224.0")),
    ({"patch_size": -4}, ("patch_size", "-4")),
    ({"patch_size": None}, ("patch_size", "None")),
    ({"hidden_act": "swish"}, ("swish", "gelu, relu, selu, gelu_new")),
    ({"drop_path_rate": 1.0}, ("drop_path_rate", "1.0", "[0, 1)")),
    ({"hidden_dropout_prob": -0.1}, ("hidden_dropout_prob", "-0.1")),
    ({"attention_probs_dropout_prob": 2}, ("attention_probs_dropout_prob", "2")),
    ({"drop_path_rate": "0.1"}, ("drop_path_rate", "'0.1'", "number")),
    ({"drop_path_rate": float("nan")}, ("drop_path_rate", "nan")),
    ({"initializer_range": -1}, ("initializer_range", "negative")),
    ({"layer_scale_init_value": -0.1}, ("layer_scale_init_value", "negative")),
    ({"layer_norm_eps": 0}, ("layer_norm_eps", "1e-12")),
    ({"layer_norm_eps": float("nan")}, ("layer_norm_eps", "nan")),
    ({"layer_norm_eps": None}, ("layer_norm_eps", "None")),
    ({"problem_type": "segmentation"}, ("segmentation", "single_label_classification")),
    ({"num_labels": -1}, ("num_labels", "-1")),
    ({"num_labels": 2.0, "id2label": None}, ("num_labels", "2.0")),
    ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, ("num_labels is 3", "2 classes")),
]


@pytest.mark.parametrize(("settings", "words"), REFUSALS, ids=lambda value: str(value)[:40])
def test_refusal(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    if settings == {"num_labels": 2.0, "id2label": None}:
        settings = {"num_labels": 2.5}
        words = ("num_labels", "2.5")
    with pytest.raises(ConfigError) as caught:
        BeitConfig(**settings)
    for word in words:
        assert word in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_unknown_field_is_named_with_the_nearest() -> None:
    with pytest.warns(UserWarning, match=r"num_hiden_layers.*num_hidden_layers"):
        config = BeitConfig(num_hiden_layers=3)
    assert config.num_hidden_layers == 12
    assert config.num_hiden_layers == 3
    assert config.to_dict()["num_hiden_layers"] == 3
    with pytest.warns(UserWarning, match="zzz"):
        BeitConfig(zzz=1)


def test_bookkeeping_of_the_reference_is_kept_silently() -> None:
    values = {"torch_dtype": "float32", "transformers_version": "4.37.2", "_name_or_path": "x", "use_cache": True}
    config = BeitConfig(**values)
    assert {name: config.to_dict()[name] for name in values} == values


def test_unknown_attribute_is_no_attribute() -> None:
    with pytest.raises(AttributeError):
        _ = BeitConfig().num_hiden_layers
    assert not hasattr(copy.deepcopy(BeitConfig()), "nothing")


def test_labels() -> None:
    config = BeitConfig()
    assert (config.num_labels, config.id2label, config.label2id) == (
        2,
        {0: "LABEL_0", 1: "LABEL_1"},
        {"LABEL_0": 0, "LABEL_1": 1},
    )
    config.num_labels = 3
    assert config.id2label[2] == "LABEL_2"
    assert BeitConfig(num_labels=0).id2label == {}
    named = BeitConfig(id2label={"0": "cat", "1": "dog", "2": "eel"}, label2id={"wrong": 0})
    assert named.id2label == {0: "cat", 1: "dog", 2: "eel"}
    assert named.label2id == {"cat": 0, "dog": 1, "eel": 2}
    assert BeitConfig(num_labels=3, id2label=named.id2label) == named
    values = json.loads(named.to_json_string())
    assert values["id2label"] == {"0": "cat", "1": "dog", "2": "eel"}
    assert values["label2id"] == {"cat": 0, "dog": 1, "eel": 2}


@pytest.mark.parametrize("way", ["from_dict", "replace", "from_pretrained"])
def test_other_number_of_labels(way: str, tmp_path: Path) -> None:
    named = BeitConfig(id2label={0: "cat", 1: "dog", 2: "eel"})
    named.save_pretrained(tmp_path)

    def change(**overrides: Any) -> BeitConfig:
        if way == "replace":
            return named.replace(**overrides)
        if way == "from_dict":
            return BeitConfig.from_dict(named.to_dict(), **overrides)
        return BeitConfig.from_pretrained(tmp_path, **overrides)

    assert change(num_labels=5).id2label[4] == "LABEL_4"
    assert change(num_labels=3).id2label == named.id2label, "as many classes keep their names"
    assert change(id2label={0: "a"}).num_labels == 1
    assert change(hidden_size=384).id2label == named.id2label
    assert named.num_labels == 3


def test_presets() -> None:
    for name in PRESETS:
        config = BeitConfig.preset(name, use_mask_token=True)
        assert config.use_mask_token
    assert BeitConfig.preset("base") == BeitConfig()
    large = BeitConfig.preset("large", num_labels=7)
    assert (large.hidden_size, large.num_hidden_layers, large.num_attention_heads) == (1024, 24, 16)
    assert (large.intermediate_size, large.layer_scale_init_value, large.num_labels) == (4096, 1e-5, 7)
    with pytest.raises(ConfigError, match=r"huge.*base, large"):
        BeitConfig.preset("huge")


def test_grid() -> None:
    config = BeitConfig(image_size=(32, 48), patch_size=(16, 8))
    assert config.grid == (2, 6)
    assert config.num_patches == 12
    assert BeitConfig().num_patches == 196


def test_deprecated_name_of_out_indices() -> None:
    with pytest.warns(FutureWarning, match="out_indices"):
        assert BeitConfig(segmentation_indices=[3, 5]).out_indices == [3, 5]


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="house"):
        config = BeitConfig(image_size=(32, 48), patch_size=(8, 16), id2label={0: "Käse"}, house={"a": [1, None]})
    config.save_pretrained(tmp_path / "new" / "folder")
    text = (tmp_path / "new" / "folder" / "config.json").read_text(encoding="utf-8")
    assert "Käse" in text
    assert json.loads(text)["image_size"] == [32, 48]
    with pytest.warns(UserWarning, match="house"):
        again = BeitConfig.from_pretrained(tmp_path / "new" / "folder")
    assert again == config
    assert again.image_size == (32, 48)
    assert again.extra == config.extra
    assert config.replace() == config


def test_numbers_are_written_as_the_reference_reads_them() -> None:
    """transformers 5 refuses 0 where it wants 0.0."""
    config = BeitConfig(layer_scale_init_value=0, drop_path_rate=0, layer_norm_eps=1)
    assert json.dumps(config.layer_scale_init_value) == "0.0"
    for name in ("layer_scale_init_value", "drop_path_rate", "layer_norm_eps"):
        assert isinstance(config.to_dict()[name], float)


def test_functions_as_activation(tmp_path: Path) -> None:
    config = BeitConfig(hidden_act=abs)
    assert config.replace(hidden_size=384).hidden_act is abs
    assert config.to_dict()["hidden_act"] == "abs"
    with pytest.raises(ConfigError, match=r"function.*name of an activation"):
        config.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"model_type": "vit"}', r"another architecture.*'vit'.*'beit'"),
        ("{", "not valid JSON"),
        ("[1]", "no settings"),
        ("\xff\xfe", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_damaged_file(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=words):
        BeitConfig.from_pretrained(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"no config.json.*notes.txt"):
        BeitConfig.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="No such folder"):
        BeitConfig.from_pretrained(tmp_path / "absent")


@st.composite
def configs(draw: st.DrawFn) -> BeitConfig:
    heads, patch = draw(st.integers(1, 4)), draw(st.sampled_from([4, (4, 8)]))
    sides = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    probability = st.floats(0, 0.99)
    return BeitConfig(
        num_attention_heads=heads,
        hidden_size=heads * draw(st.integers(1, 9)),
        patch_size=patch,
        image_size=(sides[0] * 8, sides[1] * 8) if draw(st.booleans()) else 8 * sides[0],
        vocab_size=draw(st.integers(1, 10**6)),
        hidden_act=draw(st.sampled_from(["gelu", "relu", "selu", "gelu_new"])),
        drop_path_rate=draw(probability),
        hidden_dropout_prob=draw(probability),
        layer_scale_init_value=draw(st.floats(0, 1)),
        layer_norm_eps=draw(st.floats(1e-12, 1e-3)),
        use_mean_pooling=draw(st.booleans()),
        mask_keeps_position=draw(st.booleans()),
        id2label={i: draw(st.text()) for i in range(draw(st.integers(0, 4)))},
        problem_type=draw(st.sampled_from([None, "regression"])),
        out_indices=draw(st.none() | st.sets(st.integers(0, 12), min_size=1).map(sorted)),
        _kept=draw(
            st.recursive(
                st.none() | st.integers() | st.text(),
                lambda x: st.lists(x) | st.dictionaries(st.text(), x),
                max_leaves=4,
            )
        ),
    )


@given(configs())
def test_json_round_trip(config: BeitConfig) -> None:
    again = BeitConfig.from_dict(json.loads(config.to_json_string()))
    assert again == config
    assert again.extra == config.extra
    assert again.to_json_string() == config.to_json_string()
    assert config.replace() == config
    assert config.replace().extra == config.extra


@pytest.mark.parametrize("names", [{"x": "y"}, ["cat", "dog"]])
def test_id2label_must_be_numbers_to_names(names: object) -> None:
    with pytest.raises(ConfigError, match="wanted class number → name"):
        BeitConfig(id2label=names)

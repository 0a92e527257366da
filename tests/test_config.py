"""BeitConfig: the contract's fields and defaults, refusals, labels, files."""

from __future__ import annotations

import ast
import copy
import inspect
import json
import logging
import pickle
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


def test_positional_arguments_are_in_the_order_of_the_reference() -> None:
    assert list(inspect.signature(BeitConfig).parameters)[:31] == list(CONTRACT)
    config = BeitConfig(100, 24, 4, 3, num_labels=5)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (
        100,
        24,
        4,
        3,
    )
    default = BeitConfig()
    assert BeitConfig(*(getattr(default, name) for name in CONTRACT)) == default
    with pytest.raises(TypeError, match="31 positional arguments; got 32"):
        BeitConfig(*range(32))
    with pytest.raises(TypeError, match="vocab_size twice"):
        BeitConfig(8192, vocab_size=3)


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
    ({"hidden_act": "swoosh"}, ("swoosh", "gelu, relu, selu, gelu_new")),
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
    config.id2label = {0: "cat", 1: "dog", 2: "eel"}
    config.num_labels = 3
    assert config.id2label[0] == "cat", "as many classes keep their names"
    named = BeitConfig(id2label={"0": "cat", "1": "dog", "2": "eel"})
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


# --- edits -----------------------------------------------------------------------------------------------------------


def saved(config: BeitConfig, folder: Path) -> dict[str, Any]:
    config.save_pretrained(folder)
    values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return values


def test_an_attribute_that_is_no_field_is_saved(tmp_path: Path) -> None:
    config = BeitConfig()
    config.foo = 1
    config._bar = [1, {"a": None}]
    config.update({"use_cache": False, "hidden_dropout_prob": 0})
    values = saved(config, tmp_path)
    assert (values["foo"], values["_bar"], values["use_cache"]) == (1, [1, {"a": None}], False)
    assert json.dumps(values["hidden_dropout_prob"]) == "0.0"
    with pytest.warns(UserWarning, match="no field foo"):
        assert BeitConfig.from_pretrained(tmp_path).foo == 1
    other = copy.copy(config)
    other.foo = 2
    assert (config.foo, pickle.loads(pickle.dumps(config)).foo, config.replace().foo) == (1, 1, 1)
    del config.foo
    assert not hasattr(config, "foo")
    with pytest.raises(AttributeError):
        del config.hidden_size
    with pytest.warns(UserWarning, match="Did you mean num_hidden_layers"):
        config.num_hiden_layers = 3


def test_an_edit_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    config = BeitConfig()
    config.foo = object()
    with pytest.raises(ConfigError, match=r"foo is a object, which config\.json cannot hold"):
        config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="cannot hold"):
        config.to_json_string()
    config.foo = 1
    config.hidden_size = 770
    with pytest.raises(ConfigError, match="770"):
        config.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="a method or constant"):
        config.to_dict = 3  # type: ignore[assignment,method-assign]
    with pytest.raises(AttributeError):
        config.stage_names = ["stem"]  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.pruned_heads[0] = [1]
    with pytest.raises(ConfigError, match="class number → name"):
        config.id2label = ["cat"]


def test_label2id_follows_until_it_is_changed(tmp_path: Path) -> None:
    config = BeitConfig(id2label={0: "cat", 1: "dog"})
    config.id2label = {"0": "eel", "1": "fox"}
    assert config.label2id == {"eel": 0, "fox": 1}
    config.id2label[1] = "gnu"
    assert config.label2id == {"eel": 0, "gnu": 1}
    config.label2id["fox"] = 1
    assert saved(config, tmp_path)["label2id"] == {"eel": 0, "gnu": 1, "fox": 1}
    again = BeitConfig.from_pretrained(tmp_path)
    assert again.label2id == {"eel": 0, "gnu": 1, "fox": 1}
    assert again.replace(hidden_size=384).label2id == again.label2id
    assert again.replace(num_labels=2).label2id == again.label2id
    assert again.replace(num_labels=1).label2id == {"LABEL_0": 0}
    assert again.replace(id2label={0: "x"}).label2id == {"x": 0}
    again.num_labels = 5
    assert again.label2id["LABEL_4"] == 4
    kept = BeitConfig(id2label={0: "cat", 1: "dog"}, label2id={"wrong": 0})
    assert (kept.id2label, kept.label2id) == ({0: "cat", 1: "dog"}, {"wrong": 0})
    config.label2id = {"a": 1, "b": 0}
    assert config.label2id == {"a": 1, "b": 0}
    with pytest.raises(ConfigError, match="name → class number"):
        config.label2id = ["a"]  # type: ignore[assignment]


def test_label2id_alone_names_the_classes() -> None:
    for number in (None, 2):
        config = BeitConfig(label2id={"dog": 1, "cat": 0}, num_labels=number)
        assert (config.id2label, config.label2id) == ({0: "cat", 1: "dog"}, {"dog": 1, "cat": 0})
    odd = BeitConfig(label2id={"dog": 7})
    assert (odd.num_labels, odd.label2id) == (2, {"dog": 7})


def test_gaps_in_id2label_are_kept_and_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.WARNING, "beit")
    config = BeitConfig(id2label={0: "cat", 5: "eel"})
    assert "2 classes with numbers up to 5" in caplog.text
    assert (config.id2label, config.label2id, config.num_labels) == ({0: "cat", 5: "eel"}, {"cat": 0, "eel": 5}, 2)
    assert config.class_names == ["cat", "LABEL_1"]
    assert saved(config, tmp_path)["id2label"] == {"0": "cat", "5": "eel"}
    assert BeitConfig.from_pretrained(tmp_path) == config
    for wrong in ({-1: "a"}, {0: "a", "0": "b"}):
        with pytest.raises(ConfigError, match="each once, from 0 on"):
            BeitConfig(id2label=wrong)


def test_stages_follow_each_other() -> None:
    config = BeitConfig()
    config.out_indices = [3, 5]
    assert config.out_features == ["stage3", "stage5"]
    config.out_features = ["stem", "stage2"]
    assert config.out_indices == [0, 2]
    with pytest.raises(ConfigError, match="stage13"):
        config.out_features = ["stage13"]
    assert (config.out_features, config.out_indices) == (["stem", "stage2"], [0, 2])
    config.num_hidden_layers = 6
    assert config.out_indices == [0, 2], "chosen stages stay"
    config.out_indices = None
    assert (config.out_features, config.out_indices) == (["stage6"], [6])
    config.num_hidden_layers = 4
    assert (config.out_features, config.out_indices, config.stage_names[-1]) == (["stage4"], [4], "stage4")
    assert config.to_dict()["stage_names"] == ["stem", "stage1", "stage2", "stage3", "stage4"]


# --- methods of the reference ----------------------------------------------------------------------------------------


def test_json_as_in_the_reference(tmp_path: Path) -> None:
    config = BeitConfig(num_labels=2, torch_dtype="float16")
    diff = json.loads(config.to_json_string())
    assert set(diff) == {*CONTRACT, "stage_names", "model_type", "torch_dtype", *(set(diff) & OURS)}
    everything = json.loads(config.to_json_string(use_diff=False))
    assert {"return_dict", "id2label", "label2id", "problem_type"} <= set(everything) - set(diff)
    assert repr(config) == f"BeitConfig {config.to_json_string()}"
    config.to_json_file(tmp_path / "x.json")
    assert (tmp_path / "x.json").read_text() == config.to_json_string()
    assert BeitConfig.from_json_file(tmp_path / "x.json") == config
    assert BeitConfig.from_pretrained(tmp_path / "x.json", num_labels=4).num_labels == 4
    assert BeitConfig(id2label={0: "a"}).to_diff_dict()["id2label"] == {0: "a"}
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no settings"):
        BeitConfig.from_json_file(tmp_path / "x.json")


OURS = {"decode_dropout_prob", "pad_to_patch", "segmentation_layers"}


def test_unused_keywords_are_returned(tmp_path: Path) -> None:
    BeitConfig().save_pretrained(tmp_path)
    given = {"hidden_size": 24, "torch_dtype": "float16", "device_map": "auto", "foo": 1, "token": None}
    config, unused = BeitConfig.from_pretrained(tmp_path, return_unused_kwargs=True, **given)
    assert unused == {"device_map": "auto", "foo": 1, "torch_dtype": "float16"}
    assert config.hidden_size == 24
    assert config.to_dict()["torch_dtype"] == "float16"
    values, rest = BeitConfig.get_config_dict(tmp_path, **given)
    assert values == json.loads((tmp_path / "config.json").read_text())
    assert rest == {"hidden_size": 24, "torch_dtype": "float16", "device_map": "auto", "foo": 1}
    assert BeitConfig.from_dict(values, return_unused_kwargs=True, foo=1) == (BeitConfig(), {"foo": 1})
    with pytest.warns(UserWarning, match="no keyword foo"):
        assert "foo" not in BeitConfig.from_dict(values, foo=1).to_dict()


def test_update_from_string() -> None:
    config = BeitConfig()
    config.update_from_string("hidden_size=96,use_mean_pooling=no, drop_path_rate=0.5,hidden_act=relu")
    assert (config.hidden_size, config.use_mean_pooling, config.drop_path_rate, config.hidden_act) == (
        96,
        False,
        0.5,
        "relu",
    )
    for text, words in (
        ("foo=1", "field of the config"),
        ("hidden_size", "name=value"),
        ("hidden_size=x", "hidden_size is a int, and 'x' is none"),
        ("add_fpn=maybe", "add_fpn is a bool"),
        ("pool_scales=3", "numbers, true or false, and text only"),
    ):
        with pytest.raises(ConfigError, match=words):
            config.update_from_string(text)


def test_attributes_that_every_config_of_the_reference_has() -> None:
    config = BeitConfig()
    assert (config.is_encoder_decoder, config.tie_word_embeddings, config.torch_dtype, config.name_or_path) == (
        *(False, True, None),
        "",
    )
    assert config.use_return_dict
    config.torchscript = True
    assert not config.use_return_dict
    config.name_or_path = "a/b"
    assert config.to_dict()["_name_or_path"] == "a/b"
    assert BeitConfig(name_or_path="c").name_or_path == "c"
    assert BeitConfig.attribute_map == {}


@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
def test_torch_dtype(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for value in (torch.bfloat16, "bfloat16", "torch.bfloat16"):
        config = BeitConfig(**{name: value})
        assert config.torch_dtype is config.dtype is torch.bfloat16
        assert saved(config, tmp_path)[name] == "bfloat16"
        assert BeitConfig.from_pretrained(tmp_path).torch_dtype is torch.bfloat16
        config.torch_dtype = torch.float16
        assert config.to_dict()["torch_dtype"] == "float16"
        assert "dtype" not in config.to_dict()
        assert config.replace(dtype=value).to_dict()["torch_dtype"] == "bfloat16"


# --- what is saved is what was there ---------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@given(
    config=configs(),
    dtype=st.sampled_from([None, "float32", "bfloat16", "float16"]),
    label2id=st.none() | st.dictionaries(st.text(), st.integers(0, 9), max_size=3),
    names=st.none() | st.dictionaries(st.integers(0, 9), st.text(), min_size=1, max_size=3),
    keeps=st.sampled_from([None, False, True]),
    extra=st.dictionaries(st.sampled_from(["foo", "_bar", "use_cache", "transformers_version"]), JSON),
)
@pytest.mark.filterwarnings("ignore:BeitConfig has no field foo")
def test_random_edits_survive_a_round_trip(
    config: BeitConfig, dtype: Any, label2id: Any, names: Any, keeps: Any, extra: Any, tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("round")
    config.mask_keeps_position = keeps
    if names is not None:
        config.id2label = names
    if label2id is not None:
        config.label2id = label2id
    if dtype is not None:
        config.torch_dtype = dtype
    for name, value in extra.items():
        setattr(config, name, value)
    first = saved(config, folder)
    assert {name: first[name] for name in extra} == extra
    assert first.get("torch_dtype") == dtype
    assert ("mask_keeps_position" in first) == (keeps is not None)
    again = BeitConfig.from_pretrained(folder)
    assert again == config
    assert saved(again, folder) == first
    assert saved(again.replace(), folder) == first
    assert saved(copy.deepcopy(again), folder) == first

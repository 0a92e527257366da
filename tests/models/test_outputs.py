"""Outputs answer like the reference's: by attribute, key and index; what is None is not there."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from collections import OrderedDict
from types import SimpleNamespace

import pytest

from beit import BackboneOutput, BeitModelOutputWithPooling, ImageClassifierOutput, InputError, MaskedLMOutput
from beit.models.outputs import BaseModelOutput


@pytest.fixture
def output() -> MaskedLMOutput:
    return MaskedLMOutput(loss=None, logits="logits", hidden_states=("a", "b"), attentions=None)


def test_order_of_fields() -> None:
    body = ("last_hidden_state", "pooler_output", "hidden_states", "attentions")
    head = ("loss", "logits", "hidden_states", "attentions")
    assert tuple(BeitModelOutputWithPooling(*"abcd").keys()) == body
    assert tuple(BaseModelOutput(*"abc").keys()) == ("last_hidden_state", "hidden_states", "attentions")
    assert tuple(MaskedLMOutput(*"abcd").keys()) == head
    assert tuple(ImageClassifierOutput(*"abcd").keys()) == head


def test_access(output: MaskedLMOutput) -> None:
    assert output.logits == output["logits"] == output[0] == output[-2] == "logits"
    assert output.loss is None
    assert output[1] == ("a", "b")
    assert output[:1] == ("logits",)
    assert output[::-1] == (("a", "b"), "logits")
    assert output.to_tuple() == ("logits", ("a", "b"))
    assert output.get("loss", 3) == 3
    assert output.get("logits") == "logits"
    assert output.get("nothing") is None


def test_as_a_mapping(output: MaskedLMOutput) -> None:
    assert list(output) == ["logits", "hidden_states"]
    assert {**output} == dict(output) == {"logits": "logits", "hidden_states": ("a", "b")}
    assert list(output.items()) == [("logits", "logits"), ("hidden_states", ("a", "b"))]
    assert tuple(output.values()) == ("logits", ("a", "b"))
    assert len(output) == 2
    assert "logits" in output
    assert "loss" not in output
    assert "to_tuple" not in output
    (lambda logits, hidden_states: None)(**output)


def test_what_is_not_there(output: MaskedLMOutput) -> None:
    with pytest.raises(KeyError, match=r"loss.*logits, hidden_states"):
        output["loss"]
    with pytest.raises(KeyError):
        output["to_tuple"]
    with pytest.raises(IndexError):
        output[2]
    with pytest.raises(AttributeError):
        output.nothing  # noqa: B018
    assert len(MaskedLMOutput()) == 0


def test_set_later(output: MaskedLMOutput) -> None:
    output.loss = 1.5
    assert output[0] == 1.5
    assert tuple(output.keys()) == ("loss", "logits", "hidden_states")


def test_copies(output: MaskedLMOutput) -> None:
    assert pickle.loads(pickle.dumps(output)) == copy.deepcopy(output) == output


def test_as_a_pytree(output: MaskedLMOutput) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils import _pytree

    import beit.models.torch.pretrained  # noqa: F401  (registers them)

    output.logits, output.hidden_states = torch.ones(2), (torch.zeros(1),)
    doubled = _pytree.tree_map(lambda x: x * 2 if isinstance(x, torch.Tensor) else x, output)
    assert type(doubled) is MaskedLMOutput
    assert doubled.logits.tolist() == [2, 2]


def test_setting_by_key_and_by_attribute_agree() -> None:
    output = MaskedLMOutput(logits="logits")
    output["loss"] = 2.0  # in its declared place
    output["hidden_states"] = ("a",)
    assert output.loss == output[0] == 2.0
    assert list(output.items()) == [("loss", 2.0), ("logits", "logits"), ("hidden_states", ("a",))]
    output.logits = "other"
    assert output["logits"] == dict(output)["logits"] == output.to_tuple()[1] == "other"
    output.loss = None
    output["hidden_states"] = None
    assert list(output) == ["logits"]
    assert output.hidden_states is None


def test_keys_of_a_pipeline_follow_the_fields() -> None:
    output = MaskedLMOutput(logits="logits")
    output["target_size"] = (3, 4)
    output.loss = 1.0
    assert list(output) == ["loss", "logits", "target_size"]
    assert output.target_size == output["target_size"] == (3, 4)  # type: ignore[attr-defined]
    output.target_size = (5, 6)  # type: ignore[attr-defined]
    assert output["target_size"] == (5, 6)
    output.note = "an attribute alone"  # type: ignore[attr-defined]
    assert "note" not in output


def test_nothing_is_removed(output: MaskedLMOutput) -> None:
    for remove in (
        lambda: output.pop("logits"),
        lambda: output.popitem(),
        lambda: output.clear(),
        lambda: output.update(logits=1),
        lambda: output.setdefault("logits", 1),
        lambda: output.__delitem__("logits"),
        lambda: delattr(output, "logits"),
        lambda: output.__ior__({"logits": 1}),
    ):
        with pytest.raises(TypeError, match=r"replace\(logits=…\)"):
            remove()
    with pytest.raises(TypeError, match="the key 0 is no name"):
        output[0] = 1  # type: ignore[index]
    with pytest.raises(InputError, match="'keys' would hide a method"):
        output["keys"] = 1
    assert list(output.items()) == [("logits", "logits"), ("hidden_states", ("a", "b"))]


def test_replace(output: MaskedLMOutput) -> None:
    output["target_size"] = (3, 4)
    changed = output.replace(loss=1.0, hidden_states=None)
    assert type(changed) is MaskedLMOutput
    assert dict(changed) == {"loss": 1.0, "logits": "logits", "target_size": (3, 4)}
    assert output.loss is None
    assert dataclasses.replace(output, loss=1.0).loss == 1.0
    with pytest.raises(TypeError, match=r"no field 'logit'; it has loss, logits"):
        output.replace(logit=1)


def test_copies_keep_everything(output: MaskedLMOutput) -> None:
    output["target_size"] = (3, 4)
    output.note = "an attribute alone"  # type: ignore[attr-defined]
    whole = {"logits": "logits", "hidden_states": ("a", "b"), "target_size": (3, 4)}
    copies = (copy.copy(output), output.copy(), copy.deepcopy(output), pickle.loads(pickle.dumps(output)))
    for other in copies:
        assert type(other) is MaskedLMOutput
        assert dict(other) == whole
        assert (other.target_size, other.note) == ((3, 4), "an attribute alone")
        other["loss"] = 1.0
    assert dict(output) == whole


def test_made_from_a_dict_or_pairs_as_libraries_do(output: MaskedLMOutput) -> None:
    for other in (
        type(output)({key: value for key, value in output.items()}),  # noqa: C416  (as Accelerate does)
        type(output)((key, output[key]) for key in output),  # as DataParallel does
        type(output)(list(output.items())),
    ):
        assert other == output
        assert list(other) == list(output)
    assert BaseModelOutput([("a", "b")]).to_tuple() == ("b",)
    assert BaseModelOutput(["ab", "cd"]).last_hidden_state == ["ab", "cd"]
    assert list(BackboneOutput(("map", "map"))) == ["feature_maps"]


def test_accelerate_and_torch_look_inside() -> None:
    torch = pytest.importorskip("torch")
    operations = pytest.importorskip("accelerate.utils.operations")
    output = ImageClassifierOutput(logits=torch.ones(2, 3, dtype=torch.bfloat16), hidden_states=(torch.ones(1),))
    moved = operations.convert_to_fp32(output)
    assert type(moved) is ImageClassifierOutput
    assert moved.logits.dtype == torch.float32
    from torch.nn.parallel.distributed import _find_tensors

    assert len(list(_find_tensors(output))) == 2


def test_counts_as_an_output_of_transformers_where_that_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs(OrderedDict[str, object]):
        def __init_subclass__(cls) -> None:
            raise AssertionError("registered a second time")

    monkeypatch.delitem(sys.modules, "transformers.utils.generic", raising=False)  # another test may have imported it
    output = ImageClassifierOutput(logits="logits")
    assert not isinstance(output, Theirs)
    assert output.__class__ is ImageClassifierOutput
    monkeypatch.setitem(sys.modules, "transformers.utils.generic", SimpleNamespace(ModelOutput=Theirs))  # type: ignore[arg-type]
    assert isinstance(output, Theirs)
    assert isinstance(output, ImageClassifierOutput)
    assert not isinstance(output, MaskedLMOutput)
    assert output == ImageClassifierOutput(logits="logits") != ImageClassifierOutput(logits="other")
    assert repr(output).startswith("ImageClassifierOutput(loss=None, logits='logits'")
    copies = (
        dataclasses.replace(output),
        output.replace(),
        copy.copy(output),
        copy.deepcopy(output),
        pickle.loads(pickle.dumps(output)),
        output.__class__({"logits": "logits"}),  # as pipelines do for each image of a batch
    )
    for other in copies:
        assert type(other) is ImageClassifierOutput
        assert other == output


def test_keys_are_a_view(output: MaskedLMOutput) -> None:
    keys = output.keys()
    assert keys == ("logits", "hidden_states") != ("hidden_states", "logits")
    assert keys == {"hidden_states", "logits"} == dict(output).keys()
    assert keys - {"logits"} == {"hidden_states"}
    assert "logits" in keys
    assert repr(keys) == "keys(['logits', 'hidden_states'])"
    output.loss = 1.0
    assert len(keys) == 3

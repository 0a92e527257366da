"""Outputs answer like the reference's: by attribute, key and index; what is None is not there."""

from __future__ import annotations

import copy
import pickle

import pytest

from beit import BeitModelOutputWithPooling, ImageClassifierOutput, MaskedLMOutput
from beit.models.outputs import BaseModelOutput


@pytest.fixture
def output() -> MaskedLMOutput:
    return MaskedLMOutput(loss=None, logits="logits", hidden_states=("a", "b"), attentions=None)


def test_order_of_fields() -> None:
    body = ("last_hidden_state", "pooler_output", "hidden_states", "attentions")
    head = ("loss", "logits", "hidden_states", "attentions")
    assert BeitModelOutputWithPooling(*"abcd").keys() == body
    assert BaseModelOutput(*"abc").keys() == ("last_hidden_state", "hidden_states", "attentions")
    assert MaskedLMOutput(*"abcd").keys() == head
    assert ImageClassifierOutput(*"abcd").keys() == head


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
    assert output.values() == ("logits", ("a", "b"))
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
    assert output.keys() == ("loss", "logits", "hidden_states")


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

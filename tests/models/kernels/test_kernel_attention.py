"""Attention head by head against the plain formula, and when it is taken."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beit import BeitConfig, BeitModel
from beit.core import geometry
from beit.models.torch.kernels import attention as pytorch_attention
from beit.models.torch.kernels import choice
from beit.models.torch.kernels.attention import attend_head_by_head


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    with_table=st.booleans(),
    way=st.sampled_from(["heads", "fused"]),
)
def test_it_is_the_plain_formula(height: int, width: int, batch: int, heads: int, with_table: bool, way: str) -> None:
    torch.manual_seed(height * 7 + width)
    tokens, dim = 1 + height * width, 4
    q, k, v = torch.randn(3, batch, tokens, heads, dim, dtype=torch.float64).transpose(2, 3)
    table = torch.randn(geometry.num_relative_distances((height, width)), heads, dtype=torch.float64)
    index = torch.from_numpy(geometry.relative_position_index((height, width)).copy())
    scores = q @ k.transpose(-2, -1) / math.sqrt(dim)
    if with_table:
        scores = scores + table[index].permute(2, 0, 1)
    wanted = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "_decided", {**choice.FAST, "attention": way})
        found = attend_head_by_head(q, k, v, table if with_table else None, (height, width))
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)


def model(**changes: Any) -> BeitModel:
    values: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": (16, 24),
        "patch_size": 4,
    }
    torch.manual_seed(0)
    made = BeitModel(BeitConfig(**{**values, **changes})).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.fixture(params=["heads", "fused"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Calls of `attend_head_by_head`, on any machine and with any number of tokens."""
    noted: list[int] = []

    def counted(*arguments: Any) -> torch.Tensor:
        noted.append(1)
        return attend_head_by_head(*arguments)

    monkeypatch.setattr(choice, "_decided", {**choice.FAST, "attention": request.param})
    monkeypatch.setattr(pytorch_attention, "_FEWEST_TOKENS", 2)
    monkeypatch.setattr(pytorch_attention, "_FEWEST_TOKENS_FUSED", 2)
    monkeypatch.setattr(pytorch_attention, "attend_head_by_head", counted)
    return noted


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_models_answer_the_same(own: bool, shared: bool, calls: list[int]) -> None:
    beit = model(use_relative_position_bias=own, use_shared_relative_position_bias=shared)
    x = torch.randn(2, 3, 16, 24)
    wanted = beit(x).last_hidden_state  # with gradients: the plain formula
    assert calls == []
    with torch.no_grad():
        found = beit(x).last_hidden_state
    assert calls == [1, 1]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_only_where_it_may(calls: list[int]) -> None:
    beit = model(use_relative_position_bias=True, attention_probs_dropout_prob=0.5)
    x = torch.randn(1, 3, 16, 24)
    with torch.no_grad():
        beit(x, output_attentions=True)
        beit(x, head_mask=torch.ones(2))
        beit.train()(x)  # dropout
        beit.eval().double()(x.double())
        with torch.autocast("cpu", torch.bfloat16):
            beit.float()(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing itself
            torch.jit.trace(model(return_dict=False), x, check_trace=False)
    assert calls == []
    with torch.no_grad():
        beit(x, output_hidden_states=True)
    assert calls == [1, 1]


def test_the_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"plain": (False, False), "heads": (True, True), "fused": (False, True)}
    for way, answers in expected.items():
        monkeypatch.setattr(choice, "_decided", {**choice.FAST, "attention": way})
        with torch.no_grad():
            assert tuple(pytorch_attention.head_by_head(torch.empty(1, tokens, 8)) for tokens in (577, 1601)) == answers
            assert not pytorch_attention.head_by_head(torch.empty(1, 197, 8))

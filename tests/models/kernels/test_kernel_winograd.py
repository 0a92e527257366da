"""Winograd's convolution against the plain one, and when it is taken."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from beit.models.torch.kernels import choice
from beit.models.torch.kernels import winograd as pytorch_winograd
from beit.models.torch.kernels.winograd import WinogradConv3x3, pays


def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1).permute(0, 2, 3, 1)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 21),
    width=st.integers(1, 21),
    batch=st.integers(1, 2),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    at_once=st.sampled_from([1, 4, 8, 256]),
)
def test_it_is_the_plain_convolution_exactly(
    height: int, width: int, batch: int, inputs: int, outputs: int, at_once: int
) -> None:
    """In float64, where rounding cannot hide a mistake; in one part and in many."""
    torch.manual_seed(height * 31 + width)
    x = torch.randn(batch, height, width, inputs, dtype=torch.float64)
    weight, bias = torch.randn(outputs, inputs, 3, 3, dtype=torch.float64), torch.randn(outputs, dtype=torch.float64)
    wanted = plain(x, weight, bias)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(pytorch_winograd, "_TILES_AT_ONCE", at_once)
        found = WinogradConv3x3(weight, bias)(x.clone())
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("ways", [choice.PLAIN, choice.FAST])
def test_rounding_in_float32_is_small(ways: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With products by either way."""
    monkeypatch.setattr(choice, "_decided", dict(ways))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 16, 16, 128).relu(), torch.randn(128, 128, 3, 3) / 34, torch.zeros(128)
    wanted = plain(x.double(), weight.double(), bias.double())
    with torch.no_grad():
        error = (WinogradConv3x3(weight, bias)(x) - wanted).abs().max() / wanted.abs().max()
    assert error < 5e-6


def test_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_decided", dict(choice.FAST))
    assert pays(torch.empty(1, 160, 160, 768), 768)
    assert not pays(torch.empty(1, 160, 160, 128), 768)  # few channels
    assert not pays(torch.empty(1, 16, 16, 768), 768)  # few tiles
    assert not pays(torch.empty(1, 160, 160, 768, dtype=torch.float64), 768)
    monkeypatch.setattr(choice, "_decided", dict(choice.PLAIN))
    assert not pays(torch.empty(1, 160, 160, 768), 768)

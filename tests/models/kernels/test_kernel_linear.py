"""The linear layer's fast way against the plain formula, and when it is taken."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from beit.models.torch.kernels import choice
from beit.models.torch.kernels import linear as pytorch_linear
from beit.models.torch.kernels.linear import Linear, as_convolution, linear, product


@pytest.mark.parametrize("shape", [(64, 8), (3, 40, 8), (2, 5, 13, 8)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_convolution_is_the_product(shape: tuple[int, ...], with_bias: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(12, 8), torch.randn(12) if with_bias else None
    x = x.transpose(0, -2).contiguous().transpose(0, -2)  # as attention gives it: not in rows
    given = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    plain = F.linear(x, weight, bias)
    fast = as_convolution(x.reshape(-1, 8), weight, bias).reshape(plain.shape)
    assert fast.shape == plain.shape
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    towards = torch.randn_like(plain)
    for wanted, found in zip(
        torch.autograd.grad(plain, given, towards), torch.autograd.grad(fast, given, towards), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Row counts of the calls that take the convolution, on any machine."""
    calls: list[int] = []
    real = as_convolution

    def noted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        calls.append(len(x))
        return real(x, weight, bias)

    monkeypatch.setattr(choice, "_decided", dict(choice.FAST))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(pytorch_linear, "as_convolution", noted)
    return calls


def test_when_the_convolution_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = taken(monkeypatch)
    layer = Linear(8, 12)
    layer(torch.randn(2, 50, 8))
    assert calls == [100]
    layer(torch.randn(63, 8))  # too few rows
    layer(torch.randn(0, 8))
    layer.double()(torch.randn(100, 8, dtype=torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(100, 8), torch.randn(12, 8), None).dtype == torch.bfloat16
    with torch.device("meta"):
        assert Linear(8, 12)(torch.empty(100, 8)).shape == (100, 12)
    assert calls == [100]


def test_an_exported_layer_has_the_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = taken(monkeypatch)
    layer = Linear(8, 12)
    program = torch.export.export(layer, (torch.randn(100, 8),))
    assert "linear" in program.graph_module.code
    assert "conv" not in program.graph_module.code
    assert calls == []


def test_the_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = taken(monkeypatch)
    monkeypatch.setattr(choice, "_decided", dict(choice.PLAIN))
    Linear(8, 12)(torch.randn(100, 8))
    product(torch.randn(100, 8), torch.randn(12, 8))
    assert calls == []


def test_a_single_thread_has_the_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = taken(monkeypatch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    Linear(8, 12)(torch.randn(100, 8))
    product(torch.randn(100, 8), torch.randn(12, 8))
    assert calls == []


@pytest.mark.parametrize("ways", [choice.PLAIN, choice.FAST])
def test_product(ways: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = taken(monkeypatch)
    monkeypatch.setattr(choice, "_decided", dict(ways))
    torch.manual_seed(0)
    x, weight, bias = torch.randn(70, 8), torch.randn(12, 8), torch.randn(12)
    torch.testing.assert_close(product(x, weight), x @ weight.t(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(product(x, weight, bias), x @ weight.t() + bias, rtol=1e-5, atol=1e-5)
    assert calls == ([70, 70] if ways["linear"] == "conv" else [])

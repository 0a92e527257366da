"""The linear layer's fast way against the plain formula, and when it is taken."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from beit.models.torch.kernels import choice
from beit.models.torch.kernels import linear as pytorch_linear
from beit.models.torch.kernels.linear import apply_linear, apply_together, as_convolution, linear, product, untouched


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
    layer = torch.nn.Linear(8, 12)
    apply_linear(layer, torch.randn(2, 50, 8))
    assert calls == [100]
    apply_linear(layer, torch.randn(63, 8))  # too few rows
    apply_linear(layer, torch.randn(0, 8))
    apply_linear(layer.double(), torch.randn(100, 8, dtype=torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(100, 8), torch.randn(12, 8), None).dtype == torch.bfloat16
    with torch.device("meta"):
        assert apply_linear(torch.nn.Linear(8, 12), torch.empty(100, 8)).shape == (100, 12)
    assert calls == [100]


def test_an_exported_layer_has_the_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = taken(monkeypatch)
    program = torch.export.export(Applied(), (torch.randn(100, 8),))
    assert "linear" in program.graph_module.code
    assert "conv" not in program.graph_module.code
    assert calls == []


def test_the_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = taken(monkeypatch)
    monkeypatch.setattr(choice, "_decided", dict(choice.PLAIN))
    apply_linear(torch.nn.Linear(8, 12), torch.randn(100, 8))
    product(torch.randn(100, 8), torch.randn(12, 8))
    assert calls == []


def test_a_single_thread_has_the_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = taken(monkeypatch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    apply_linear(torch.nn.Linear(8, 12), torch.randn(100, 8))
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


class Applied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return apply_linear(self.layer, x)


def test_a_touched_layer_is_called() -> None:
    """By hooks, by a new `forward` as offloading gives it, by another class as adapters and quantisation do."""
    seen: list[str] = []
    x = torch.randn(100, 8)

    class Other(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            seen.append("class")
            return super().forward(input)

    hooks = {
        "after": lambda layer: layer.register_forward_hook(lambda *_: seen.append("after")),
        "before": lambda layer: layer.register_forward_pre_hook(lambda *_: seen.append("before")),
        "backward": lambda layer: layer.register_full_backward_hook(lambda *_: seen.append("backward")),
        "every": lambda _: torch.nn.modules.module.register_module_forward_hook(lambda *_: seen.append("every")),
    }
    for name, register in hooks.items():
        layer = torch.nn.Linear(8, 12)
        assert untouched(layer, torch.nn.Linear)
        handle = register(layer)
        assert not untouched(layer, torch.nn.Linear), name
        apply_linear(layer, x.requires_grad_()).sum().backward()
        handle.remove()
        assert untouched(layer, torch.nn.Linear), name
    layer = torch.nn.Linear(8, 12)
    layer.forward = lambda given: seen.append("forward") or given  # type: ignore[method-assign]
    assert apply_linear(layer, x) is x
    apply_linear(Other(8, 12), x)
    assert seen == ["after", "before", "backward", "every", "forward", "class"]


@pytest.mark.parametrize("rows", [10, 1100])
@pytest.mark.parametrize("touched", [False, True])
def test_several_layers_together(rows: int, touched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(8, 12), torch.nn.Linear(8, 12, bias=False), torch.nn.Linear(8, 12)]
    calls: list[str] = []
    if touched:
        layers[1].register_forward_hook(lambda *_: calls.append("hook"))
    joined = torch.cat
    monkeypatch.setattr(torch, "cat", lambda *given, **more: calls.append("joined") or joined(*given, **more))
    x = torch.randn(1, rows, 8)
    with torch.no_grad():
        found = apply_together(layers, x)
    assert calls == (["hook"] if touched else ["joined"] * 2 if rows > 1024 else [])
    for one, layer in zip(found, layers, strict=True):
        torch.testing.assert_close(one, torch.nn.functional.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)
    calls.clear()
    assert all(one.requires_grad for one in apply_together(layers, x))
    assert "joined" not in calls, "gradients go to each layer"

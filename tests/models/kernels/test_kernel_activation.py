"""The activation in place of the layer's output: the same bits, and only where nobody else sees the output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from beit.models.torch.kernels.activation import _is_ours_alone, activated
from beit.models.torch.kernels.linear import apply_linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("activation", [F.gelu, F.relu])
def test_the_same_bits(activation: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(8, 12).to(dtype), torch.randn(2, 50, 8, dtype=dtype)
    before = x.clone()
    with torch.no_grad():
        assert torch.equal(activated(layer, x, activation), activation(apply_linear(layer, x)))
    assert torch.equal(x, before)


def test_gradients_are_those_of_the_plain_formula() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(8, 12), torch.randn(5, 8, requires_grad=True)
    wanted = torch.autograd.grad(F.gelu(layer(x)).sum(), [x, *layer.parameters()])
    found = torch.autograd.grad(activated(layer, x, F.gelu).sum(), [x, *layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_an_output_that_a_hook_kept_stays_as_it_is() -> None:
    layer, x, kept = nn.Linear(8, 12), torch.randn(5, 8), []
    handles = [
        layer.register_forward_hook(lambda *given: kept.append(given[2])),
        nn.modules.module.register_module_forward_hook(lambda *given: kept.append(given[2])),
    ]
    for handle in handles:
        with torch.no_grad():
            activated(layer, x, F.gelu)
        handle.remove()
    with torch.no_grad():
        assert kept
        assert all(torch.equal(y, F.linear(x, layer.weight, layer.bias)) for y in kept)


def test_a_layer_that_returns_its_input() -> None:
    x = torch.randn(5, 8)
    before = x.clone()
    with torch.no_grad():
        assert torch.equal(activated(nn.Identity(), x, F.gelu), F.gelu(x))
    assert torch.equal(x, before)


def test_where_it_applies() -> None:
    layer, x = nn.Linear(8, 12), torch.randn(5, 8)
    with torch.inference_mode():
        assert _is_ours_alone(layer, apply_linear(layer, x))
    assert not _is_ours_alone(layer, apply_linear(layer, x)), "the gradient needs it"
    program = torch.export.export(Wrapped(), (x,))
    assert "gelu_" not in program.graph_module.code


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 12).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return activated(self.layer, x, F.gelu)

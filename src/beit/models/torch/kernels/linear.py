"""A linear layer by the faster of two ways: `F.linear`, or the same product as a 1x1 convolution.

PyTorch gives float32 matrix products on a CPU to MKL, which does not use the AVX-512 units of every processor that has
them. It gives convolutions to oneDNN, which does. A product of matrices is a 1x1 convolution over the rows, and with
channels last no number has to be moved for it. With two threads, at the shapes of BEiT-B for 8 images of 224 pixels or one
of 640:

                                       forward      forward and backward
    AMD EPYC, Zen 5      F.linear    160 to 200          160 to 200         GFLOP/s on two cores
                         convolution 360 to 460          270 to 410
    Intel Xeon with AMX  F.linear    127 to 158          126 to 150         GFLOP per second of one core
                         convolution 134 to 151           78 to 122

So the processor decides: see `choice.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as _global

from beit.models.torch.kernels.choice import chosen

_MANY_ROWS = 1024
_FEWEST_ROWS = 64  # with fewer, laying out the weights for the convolution costs more than it saves


def apply_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`; an `nn.Linear` that nobody has touched goes the faster way."""
    if may_choose(x) and untouched(layer, nn.Linear):
        return linear(x, layer.weight, layer.bias)
    return layer(x)


def apply_together(layers: Sequence[nn.Module], x: Tensor) -> Sequence[Tensor]:
    """`[layer(x) for layer in layers]`, of layers with equally many outputs.

    Without gradients on a CPU, many rows go by one product with the weights side by side. Copying 7 MB of weights costs BEiT-B
    0.3 ms per layer; attention on one array instead of three saves 1.3 ms and the product 0.4 ms of 24 ms at batch 8 (Intel
    Xeon with AMX, two threads). For few rows the copy costs more than it saves.
    """
    many = not torch.is_grad_enabled() and may_choose(x) and x.numel() >= _MANY_ROWS * x.shape[-1]
    if not many or not all(untouched(layer, nn.Linear) and layer.weight.dtype == x.dtype for layer in layers):
        return [apply_linear(layer, x) for layer in layers]
    plain = [cast(nn.Linear, layer) for layer in layers]
    weights: list[Tensor] = [layer.weight for layer in plain]
    biases: list[Tensor] = [
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in plain
    ]
    return linear(x, torch.cat(weights), torch.cat(biases)).chunk(len(layers), dim=-1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x (…, in)`, `weight (out, in)`, `bias (out)` → `x·weightᵀ + bias (…, out)`, by the faster way.

    Compiled, exported and traced models, other types than float32, other devices and autocast take `F.linear`.
    """
    if weight.dtype != x.dtype or not may_choose(x):
        return F.linear(x, weight, bias)
    # After `may_choose`: comparing the batch while a program is exported would bind the program to the answer.
    rows = x.numel() // max(x.shape[-1], 1)
    if rows < _FEWEST_ROWS or not convolves(x):
        return F.linear(x, weight, bias)
    return as_convolution(x.reshape(rows, x.shape[-1]), weight, bias).reshape(*x.shape[:-1], weight.shape[0])


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x (rows, in)`, `weight (out, in)`, `bias (out)` → `x·weightᵀ + bias (rows, out)`, by the faster way for many rows."""
    return as_convolution(x, weight, bias) if convolves(x) else F.linear(x, weight, bias)


def as_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same product as a 1x1 convolution."""
    # x seen as one picture of 1 x rows pixels with `in` channels, channels last: the memory is the same.
    picture = x[None, None].permute(0, 3, 1, 2)
    return F.conv2d(picture, weight[:, :, None, None], bias).permute(0, 2, 3, 1)[0, 0]


def convolves(x: Tensor) -> bool:
    """Whether products with `x` are faster as convolutions."""
    # With a single thread PyTorch gives 1x1 convolutions to MKL as well; they would only cost more.
    return may_choose(x) and torch.get_num_threads() > 1 and chosen("linear", _trial) == "conv"


def may_choose(x: Tensor) -> bool:
    """Whether kernels of this package may replace PyTorch's own for `x`.

    Float32 on a CPU, outside autocast; and not while a model is compiled, exported or traced, because the program may run
    on another processor.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
    )


def untouched(layer: nn.Module, kind: type[nn.Module]) -> TypeGuard[Any]:
    """Whether a call of `layer` does what a call of a new `kind` does, so that its formula may replace the call.

    Adapters and quantisation replace a layer, offloading replaces its `forward`, and hooks want to see the call.
    """
    return (
        type(layer) is kind
        and "forward" not in layer.__dict__
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
        and not (_global._global_forward_hooks or _global._global_forward_pre_hooks)
        and not (_global._global_backward_hooks or _global._global_backward_pre_hooks)
    )


def _trial() -> Mapping[str, Callable[[], object]]:
    """A product of BEiT-B with its gradients, by both ways."""
    # Numbers do not matter to the speed, and drawing them would change what the caller's generator gives next.
    with torch.inference_mode(False):
        x, weight, bias = torch.ones(256, 768), torch.ones(768, 768), torch.ones(768)
    given = [tensor.requires_grad_() for tensor in (x, weight, bias)]

    def once(way: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            y = way(x, weight, bias)
            torch.autograd.grad(y, given, y.detach())

    return {"plain": lambda: once(F.linear), "conv": lambda: once(as_convolution)}

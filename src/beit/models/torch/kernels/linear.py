"""A linear layer that is as fast as the processor: `F.linear`, or the same product as a 1x1 convolution.

PyTorch gives float32 matrix products on a CPU to MKL, which does not use the AVX-512 units of every processor that has
them; convolutions go to oneDNN, which does. Measured on an AMD EPYC of the Zen 5 generation, two cores: 160 to 200
GFLOP/s for `F.linear`, 360 to 460 for the convolution, forward; 160 to 200 and 270 to 410 with the backward pass. A
product of matrices is a 1x1 convolution over the rows, and with channels last no number has to be moved for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLVES = (
    torch.backends.mkldnn.is_available()
    and torch.backends.mkl.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
)
_FEWEST_ROWS = 64  # below, laying out the weights for the convolution costs more than it saves


def convolves(x: Tensor) -> bool:
    """Whether products with `x` are faster as convolutions: float32 on such a processor, outside compiling and autocast."""
    return (
        _CONVOLVES
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x (…, in)`, `weight (out, in)`, `bias (out)` → `x·weightᵀ + bias (…, out)`, by the faster way.

    Compiled and exported models, other types, devices and autocast take `F.linear`.
    """
    rows = x.numel() // max(x.shape[-1], 1)
    if not convolves(x) or weight.dtype != x.dtype or rows < _FEWEST_ROWS:
        return F.linear(x, weight, bias)
    return product(x.reshape(rows, x.shape[-1]), weight, bias).reshape(*x.shape[:-1], weight.shape[0])


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x (rows, in)`, `weight (out, in)`, `bias (out)` → `x·weightᵀ + bias (rows, out)`, as a 1x1 convolution."""
    # x seen as one picture of 1 x rows pixels with `in` channels, channels last: the memory is the same.
    picture = x[None, None].permute(0, 3, 1, 2)
    return F.conv2d(picture, weight[:, :, None, None], bias).permute(0, 2, 3, 1)[0, 0]


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

"""The activations that a config can name, with the reference's names. All are plain functions, so that models can be pickled."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_tanh_gelu = functools.partial(F.gelu, approximate="tanh")


def _gelu_10(x: Tensor) -> Tensor:
    """GELU that is cut off at ±10, for quantised models."""
    return F.gelu(x).clamp(-10, 10)


def _linear(x: Tensor) -> Tensor:
    return x


def _quick_gelu(x: Tensor) -> Tensor:
    """GELU approximated by a sigmoid (Hendrycks & Gimpel, 2016)."""
    return x * torch.sigmoid(1.702 * x)


def _relu2(x: Tensor) -> Tensor:
    """Squared ReLU (Primer, 2021)."""
    return F.relu(x).square()


def _laplace(x: Tensor) -> Tensor:
    """The distribution function of a normal distribution that approximates squared ReLU (MEGA, 2022)."""
    return 0.5 * (1 + torch.erf((x - math.sqrt(0.5)) / (math.sqrt(2) * math.sqrt(1 / (4 * math.pi)))))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "selu": F.selu,
    "gelu_new": _tanh_gelu,
    "gelu_10": _gelu_10,
    "gelu_accurate": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_python": F.gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "laplace": _laplace,
    "leaky_relu": F.leaky_relu,
    "linear": _linear,
    "mish": F.mish,
    "quick_gelu": _quick_gelu,
    "relu2": _relu2,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}

"""The activations that a config can name; the twin of `models/torch/activations.py`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array
_gelu = functools.partial(nn.gelu, approximate=False)
_tanh_gelu = functools.partial(nn.gelu, approximate=True)


def _gelu_10(x: Array) -> Array:
    return jnp.clip(_gelu(x), -10, 10)


def _linear(x: Array) -> Array:
    return x


def _quick_gelu(x: Array) -> Array:
    return x * nn.sigmoid(1.702 * x)


def _relu2(x: Array) -> Array:
    return jnp.square(nn.relu(x))


def _laplace(x: Array) -> Array:
    return 0.5 * (1 + jax.scipy.special.erf((x - math.sqrt(0.5)) / (math.sqrt(2) * math.sqrt(1 / (4 * math.pi)))))


def _mish(x: Array) -> Array:
    return x * jnp.tanh(nn.softplus(x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "relu": nn.relu,
    "selu": nn.selu,
    "gelu_new": _tanh_gelu,
    "gelu_10": _gelu_10,
    "gelu_accurate": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_python": _gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "laplace": _laplace,
    "leaky_relu": nn.leaky_relu,
    "linear": _linear,
    "mish": _mish,
    "quick_gelu": _quick_gelu,
    "relu2": _relu2,
    "relu6": nn.relu6,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": nn.tanh,
}

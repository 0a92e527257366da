"""The activations of both frameworks against values of the reference (transformers 4.37.2, float64)."""

from __future__ import annotations

import importlib.util
import pickle

import numpy as np
import pytest

from beit.config import ACTIVATIONS

AT = [-11.0, -3.0, -0.5, 0.3, 2.5, 12.0]
GELU = [0.0, -0.00405, -0.154269, 0.185373, 2.484476, 12.0]
TANH = [0.0, -0.003637, -0.154286, 0.185371, 2.484916, 12.0]
SILU = [-0.000184, -0.142278, -0.18877, 0.172333, 2.310355, 11.999926]
VALUES = {
    **dict.fromkeys(("gelu", "gelu_python"), GELU),
    "gelu_10": [*GELU[:-1], 10.0],
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate"), TANH),
    "laplace": [0.0, 0.0, 0.000009, 0.074488, 1.0, 1.0],
    "leaky_relu": [-0.11, -0.03, -0.005, 0.3, 2.5, 12.0],
    "linear": AT,
    "mish": [-0.000184, -0.145647, -0.220744, 0.208001, 2.471392, 12.0],
    "quick_gelu": [0.0, -0.018071, -0.149612, 0.187484, 2.465014, 12.0],
    "relu": [0.0, 0.0, 0.0, 0.3, 2.5, 12.0],
    "relu2": [0.0, 0.0, 0.0, 0.09, 6.25, 144.0],
    "relu6": [0.0, 0.0, 0.0, 0.3, 2.5, 6.0],
    "selu": [-1.758070, -1.670569, -0.691758, 0.315210, 2.626752, 12.608412],
    "sigmoid": [0.000017, 0.047426, 0.377541, 0.574443, 0.924142, 0.999994],
    **dict.fromkeys(("silu", "swish"), SILU),
    "tanh": [-1.0, -0.995055, -0.462117, 0.291313, 0.986614, 1.0],
}


def test_every_name_is_tested() -> None:
    assert set(VALUES) == set(ACTIVATIONS)


@pytest.mark.parametrize("framework", ["torch", "flax"])
def test_values_of_the_reference(framework: str) -> None:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"needs {framework}")
    table = importlib.import_module(f"beit.models.{framework}.activations").ACTIVATIONS
    make = (
        importlib.import_module("torch").tensor if framework == "torch" else importlib.import_module("jax.numpy").array
    )
    assert set(table) == set(ACTIVATIONS)
    for name, wanted in VALUES.items():
        function = pickle.loads(pickle.dumps(table[name])) if framework == "torch" else table[name]
        found = function(make(AT))
        np.testing.assert_allclose(np.asarray(found), wanted, atol=2e-6, rtol=1e-5, err_msg=name)

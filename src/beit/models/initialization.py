"""How parameters start, as a table that both frameworks read. Loads neither torch nor jax.

| parameter                           | `paper` (recipes of microsoft/unilm)    | `reference` (transformers) |
|-------------------------------------|-----------------------------------------|----------------------------|
| matrices, patch convolution         | normal, cut at ±1 std                   | normal                     |
| attention output, second MLP matrix | the same divided by √(2·(layer+1))      | normal                     |
| cls and mask token, positions       | normal, cut at ±1 std                   | 0                          |
| classifier                          | normal, cut at ±1 std, times 0.001      | normal                     |
| biases, relative-position tables    | 0                                       | 0                          |
| layer and batch norms               | weight 1, bias 0                        | weight 1, bias 0           |
| layer scale                         | `layer_scale_init_value`                | `layer_scale_init_value`   |

The standard deviation is `initializer_range`.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from beit.config import BeitConfig
from beit.core.errors import ConfigError


class Start(NamedTuple):
    """How one parameter starts.

    Attributes:
        kind: `constant`, `normal`, or `cut`: a normal cut at ± one standard deviation.
        value: of the constant; or the standard deviation.
        scale: what the numbers drawn are multiplied by.
    """

    kind: Literal["constant", "normal", "cut"]
    value: float
    scale: float = 1.0


def start_of(name: str, ndim: int, config: BeitConfig, scheme: str = "paper") -> Start:
    """How the parameter of this name in memory starts.

    Raises:
        ConfigError: there is no such scheme.
    """
    if scheme not in ("paper", "reference"):
        raise ConfigError(f"Unknown initialisation {scheme!r}. Choose paper or reference.")
    paper = scheme == "paper"
    last = name.rpartition(".")[2]
    if last in ("gamma1", "gamma2"):
        return Start("constant", config.layer_scale_init_value)
    if last in ("bias", "q_bias", "v_bias", "table", "running_mean", "num_batches_tracked"):
        return Start("constant", 0.0)
    if last == "running_var" or (last == "weight" and ndim == 1):
        return Start("constant", 1.0)
    if not paper:
        token = last in ("cls_token", "mask_token", "position")
        return Start("constant", 0.0) if token else Start("normal", config.initializer_range)
    scale = 1.0
    if name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
        layer = int(name.split("layers.")[1].split(".")[0])
        scale = 1 / math.sqrt(2 * (layer + 1))
    elif name == "classifier.weight":
        scale = 0.001
    return Start("cut", config.initializer_range, scale)

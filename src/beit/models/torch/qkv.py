"""Query, key and value of an attention as one module, for those who want to see or change all three at once."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from beit.models.torch.kernels.linear import apply_linear


class HasLayers(Protocol):
    """What `QKV` asks of its attention."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear


class QKV(nn.Linear):
    """`x (…, C)` → query, key and value, one after the other: `(…, 3·C)`.

    It holds no weights: those are of the three layers beside it, which are called. Attention computes the three without
    joining them, unless this module is hooked, wrapped or replaced; then it calls what stands here. It counts as a linear
    layer, so that adapters (LoRA) can stand on it.

    Args:
        attention: a module with the linear layers `query`, `key` and `value`, each `(C → C)`.
    """

    def __init__(self, attention: HasLayers) -> None:
        nn.Module.__init__(self)  # without the parameters of a linear layer
        self._attention = (attention,)  # in a tuple, or the attention would be a part of its own part
        self.in_features = attention.query.in_features
        self.out_features = 3 * self.in_features

    @property
    def layers(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        """Query, key and value as they are now: an adapter may have replaced them."""
        attention = self._attention[0]
        return attention.query, attention.key, attention.value

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """A copy of the three matrices, `(3·C, C)`. Writing to it changes nothing."""
        return torch.cat([layer.weight for layer in self.layers])

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        """A copy of the biases, `(3·C,)`: that of the key is 0."""
        query, _, value = self.layers
        return torch.cat((query.bias, torch.zeros_like(query.bias), value.bias))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, of query, key and value"

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([apply_linear(layer, x) for layer in self.layers], dim=-1)

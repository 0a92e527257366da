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


class _Joined(Tensor):
    """A tensor made of several, for those who merge an adapter by `layer.weight.data += …`."""

    matrices: list[Tensor]

    @property
    def data(self) -> Tensor:
        return torch.cat([matrix.data for matrix in self.matrices])

    @data.setter
    def data(self, value: Tensor) -> None:
        for matrix, part in zip(self.matrices, value.chunk(len(self.matrices)), strict=True):
            matrix.data.copy_(part)


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
    def weight(self) -> Tensor:
        """The three matrices, one below the other, `(3·C, C)`: a copy, whose `data` is written back to them when it is set."""
        matrices = [layer.weight for layer in self.layers]
        joined = torch.cat(matrices).as_subclass(_Joined)
        joined.matrices = matrices
        return joined

    @weight.setter
    def weight(self, value: Tensor) -> None:
        self.weight.data = value.data

    @property  # type: ignore[override]
    def bias(self) -> Tensor:
        """A copy of the biases, `(3·C,)`: that of the key is 0. Setting it writes it back, but for the key."""
        query, _, value = self.layers
        return torch.cat((query.bias, torch.zeros_like(query.bias), value.bias))

    @bias.setter
    def bias(self, value: Tensor) -> None:
        query, _, last = self.layers
        first, _, third = value.data.chunk(3)
        query.bias.data.copy_(first)
        last.bias.data.copy_(third)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, of query, key and value"

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([apply_linear(layer, x) for layer in self.layers], dim=-1)

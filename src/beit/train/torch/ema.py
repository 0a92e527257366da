"""The moving average of a PyTorch model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Average:
    """An exponential moving average of a model's weights (Polyak averaging; Tarvainen & Valpola 2017, arXiv 1703.01780).

    At step t, counted from 0, the decay is min(decay, (1+t)/(10+t)), so that the random start is soon forgotten.
    The statistics of batch norms are copied, not averaged.

    Args:
        model: whose weights are averaged.
        decay: per step, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the model's weights, after step number `step`."""
        learned = dict(self.model.named_parameters())
        averaged = [local(self.weights[name]) for name in learned]
        decay = min(self.decay, (1 + step) / (10 + step))
        # One kernel for all parameters instead of one for each.
        torch._foreach_lerp_(averaged, [local(value) for value in learned.values()], 1 - decay)
        for name, value in self.model.named_buffers():
            if name in self.weights:
                self.weights[name].copy_(value)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights for as long as the `with` lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self.model.state_dict().items():
            own, averaged = local(value), local(self.weights[name])
            kept = own.clone()
            own.copy_(averaged)  # in place: the optimiser and the compiled model hold these very tensors
            averaged.copy_(kept)


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor that is split over processes; any other tensor as it is."""
    return value.to_local() if hasattr(value, "to_local") else value

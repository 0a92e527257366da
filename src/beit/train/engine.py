"""What the loop asks of a model in training, in any framework. `torch/engine.py` and `flax/engine.py` are the engines."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

Metrics = dict[str, Any]  # name → scalar of the framework, which may still be computing; float() waits for it


class Engine(Protocol):
    """A model on its devices with its optimiser, loss, precision and averaged weights.

    Attributes:
        immediate: whether the metrics of `step` are computed when it returns, so that looking at them costs nothing (a CPU).
    """

    @property
    def immediate(self) -> bool: ...

    def step(self, batch: Mapping[str, Any], step: int, rate: float, weight_decay: float | None) -> Metrics:
        """One whole step: batch to the device → for each part of it: loss, gradients → clip → update → average.

        Args:
            batch: this process's share, in memory: numpy arrays or CPU tensors, images first.
            step: number of the step, from 0; dropout and drop path depend on it and the seed alone.
            rate: learning rate, before the scale of each group of parameters.
            weight_decay: of the parameters that decay; None leaves it as it is.

        Returns:
            Means over this process's share, `loss` among them, and `gradient_norm` before clipping. They may still be
            computing.
        """
        ...

    def finite(self) -> bool:
        """Whether all losses and gradients so far were finite, in all processes. Waits for the computation."""
        ...

    def finite_weights(self) -> bool:
        """Whether all weights are finite, in all processes. Waits for the computation."""
        ...

    def train_mode(self) -> None:
        """Make the model ready for steps: before the first one, and after it was used otherwise."""
        ...

    def full_model(self) -> Any | None:
        """The model with all its weights, to be saved or used, in the main process; None in the others.

        All processes must call it together: of a split model, each has a part.
        """
        ...

    def averaged(self) -> AbstractContextManager[Any] | None:
        """For as long as the `with` lasts, `full_model` has the averaged weights; None where weights are not averaged."""
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write what a resumed run needs besides the weights into a checkpoint's folder. All processes must call it.

        Returns:
            What goes into state.json.
        """
        ...

    def load(self, folder: Path, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; `state` is its state.json. Raises CheckpointError when it is damaged or does not fit."""
        ...

"""What the loop asks of a model in training, whatever framework computes: `torch_engine` and `flax_engine` answer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

Metrics = dict[str, Any]  # name → scalar of the framework, perhaps not computed yet; float() waits for it


class Engine(Protocol):
    """A model on its devices with its optimiser, loss, precision and averaged weights.

    Attributes:
        immediate: whether what `step` returns is computed already, so that a look at it costs nothing (a CPU).
    """

    @property
    def immediate(self) -> bool: ...

    def step(self, batch: Mapping[str, Any], step: int, rate: float, weight_decay: float | None) -> Metrics:
        """One whole step: batch to the device → in parts: loss, gradients → clip → update → average.

        Args:
            batch: this process's share, in memory: numpy arrays or CPU tensors, images first.
            step: number of the step, from 0; dropout and drop path follow from it and the seed alone.
            rate: learning rate, before the scale of each group of parameters.
            weight_decay: of the parameters that decay; None for what it was.

        Returns:
            Means over this process's share, among them `loss`; and `gradient_norm`, before clipping. Not waited for.
        """
        ...

    def finite(self) -> bool:
        """Whether all losses and gradients since the last look were numbers, in all processes. Waits."""
        ...

    def finite_weights(self) -> bool:
        """Whether all weights are numbers, in all processes. Waits."""
        ...

    def train_mode(self) -> None:
        """Ready for steps: at the beginning, and after somebody has used the model otherwise."""
        ...

    def whole(self) -> Any | None:
        """The model with all its weights, as a `Job` saves it, in the main process; None in others. All must ask."""
        ...

    def averaged(self) -> AbstractContextManager[Any] | None:
        """For as long as the `with` lasts, `whole` has the averaged weights; None where weights are not averaged."""
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write what a resumed run needs beside the weights into a checkpoint's folder, in all processes.

        Returns:
            What goes into state.json.
        """
        ...

    def load(self, folder: Path, state: dict[str, Any]) -> None:
        """Go on from there; `state` is what state.json says. Raises CheckpointError when that is damaged or does not fit."""
        ...

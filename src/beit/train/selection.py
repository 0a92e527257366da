"""Which step's model is the best so far by what was measured in between, and when there is no hope for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Selection:
    """Chooses among the measured steps of a run.

    Attributes:
        metric: the name of the metric that decides; larger is better.
        tie: the name of a metric that decides between equals; smaller is better. The earlier of two equals in both wins.
        patience: measurements in a row without a better one after which the run ends; 0 for never.
        measured: (step, metric, tie) of each measurement so far. It is saved with each checkpoint, so a resumed run chooses
            as an undisturbed one.
    """

    metric: str
    tie: str
    patience: int = 0
    measured: list[tuple[int, float, float]] = field(default_factory=list)

    def add(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Add a measurement. Returns whether it is the best so far."""
        value, other = metrics.get(self.metric, math.nan), metrics.get(self.tie, math.nan)
        self.measured.append((step, float(value), float(other)))
        return self.best == step

    @property
    def best(self) -> int | None:
        """The best step; None before the first finite measurement."""
        finite = [(value, -tie if math.isfinite(tie) else -math.inf, -step) for step, value, tie in self.measured
                  if math.isfinite(value)]  # fmt: skip
        return -max(finite)[2] if finite else None

    @property
    def exhausted(self) -> bool:
        """Whether `patience` is over."""
        if not self.patience or self.best is None:
            return False
        return sum(step > self.best for step, _, _ in self.measured) >= self.patience

    def remark(self) -> str:
        """What is to be known about figures of the chosen model on the same images; "" where nothing was chosen."""
        if len(self.measured) < 2:
            return ""
        return f"The model is the best of {len(self.measured)} by these same images, so the figures are a little optimistic."

    def state(self) -> list[list[float | None]]:
        """What `restore` takes, as JSON can hold it."""
        return [[step, _finite(value), _finite(tie)] for step, value, tie in self.measured]

    def restore(self, state: Any) -> None:
        """Go on from what `state` gave. Raises ValueError or TypeError where it is something else."""
        self.measured = [(int(step), _number(value), _number(tie)) for step, value, tie in state]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)

"""Settings of runs that are measured while they train: fine-tuning and segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from beit.core.errors import ConfigError
from beit.train.settings.base import RunSettings, check_not_negative


@dataclass(kw_only=True)
class ValidatedSettings(RunSettings):
    """How a run is measured while it trains, and which model is its result."""

    ADDED: ClassVar[Mapping[str, Any]] = {
        **RunSettings.ADDED,
        "validate_every": 0,
        "result": "last",
        "patience": 0,
    }
    """As `RunSettings.ADDED`."""

    validate_every: int | None = None
    """Steps between measurements on the images to measure on; if not given, each epoch, but not more than a number of times that
    costs little; 0 for the end alone."""
    result: Literal["best", "last", "ema"] = "best"
    """Which model is saved at the end: the best by what was measured (the last one without images to measure on), the last one,
    or its moving average, which is then also what is measured."""
    patience: int = 0
    """End the run after so many measurements in a row without a better one; 0 for never."""

    def measured_every(self, steps: int, steps_per_epoch: int | None, most: int) -> int:
        """Steps between measurements, for a run of so many steps; 0 for the end alone.

        Args:
            steps: of the run.
            steps_per_epoch: None for a stream of unknown length.
            most: how often a run is measured unless the settings say otherwise.
        """
        if self.validate_every is not None:
            return self.validate_every
        return max(steps_per_epoch or self.save_every, -(-steps // most))

    def validate(self) -> None:
        """Check all values. Raises ConfigError."""
        super().validate()
        check_not_negative(self, "validate_every", "patience")
        if self.result not in ("best", "last", "ema"):
            raise ConfigError(f"result is {self.result!r}; choose best, last or ema.")
        if self.result == "ema" and not self.ema:
            raise ConfigError("result is ema, but no weights are averaged: give a decay, such as --ema 0.999.")
        if self.patience and self.result != "best":
            raise ConfigError(f"patience waits for a better model; it needs --result best, not {self.result}.")

"""Scores of a model that answers with numbers: mean squared error, mean absolute error and R². numpy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from beit.core.errors import InputError
from beit.core.files import write_json
from beit.core.notebook import Shown

EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True, repr=False)
class RegressionScores(Shown):
    """Scores of a regression on images with known numbers.

    Attributes:
        count: number of images.
        names: of the numbers that the model gives.
        mse: mean squared error of each, in the square of its unit.
        mae: mean absolute error of each, in its unit.
        r2: of each, 1 - Σ (truth - answer)² / Σ (truth - mean truth)²: 1 is perfect, 0 is as good as always answering the mean;
            None where all true numbers are equal.
        predictions: float64 `(n, numbers)`, for the report; not saved.
        targets: float64 `(n, numbers)`, for the report; not saved.
    """

    count: int
    names: list[str]
    mse: list[float]
    mae: list[float]
    r2: list[float | None]
    predictions: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        rows = zip(self.names, self.mse, self.mae, self.r2, strict=True)
        return {
            "count": self.count,
            "numbers": [dict(zip(("name", "mse", "mae", "r2"), row, strict=True)) for row in rows],
        }

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write evaluation.json."""
        write_json(Path(folder) / EVALUATION_FILE, self.to_dict())

    def shown(self) -> tuple[str, list[tuple[str, ...]]]:
        """As `Shown.shown`."""
        rows = zip(self.names[:10], self.mse, self.mae, self.r2, strict=False)
        found = [(name, f"MSE {mse:.4g}", f"MAE {mae:.4g}", f"R² {_r2(r2)}") for name, mse, mae, r2 in rows]
        return "RegressionScores", [*found, ("images", str(self.count))]

    def __str__(self) -> str:
        rows = zip(self.names, self.mse, self.mae, self.r2, strict=True)
        parts = [f"{name}: MSE {mse:.4g}, MAE {mae:.4g}, R² {_r2(r2)}" for name, mse, mae, r2 in rows]
        more = f"; … and {len(parts) - 5} more" if len(parts) > 5 else ""
        return "; ".join(parts[:5]) + more + f"; on {self.count} images"


def _r2(value: float | None) -> str:
    return "undefined (all true numbers are equal)" if value is None else f"{value:.3f}"


def regression_scores(
    predictions: np.ndarray, targets: np.ndarray, names: Sequence[str] | None = None
) -> RegressionScores:
    """Compare numbers.

    Args:
        predictions: what the model answers, `(n,)` or `(n, numbers)`, n ≥ 1; as `beit.inference.classification.logits_of` gives.
        targets: the true numbers, of the same shape.
        names: one per number; `value` or `value 1`, … if not given.

    Raises:
        InputError: the shapes differ, there are no images, or a number is NaN or infinite.
    """
    answers, truth = (np.asarray(values, np.float64) for values in (predictions, targets))
    answers, truth = (values[:, None] if values.ndim == 1 else values for values in (answers, truth))
    if answers.ndim != 2 or answers.shape != truth.shape or not answers.size:
        raise InputError(
            f"Got predictions {np.shape(predictions)} and targets {np.shape(targets)}; wanted two arrays (images,) or (images, "
            "numbers) of one shape, with at least one image."
        )
    if not (np.isfinite(answers).all() and np.isfinite(truth).all()):
        raise InputError("Predictions or targets have NaN or infinity; leave such images out.")
    width = answers.shape[1]
    if names is None:
        names = ["value"] if width == 1 else [f"value {i + 1}" for i in range(width)]
    if len(names) != width:
        raise InputError(f"Got {len(names)} names for {width} numbers; wanted one each.")
    wrong = answers - truth
    spread = ((truth - truth.mean(0)) ** 2).sum(0)
    equal = (truth == truth[0]).all(0)  # their mean may differ from them in the last digit
    squares = (wrong**2).sum(0)
    return RegressionScores(
        count=len(truth),
        names=list(names),
        mse=(squares / len(truth)).tolist(),
        mae=np.abs(wrong).mean(0).tolist(),
        r2=[None if same or not s else float(1 - q / s) for q, s, same in zip(squares, spread, equal, strict=True)],
        predictions=answers,
        targets=truth,
    )

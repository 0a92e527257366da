"""Scores of a model that answers with numbers: mean squared error, mean absolute error and R². numpy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beit.core.errors import InputError
from beit.core.files import write_json
from beit.core.notebook import Shown
from beit.core.text import printable
from beit.evaluation.scores import EVALUATION_FILE, bootstrap

if TYPE_CHECKING:
    from beit.evaluation.worst import Worst


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
        r2_interval: 95 % interval of each R² by the bootstrap (1,000 resamples of the images, percentiles); None where there is
            no R².
        images_per_second: of the whole way from files to answers.
        skipped: why images were skipped, one line per image.
        worst: images for the report; not saved.
    """

    count: int
    names: list[str]
    mse: list[float]
    mae: list[float]
    r2: list[float | None]
    predictions: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)
    r2_interval: list[tuple[float, float] | None] = field(default_factory=list)
    images_per_second: float = 0.0
    skipped: list[str] = field(default_factory=list, repr=False)
    worst: Worst | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        ends = [None if pair is None else list(pair) for pair in self.r2_interval]
        rows = zip(self.names, self.mse, self.mae, self.r2, ends, strict=True)
        return {
            "problem_type": "regression",
            "count": self.count,
            "numbers": [dict(zip(("name", "mse", "mae", "r2", "r2_interval"), row, strict=True)) for row in rows],
            "images_per_second": round(self.images_per_second, 1),
            "skipped": self.skipped,
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
        rows = zip(self.names, self.mse, self.mae, self.r2, self.r2_interval, strict=True)
        parts = [
            f"{printable(name, 40)}: R² {_r2(r2)}{_between(ends)}, MAE {mae:.4g}, MSE {mse:.4g}"
            for name, mse, mae, r2, ends in rows
        ]
        more = f"; … and {len(parts) - 5} more" if len(parts) > 5 else ""
        return "; ".join(parts[:5]) + more + f"; on {self.count} images"

    def summary(self) -> str:
        """The short form of a report."""
        return f"{self}; {self.images_per_second:.0f} images/s"


def _between(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f" (95 % interval {ends[0]:.3f} to {ends[1]:.3f})"


def _r2(value: float | None) -> str:
    return "undefined (all true numbers are equal)" if value is None else f"{value:.3f}"


def regression_scores(
    predictions: np.ndarray,
    targets: np.ndarray,
    names: Sequence[str] | None = None,
    *,
    seconds: float = 0.0,
    skipped: Sequence[str] = (),
    worst: Worst | None = None,
) -> RegressionScores:
    """Compare numbers.

    Args:
        predictions: what the model answers, `(n,)` or `(n, numbers)`, n ≥ 1; as `beit.inference.classification.logits_of` gives.
        targets: the true numbers, of the same shape.
        names: one per number; `value` or `value 1`, … if not given.
        seconds: how long the n images took.
        skipped: why other images were skipped.
        worst: images for a report.

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
        r2_interval=[
            None if same or not s else _r2_interval(wrong[:, i], truth[:, i])
            for i, (s, same) in enumerate(zip(spread, equal, strict=True))
        ],
        images_per_second=len(truth) / seconds if seconds else 0.0,
        skipped=list(skipped),
        worst=worst,
        predictions=answers,
        targets=truth,
    )


def _r2_interval(wrong: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    def score(draws: np.ndarray) -> float:
        mean = (draws * truth).sum() / draws.sum()
        spread = (draws * (truth - mean) ** 2).sum()
        return float(1 - (draws * wrong**2).sum() / spread) if spread > 0 else float("nan")

    return bootstrap(len(truth), score)

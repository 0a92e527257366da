"""Pictures of what a run sees, for trackers: views, masks, and what the model makes of masked patches. numpy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from beit.config import BeitConfig
from beit.core.errors import BeitError
from beit.train.targets.base import Target

_MOST = 6  # images
_GREY = 0.5
_LONGEST = 128  # pixels of a side; larger images are thinned out, since there is a picture for each checkpoint

logger = logging.getLogger("beit")

# (model or None, batch in memory, step) → name → uint8 (H, W, 3)
Pictures = Callable[[Any, Mapping[str, Any], int], dict[str, np.ndarray]]


def of_views(mean: Sequence[float], std: Sequence[float]) -> Pictures:
    """The first images of a batch as the model sees them, cropped, coloured and mixed."""

    def made(model: Any, batch: Mapping[str, Any], step: int) -> dict[str, np.ndarray]:
        return {"views": sheet([_visible(batch["pixel_values"], mean, std)])}

    return made


def of_pretraining(target: Target, config: BeitConfig, mean: Sequence[float], std: Sequence[float]) -> Pictures:
    """Rows of a picture: the views, the same with masked patches in grey, and with what the model predicts in their place.

    The last row is missing where there is no model, or where the target has no pictures of its predictions: tokens without a
    tokenizer, and Flax models.
    """

    def made(model: Any, batch: Mapping[str, Any], step: int) -> dict[str, np.ndarray]:
        few = {name: np.asarray(value[:_MOST]) for name, value in batch.items()}
        views = _visible(few["pixel_values"], mean, std)
        mask = on_pixels(few["mask"], config.grid, views.shape[1:3])
        rows = [views, np.where(mask, _GREY, views)]
        predicted = None if model is None else target.predicted_pixels(model, few)
        if predicted is not None:
            predicted = _enlarged(predicted, views.shape[1:3])  # the tokenizer's view is of another size
            shown = _visible(predicted, mean, std) if target.predicts_normalised else np.moveaxis(predicted, 1, -1)
            rows.append(np.where(mask, shown, views))
        return {"views, masked, predicted" if predicted is not None else "views, masked": sheet(rows)}

    return made


def sheet(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of images, each `(n, H, W, 3)` in [0, 1], as one picture, uint8 `(rows · H, n · W, 3)`."""
    step = max(-(-max(rows[0].shape[1:3]) // _LONGEST), 1)
    lines = [np.concatenate(list(row[:, ::step, ::step]), axis=1) for row in rows]
    return (np.clip(np.nan_to_num(np.concatenate(lines)), 0, 1) * 255).round().astype(np.uint8)


def on_pixels(mask: np.ndarray, grid: tuple[int, int], size: Sequence[int]) -> np.ndarray:
    """A mask of patches bool `(n, N)` on the pixels of images, bool `(n, H, W, 1)`."""
    height, width = size[0] // grid[0], size[1] // grid[1]
    return mask.reshape(-1, *grid).repeat(height, axis=1).repeat(width, axis=2)[..., None]


def _visible(pixels: Any, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """The first normalised images `(B, 3, H, W)` as `(n, H, W, 3)` in [0, 1]."""
    return np.moveaxis(np.asarray(pixels[:_MOST], np.float32), 1, -1) * np.array(std) + np.array(mean)


def _enlarged(pixels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Images `(n, 3, h, w)` as `(n, 3, H, W)`, by the nearest pixel."""
    rows, columns = (np.arange(whole) * part // whole for whole, part in zip(size, pixels.shape[2:], strict=True))
    return pixels[:, :, rows][:, :, :, columns]


def drawn(pictures: Pictures, model: Any, batch: Mapping[str, Any], step: int) -> dict[str, np.ndarray]:
    """The pictures; none, which is said, where they cannot be made: a run does not end for a picture."""
    try:
        return pictures(model, batch, step)
    except (BeitError, ArithmeticError, ValueError, RuntimeError, MemoryError) as error:
        logger.warning("Pictures of step %d could not be made: %s", step, error)
        return {}

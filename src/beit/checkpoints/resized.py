"""A checkpoint as the model of a config that may have another image size: positions resized, pixels to match."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from beit import geometry, weights
from beit.checkpoints import Checkpoint
from beit.config import BeitConfig


def model_of(checkpoint: Checkpoint, config: BeitConfig) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors by their names in memory, for the patches of `config`, and what was changed, in plain words."""
    grid = checkpoint.grid
    if grid is None or grid == config.grid:
        return checkpoint.memory, []
    memory, changes = dict(checkpoint.memory), weights.LoadReport()
    weights.resize_positions(memory, grid, config.grid, changes)
    return memory, changes.copied


def pixels_for(pixels: Mapping[str, Any] | None, config: BeitConfig) -> dict[str, Any] | None:
    """Settings of an image processor for the image size of `config`, which keep the part of an image that is seen."""
    if pixels is None:
        return None
    height, width = geometry.pair(config.image_size)
    old, size = _sides(pixels.get("crop_size")), pixels.get("size")
    if not pixels.get("do_center_crop"):
        return {**pixels, "size": {"height": height, "width": width}, "crop_size": {"height": height, "width": width}}
    if old is None or not isinstance(size, Mapping) or old == (height, width):
        return dict(pixels)
    scale = min(height / old[0], width / old[1])
    larger = {name: round(side * scale) for name, side in size.items() if isinstance(side, int)}
    return {**pixels, "size": larger, "crop_size": {"height": height, "width": width}}


def _sides(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    return None

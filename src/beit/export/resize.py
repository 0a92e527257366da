"""A checkpoint as the model of a config that may have another image size: positions resized, pixels to match."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from beit.checkpoints import Checkpoint
from beit.checkpoints.match import LoadReport, resize_positions
from beit.config import BeitConfig
from beit.core import geometry
from beit.core.errors import CheckpointError
from beit.models.parameters import shapes_of

_MAY_LACK = ("beit.pooler.", "beit.embeddings.mask_token")  # a self-supervised encoder has no pooler


def model_of(checkpoint: Checkpoint, config: BeitConfig) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors by their names in memory that `config` uses, for its patches, and what was changed, in plain words.

    Raises:
        CheckpointError: tensors are missing, of other shapes than the settings say, or hold NaN or infinity.
    """
    memory, report = dict(checkpoint.state_dict), LoadReport()
    grid = checkpoint.grid
    if grid is not None and grid != config.grid:
        resize_positions(memory, grid, config.grid, report)
    wanted = shapes_of(config, checkpoint.architecture)
    unused = [name for name in memory if name not in wanted and not name.endswith("num_batches_tracked")]
    if unused:
        report.copied.append(
            f"{len(unused)} tensors that the settings do not use were left out: {', '.join(unused[:3])}, …"
        )
    wrong = [
        f"{name} is {memory[name].shape}, wanted {shape}"
        for name, shape in wanted.items()
        if name in memory and memory[name].shape != shape
    ]
    wrong += [f"{name} is missing" for name in wanted if name not in memory and not name.startswith(_MAY_LACK)]
    wrong += [
        f"{name} holds NaN or infinity" for name in wanted if name in memory and not np.isfinite(memory[name]).all()
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{checkpoint.source} and its settings do not agree: {'; '.join(wrong[:3])}{more}.")
    return {name: array for name, array in memory.items() if name not in unused}, report.copied


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
    if isinstance(size, Mapping) and isinstance(size.get("height"), int) and isinstance(size.get("width"), int):
        return size["height"], size["width"]
    return None

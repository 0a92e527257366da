"""The grid of patches that a checkpoint's positions belong to, from its tensors or its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from beit.core import geometry
from beit.core.errors import ConfigError

Grid = tuple[int, int]
Tensors = Mapping[str, np.ndarray]
POSITIONS = "beit.embeddings.position_embeddings"
TABLE = ".relative_position_bias.relative_position_bias_table"  # what the names of relative-position tables end with
_DEFAULTS = {"image_size": 224, "patch_size": 16}  # of `BeitConfig`, for a config.json that leaves them out


def grid_of_settings(values: Mapping[str, Any]) -> Grid | None:
    """Patches `(h, w)` of the `image_size` and `patch_size` in `values`; None where they are impossible."""
    sides = []
    for name, default in _DEFAULTS.items():
        value = values.get(name, default)
        pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
        if len(pair) != 2 or not all(type(side) is int for side in pair):
            return None
        sides.append(pair)
    try:
        return geometry.patch_grid(*sides)
    except ConfigError:
        return None


def agrees(grid: Grid, state_dict: Tensors) -> bool:
    """Whether all positions and relative-position tables have the length that `grid` needs."""
    position = state_dict.get(POSITIONS)
    rows = geometry.num_relative_distances(grid)
    tables = [array for name, array in state_dict.items() if name.endswith(TABLE) and array.ndim]
    return (position is None or position.shape[1:2] == (1 + grid[0] * grid[1],)) and all(
        len(table) == rows for table in tables
    )


def grid_of(state_dict: Tensors, disk: Tensors) -> Grid | None:
    """Patches `(h, w)` that the positions belong to.

    Args:
        state_dict: the tensors by parameter name.
        disk: the same by their names in the file, where a `relative_position_index` may stand beside them.

    Returns:
        None without positions, or where their number fits several rectangles.
    """
    patches = None
    position = state_dict.get(POSITIONS)
    if position is not None and position.ndim == 3:
        patches = position.shape[1] - 1
    # An index says which rectangle; a table's length only how many displacements there are.
    index = next((array for name, array in disk.items() if name.endswith("relative_position_index")), None)
    if index is not None and index.ndim == 2 and len(index) > 2 and index.shape[0] == index.shape[1]:
        patches = len(index) - 1
        width = _width_of(index)
        if width and patches % width == 0:
            return patches // width, width
    table = next((array for name, array in state_dict.items() if name.endswith(TABLE) and array.ndim == 2), None)
    if table is not None:
        displacements = len(table) - 3
        side = math.isqrt(max(displacements, 0))  # 2h - 1 of a square
        if side * side == displacements and side % 2 == 1 and patches in (None, ((side + 1) // 2) ** 2):
            return (side + 1) // 2, (side + 1) // 2
        return None
    if patches is not None and math.isqrt(patches) ** 2 == patches:
        return math.isqrt(patches), math.isqrt(patches)
    return None


def _width_of(index: np.ndarray) -> int:
    """w of a `relative_position_index` `(1 + h·w, 1 + h·w)`; 0 where it is of another layout, or damaged.

    In its first row of patches, each entry is 1 less than the one before, until the next row of patches begins.
    """
    steps = np.diff(index[1, 1:])
    breaks = np.flatnonzero(steps != -1)
    width = int(breaks[0]) + 1 if len(breaks) else len(index) - 1
    height = (len(index) - 1) // width
    if height * width != len(index) - 1 or not np.array_equal(index, geometry.relative_position_index((height, width))):
        return 0
    return width

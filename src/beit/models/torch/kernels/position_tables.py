"""Indices and resizing weights that follow from the size of the images alone, as tensors on a device.

They are `core/geometry.py` and `core/resampling.py` for PyTorch. numpy computes them once for a size, and they are kept.
`torch.compile` cannot follow numpy, and from the second image size on it leaves height and width symbolic. So while it
traces, both are operators, which run when the compiled graph runs. An exported program gets them as constants, and where its
height or width is dynamic, as these operators too: whoever runs it imports `beit`.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from beit.core import geometry, resampling

Grid = tuple[int, int]

# Attention kernels on GPUs read a bias twice as fast when its rows begin at multiples of 16 bytes.
ROW = 8


def relative_position_index(grid: Grid, device: torch.device) -> Tensor:
    """`geometry.relative_position_index`, int64 `(1 + h·w, 1 + h·w)`, padded with unused columns to a multiple of `ROW`."""
    if torch.compiler.is_dynamo_compiling() or _is_symbolic(*grid):
        return _index_operator(*grid, device)
    if torch.compiler.is_compiling():  # for export: the tracer's tensors must not outlive it, so nothing is kept
        return _index(grid).to(device)
    return _kept_index(grid, device)


def table_weights(have: int, want: int, device: torch.device) -> Tensor:
    """`resampling.table_weights`, float32 `(2·want-1, 2·have-1)`."""
    if torch.compiler.is_dynamo_compiling() or _is_symbolic(want):
        return _table_weights_operator(have, want, device)
    if torch.compiler.is_compiling():
        return torch.tensor(resampling.table_weights(have, want), device="cpu").to(device)
    return _kept_table_weights(have, want, device)


def same_grid(grid: Grid, own: Grid) -> bool:
    """Whether images have the grid `own`; False where an exported program leaves it open: what resizes then serves every grid."""
    return not _is_symbolic(*grid) and grid == own


def plain_grid(grid: Grid) -> Grid:
    """Numbers for the sides, which are tensors while `torch.jit.trace` follows a model; what an export leaves open stays open."""
    return grid if _is_symbolic(*grid) else (int(grid[0]), int(grid[1]))


def _is_symbolic(*sides: int) -> bool:
    return any(isinstance(side, torch.SymInt) for side in sides)


@functools.lru_cache(maxsize=8)
def _kept_index(grid: Grid, device: torch.device) -> Tensor:
    """One index for all layers: at 640 pixels it takes 20 MB."""
    # Built outside inference mode: the first caller may run inside it, later ones may need gradients through the result.
    with torch.inference_mode(False):
        return _index(grid).to(device)


@functools.lru_cache(maxsize=64)
def _kept_table_weights(have: int, want: int, device: torch.device) -> Tensor:
    """Kept on the device: a copy to a GPU would wait for all work queued there."""
    with torch.inference_mode(False):
        return torch.tensor(resampling.table_weights(have, want), device="cpu").to(device)


def _index(grid: Grid) -> Tensor:
    index = torch.tensor(geometry.relative_position_index(grid), device="cpu")
    return F.pad(index, (0, -index.shape[1] % ROW))


# --- the same as operators, for torch.compile ------------------------------------------------------------------------


@torch.library.custom_op("beit::relative_position_index", mutates_args=())
def _index_operator(height: int, width: int, device: torch.device) -> Tensor:
    return _kept_index((height, width), device).clone()  # a compiled graph may write into its inputs


@torch.library.custom_op("beit::table_weights", mutates_args=())
def _table_weights_operator(have: int, want: int, device: torch.device) -> Tensor:
    return _kept_table_weights(have, want, device).clone()


@_index_operator.register_fake
def _(height: int, width: int, device: torch.device) -> Tensor:
    tokens = 1 + height * width
    return torch.empty(tokens, (tokens + ROW - 1) // ROW * ROW, dtype=torch.int64, device=device)


@_table_weights_operator.register_fake
def _(have: int, want: int, device: torch.device) -> Tensor:
    return torch.empty(2 * want - 1, 2 * have - 1, device=device)

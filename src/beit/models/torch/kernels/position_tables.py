"""What follows from the size of images alone, as tensors on a device: `geometry.py` and `resize.py` for PyTorch.

Computed by numpy once for a size and kept. For `torch.compile` both are operators of their own: it could not follow how numpy
makes them, and leaves height and width open from the second size on. An exported program gets them as constants.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from beit.core import geometry, resampling

Grid = tuple[int, int]

# GPU kernels of attention read a bias twice as fast when its rows begin at multiples of 16 bytes.
ROW = 8


@functools.lru_cache(maxsize=8)
def _kept_index(grid: Grid, device: torch.device) -> Tensor:
    """One for all layers: at 640 pixels it takes 20 MB."""
    with torch.inference_mode(False):  # whoever asks first, others may want gradients through it
        return _index(grid).to(device)


@functools.lru_cache(maxsize=64)
def _kept_table_weights(have: int, want: int, device: torch.device) -> Tensor:
    """One for all layers, and there once: a copy to a GPU would wait for all that it has to do."""
    with torch.inference_mode(False):
        return torch.tensor(resampling.table_weights(have, want), device="cpu").to(device)


def _index(grid: Grid) -> Tensor:
    index = torch.tensor(geometry.relative_position_index(grid), device="cpu")
    return F.pad(index, (0, -index.shape[1] % ROW))


@torch.library.custom_op("beit::relative_position_index", mutates_args=())
def _index_operator(height: int, width: int, device: torch.device) -> Tensor:
    return _kept_index((height, width), device).clone()  # a compiled graph may write into what it was given


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


def relative_position_index(grid: Grid, device: torch.device) -> Tensor:
    """`geometry.relative_position_index`, int64 `(1 + h·w, 1 + h·w)` and columns that nobody reads up to a multiple of `ROW`."""
    if torch.compiler.is_dynamo_compiling():
        return _index_operator(*grid, device)
    if torch.compiler.is_compiling():  # exported: what such a tracer makes must not be kept
        return _index(grid).to(device)
    return _kept_index(grid, device)


def table_weights(have: int, want: int, device: torch.device) -> Tensor:
    """`resize.table_weights`, float32 `(2·want-1, 2·have-1)`."""
    if torch.compiler.is_dynamo_compiling():
        return _table_weights_operator(have, want, device)
    if torch.compiler.is_compiling():
        return torch.tensor(resampling.table_weights(have, want), device="cpu").to(device)
    return _kept_table_weights(have, want, device)

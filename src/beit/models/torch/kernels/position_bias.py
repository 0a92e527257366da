"""The relative-position bias between encoder, layers and attention: one object, built once for all layers that share it.

The formula is `bias[head, i, j] = table[index[i, j], head]`; `BeitRelativePositionBias` holds the table. Here is what makes it
fast, and exact in every number type:

- `gather` lays the bias out in memory as attention kernels like to read it;
- `resize_table` brings a table to another grid of patches, in float32 even in half precision and under autocast;
- `KeptBiases` keeps what was built, on a CPU without gradients, until the table changes;
- `PositionBias` is the sum of the shared bias and a layer's own, as attention takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from beit.core import resampling
from beit.models.torch.kernels.position_tables import Grid, table_weights

# One table keeps the biases of several image sizes, as long as they take 16 MiB together; of larger ones only the newest,
# because each layer may have a table of its own.
_MOST_KEPT, _MOST_KEPT_NUMBERS = 4, 1 << 22


class RelativePosition(Protocol):
    """What `PositionBias` asks of `BeitRelativePositionBias`."""

    def __call__(
        self, grid: Grid | None = None, dtype: torch.dtype | None = None, as_table: bool = False
    ) -> Tensor: ...


class PositionBias(NamedTuple):
    """What attention adds to its scores, for images of one grid of patches.

    A tuple, so that gradient checkpointing, `fully_shard` and compilers see the tensor inside.

    Attributes:
        grid: patches `(h, w)` of the images.
        by_head: whether attention goes head by head. It reads the bias from the table, so only tables are added up here.
        total: the sum so far: the bias `(1, heads, 1+N, 1+N)`, or with `by_head` the table `(rows, heads)`; None for none.
    """

    grid: Grid
    by_head: bool = False
    total: Tensor | None = None

    def plus(self, part: RelativePosition, dtype: torch.dtype) -> PositionBias:
        """This bias and that of another table. Both are in `dtype`, the type of the queries."""
        more = part(self.grid, dtype, self.by_head)
        return PositionBias(self.grid, self.by_head, more if self.total is None else self.total + more)

    def dense(self, dtype: torch.dtype) -> Tensor | None:
        """`(1, heads, 1+N, 1+N)` in `dtype`, or None; not with `by_head`."""
        assert not self.by_head
        return None if self.total is None else self.total.to(dtype)


def gather(table: Tensor, index: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`table (rows, heads)`, `index (T, T and padding)` → `(1, heads, T, T)` in `dtype` (by default that of the table).

    In memory its rows lie as far apart as those of the index: see `position_tables.ROW`.
    """
    # Gathering from the transposed table puts the heads in front without a second copy.
    bias = table.t().index_select(1, index.view(-1)).view(1, -1, *index.shape)
    # Cast before the padding is cut off: casting what is left would close the gaps between rows.
    bias = bias.to(dtype or table.dtype)
    return bias[..., : index.shape[0]]


def resize_table(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """A table of the grid `old` for the grid `new`, by `core/resampling.py`: `(rows, heads)` → `((2h-1)(2w-1)+3, heads)`."""
    device = table.device
    rows, columns = (table_weights(have, want, device) for have, want in zip(old, new, strict=True))
    # Neighbours in a resized table differ by little: half precision would make them equal.
    exact = torch.promote_types(table.dtype, torch.float32)
    with _without_autocast(device.type):
        x = table[: -resampling.OTHERS].to(exact).unflatten(0, (rows.shape[1], columns.shape[1]))
        x = (rows.to(exact) @ x.flatten(1)).unflatten(1, x.shape[1:])  # (2h-1, columns of the table, heads)
        x = columns.to(exact) @ x
    return torch.cat((x.flatten(0, 1).to(table.dtype), table[-resampling.OTHERS :]))


def product_dtype(x: Tensor) -> torch.dtype:
    """The type that a linear layer returns for `x`: under autocast another than that of `x`."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    # The meta device has no autocast. `torch.amp.is_autocast_available` would say so, but not every compiler follows it.
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


class KeptBiases:
    """The biases built from one table, one for each grid, kept until the table changes."""

    def __init__(self) -> None:
        # (a copy of the table, grid → bias). Replaced as a whole and never changed, because other threads may read it.
        self.kept: tuple[Tensor, dict[Grid, Tensor]] | None = None

    @staticmethod
    def applies(table: Tensor) -> bool:
        """Whether to keep biases of `table`: on a CPU, without gradients, when nothing traces the model.

        Elsewhere, comparing the table would wait for the device and cost more than it saves.
        """
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        return not (torch.is_grad_enabled() or traced or table.device.type != "cpu")

    def get(self, table: Tensor, grid: Grid, build: Callable[[Grid], Tensor]) -> Tensor:
        """The bias for `grid`: the kept one while `table` holds the same numbers, else a new one by `build(grid)`."""
        kept = self.kept
        # Numbers are compared, because nothing else shows a change: fused optimisers and writes through `.data` leave a
        # tensor's version as it is.
        if kept is not None and (kept[0].dtype != table.dtype or not torch.equal(kept[0], table)):
            kept = None
        if kept is None or grid not in kept[1]:
            with torch.inference_mode(False), torch.no_grad():
                copy, biases = (table.clone(), {}) if kept is None else kept
                biases = {**biases, grid: build(grid)}
            while len(biases) > 1 and (
                len(biases) > _MOST_KEPT or sum(map(Tensor.numel, biases.values())) > _MOST_KEPT_NUMBERS
            ):
                del biases[next(iter(biases))]  # the oldest
            kept = self.kept = copy, biases
        return kept[1][grid]

    def __getstate__(self) -> dict[str, Any]:
        return {"kept": None}  # copies and pickles build their own

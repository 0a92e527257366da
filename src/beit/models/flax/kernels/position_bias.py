"""The relative-position bias between encoder, layers and attention; the twin of `models/torch/kernels/position_bias.py`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from beit.core import resampling

Array = jax.Array
Grid = tuple[int, int]


@struct.dataclass
class PositionBias:
    """What attention adds to its scores, for images of one grid of patches.

    A pytree with a constant, so that `nn.remat` recomputes with the same grid.

    Attributes:
        grid: patches `(h, w)` of the images.
        total: the sum so far, `(1, heads, 1+N, 1+N)`; None for none.
    """

    grid: Grid = struct.field(pytree_node=False)
    total: Array | None = None

    def plus(self, part: Callable[[Grid], Array]) -> PositionBias:
        """This bias and that of another table."""
        more = part(self.grid)
        return PositionBias(self.grid, more if self.total is None else self.total + more)

    def dense(self, dtype: jnp.dtype) -> Array | None:
        """`(1, heads, 1+N, 1+N)` in `dtype`, or None."""
        return None if self.total is None else self.total.astype(dtype)


def gather(table: Array, index: np.ndarray) -> Array:
    """`table (rows, heads)`, `index (T, T)` → `(1, heads, T, T)`."""
    # Copying whole rows of the table, and adding up their gradients, is several times faster than single numbers.
    return table[index.reshape(-1)].reshape(*index.shape, table.shape[1]).transpose(2, 0, 1)[None]


def resize_table(table: Array, old: Grid, new: Grid) -> Array:
    """A table of the grid `old` for the grid `new`, by `core/resampling.py`: `(rows, heads)` → `((2h-1)(2w-1)+3, heads)`."""
    rows, columns = (resampling.table_weights(have, want) for have, want in zip(old, new, strict=True))
    # Neighbours in a resized table differ by little: half precision would make them equal.
    x = table[: -resampling.OTHERS].astype(jnp.promote_types(table.dtype, jnp.float32))
    x = x.reshape(rows.shape[1], columns.shape[1], -1)
    x = jnp.einsum("yh,xw,hwc->yxc", jnp.asarray(rows), jnp.asarray(columns), x, precision="highest")
    x = x.reshape(-1, table.shape[1]).astype(table.dtype)
    return jnp.concatenate((x, table[-resampling.OTHERS :]))

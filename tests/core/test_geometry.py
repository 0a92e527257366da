"""Patch grids and the relative-position index, against a loop."""

from __future__ import annotations

import numpy as np
import pytest

from beit import ConfigError
from beit.core import geometry


def by_loop(height: int, width: int) -> np.ndarray:
    """The index by its definition: displacements numbered as they are first met in a raster of (dy, dx)."""
    numbers = {}
    for dy in range(-(height - 1), height):
        for dx in range(-(width - 1), width):
            numbers[dy, dx] = len(numbers)
    rows = len(numbers) + 3
    tokens = 1 + height * width
    index = np.zeros((tokens, tokens), int)
    for q in range(tokens):
        for k in range(tokens):
            if q and k:
                (qy, qx), (ky, kx) = divmod(q - 1, width), divmod(k - 1, width)
                index[q, k] = numbers[qy - ky, qx - kx]
            else:
                index[q, k] = rows - 1 if q == k else rows - 3 if q == 0 else rows - 2
    return index


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (4, 1), (2, 2), (3, 5), (5, 3), (6, 6)])
def test_index_is_its_definition(grid: tuple[int, int]) -> None:
    index = geometry.relative_position_index(grid)
    assert index.dtype == np.int64
    np.testing.assert_array_equal(index, by_loop(*grid))
    assert index.max() == geometry.num_relative_distances(grid) - 1
    assert len(np.unique(index[1:, 1:])) == geometry.num_relative_distances(grid) - 3


def test_index_of_the_paper() -> None:
    assert geometry.num_relative_distances((14, 14)) == 732
    index = geometry.relative_position_index((14, 14))
    assert index.shape == (197, 197)
    assert (np.diag(index)[1:] == 364).all()  # no displacement: the middle row
    assert (index[0, 0], index[0, 1], index[1, 0]) == (731, 729, 730)


def test_index_is_shared_and_read_only() -> None:
    index = geometry.relative_position_index((3, 4))
    assert geometry.relative_position_index((3, 4)) is index
    with pytest.raises(ValueError, match="read-only"):
        index[0, 0] = 0


@pytest.mark.parametrize(
    ("image", "patch", "grid"),
    [(224, 16, (14, 14)), ((32, 48), 16, (2, 3)), ((32, 48), (8, 16), (4, 3)), (16, 16, (1, 1))],
)
def test_patch_grid(image: geometry.Size, patch: geometry.Size, grid: tuple[int, int]) -> None:
    assert geometry.patch_grid(image, patch) == grid


@pytest.mark.parametrize(
    ("image", "patch", "advice"),
    [
        (225, 16, "224x224"),
        ((32, 40), 16, "32x32"),
        (8, 16, "16x16"),
        (0, 4, "4x4"),
        (16, 0, "patch"),
        (16, -1, "patch"),
    ],
)
def test_impossible_grid(image: geometry.Size, patch: geometry.Size, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        geometry.patch_grid(image, patch)


def test_pair() -> None:
    assert geometry.pair(3) == (3, 3)
    assert geometry.pair([3, 4]) == (3, 4)
    with pytest.raises(ValueError, match="unpack"):
        geometry.pair((1, 2, 3))  # type: ignore[arg-type]

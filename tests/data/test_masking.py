"""Masks: the authors' distribution, exact budgets, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from beit import ConfigError
from beit.data.masking import BlockMask, RandomMask


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    rng, mask = np.random.default_rng(0), BlockMask((14, 14), 75)
    return np.stack([mask(rng) for _ in range(3000)])


def test_counts_of_the_authors(draws: np.ndarray) -> None:
    counts = draws.sum((1, 2))
    assert counts.mean() == pytest.approx(74.5, abs=0.2)
    assert counts.max() == 75
    assert 58 <= counts.min() < 70
    assert (counts == 75).mean() == pytest.approx(0.68, abs=0.03)


def test_masks_lie_everywhere_and_are_blocky(draws: np.ndarray) -> None:
    assert draws.shape == (3000, 14, 14)
    assert draws.dtype == bool
    often = draws.mean(0)
    assert often.min() > 0.02  # corners are rare: few rectangles reach them
    assert often[4:10, 4:10].mean() > often[[0, -1]].mean()
    # Symmetric: neither rows and columns nor ends of either are treated differently.
    for mirrored in (often[::-1], often[:, ::-1], often.T):
        assert np.abs(often - mirrored).max() < 0.07
    # Of two neighbours, both or none are masked far more often than at random (where it is 53 % at a budget of 75).
    agreement = (draws[:, :, 1:] == draws[:, :, :-1]).mean()
    assert agreement > 0.75
    rng, random = np.random.default_rng(0), RandomMask((14, 14), 75)
    scattered = np.stack([random(rng) for _ in range(300)])
    assert (scattered[:, :, 1:] == scattered[:, :, :-1]).mean() == pytest.approx(0.53, abs=0.02)


def test_one_block_is_a_rectangle() -> None:
    rng = np.random.default_rng(1)
    shapes = set()
    for _ in range(300):
        mask = np.zeros((14, 14), bool)
        added = BlockMask((14, 14), 75)._add_block(mask, 75, rng)
        assert added == mask.sum() > 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert height * width == added
        assert 12 <= added <= 75
        assert 0.2 < height / width < 5
        shapes.add((height, width))
    assert len(shapes) > 30


def test_a_seed_gives_one_mask() -> None:
    mask = BlockMask((14, 14), 75)
    first, again, other = (mask(np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("grid", [(14, 14), (7, 7), (6, 20), (3, 9), (4, 4)])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.75, 1.0])
def test_exact_budget(grid: tuple[int, int], share: float) -> None:
    budget = max(1, int(share * grid[0] * grid[1]))
    mask = BlockMask(grid, budget, min_block=min(4, budget), exact=True)
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = mask(rng)
        assert drawn.shape == grid
        assert drawn.sum() == budget


@pytest.mark.parametrize(("budget", "min_block"), [(16, 16), (17, 16), (4, 4), (1, 1), (20, 9)])
def test_never_empty_and_never_above_the_budget(budget: int, min_block: int) -> None:
    rng, mask = np.random.default_rng(0), BlockMask((14, 14), budget, min_block=min_block)
    for _ in range(200):
        assert 0 < mask(rng).sum() <= budget


def test_largest_block() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        mask = np.zeros((14, 14), bool)
        assert 0 < BlockMask((14, 14), 75, max_block=20)(rng).sum() <= 75
        most = BlockMask((14, 14), 20, max_block=20)
        most._add_block(mask, 20, rng)
        assert mask.sum() <= 20


def test_random_mask() -> None:
    rng, mask = np.random.default_rng(0), RandomMask((4, 6), 9)
    drawn = np.stack([mask(rng) for _ in range(2000)])
    assert drawn.shape == (2000, 4, 6)
    assert (drawn.sum((1, 2)) == 9).all()
    np.testing.assert_allclose(drawn.mean(0), 9 / 24, atol=0.05)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"grid": (14, 14), "budget": 0}, "14x14 = 196"),
        ({"grid": (14, 14), "budget": 197}, "197.*40 %"),
        ({"grid": (14, 14), "budget": 10}, r"10 patches.*below the smallest block \(16\)"),
        ({"grid": (14, 14), "budget": 20, "min_block": 0}, "min_block is 0; it must be at least 1"),
        ({"grid": (14, 14), "budget": 75, "min_aspect": 0.0}, "min_aspect is 0.0"),
        ({"grid": (14, 14), "budget": 75, "min_aspect": 1.5}, "min_aspect is 1.5"),
        ({"grid": (14, 14), "budget": 75, "max_block": 8}, r"max_block \(8\).*min_block \(16\)"),
        ({"grid": (4, 4), "budget": 16, "min_block": 10}, "No block of 10 patches fits a grid of 4x4"),
        ({"grid": (1, 30), "budget": 5, "min_block": 2}, "grid of 1x30"),
    ],
)
def test_refusals(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BlockMask(**settings)


def test_blocks_that_never_fit_are_refused_and_not_tried_for_ever() -> None:
    with pytest.raises(ConfigError, match="No block of 5 to 5 patches"):
        BlockMask((2, 30), 5, min_block=5, min_aspect=1.0)(np.random.default_rng(0))


@pytest.mark.parametrize("budget", [0, 25])
def test_random_refusals(budget: int) -> None:
    with pytest.raises(ConfigError, match="4x6"):
        RandomMask((4, 6), budget)

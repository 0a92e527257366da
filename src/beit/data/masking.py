"""Where masks are made: which patches to mask, block-wise (BEiT, section 2.3 and algorithm 1) or at random. Numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from beit.core.errors import ConfigError

if TYPE_CHECKING:
    from beit.config import BeitConfig

_TRIES = 10  # for one block, as in the authors' code
_MOST_MASKS = 1000  # empty masks in a row, after which no block is said to fit
_PAPER_MIN_BLOCK = 16 / 196  # of the patches


class MaskSettings(Protocol):
    """The settings of a run that decide its masks; see `beit.train.settings.PretrainSettings`."""

    @property
    def mask(self) -> str:
        """`block` or `random`."""

    @property
    def mask_ratio(self) -> float:
        """Fraction of the patches to mask."""

    @property
    def min_block(self) -> int | None:
        """Fewest patches of a block; None for the paper's 16 of 196, in proportion."""


def make_mask(settings: MaskSettings, config: BeitConfig) -> BlockMask | RandomMask:
    """The kind of mask that the settings name, for the patch grid of `config`."""
    budget, min_block = mask_sizes(settings, config)
    return BlockMask(config.grid, budget, min_block) if settings.mask == "block" else RandomMask(config.grid, budget)


def mask_sizes(settings: MaskSettings, config: BeitConfig) -> tuple[int, int]:
    """(patches to mask, fewest patches of a block). By default the paper's 75 and 16 of 196, in proportion."""
    patches = config.num_patches
    min_block = settings.min_block if settings.min_block is not None else max(round(_PAPER_MIN_BLOCK * patches), 1)
    return max(round(settings.mask_ratio * patches), 1), min_block


@dataclass(frozen=True)
class BlockMask:
    """Draws block-wise masks.

    Rectangles are added until `budget` patches are masked. As in the authors' code (microsoft/unilm,
    beit/masking_generator.py), a block may overlap earlier ones; it must add at least one patch, and at most what is left
    of the budget; and when ten tries in a row fail, the mask is left as it is. So the count is not exact: on a 14x14 grid
    with a budget of 75 the mean is 74.5, and 68 % of the masks have exactly 75. `exact=True` then adds or removes random
    patches, as BEiT v2 does.

    Attributes:
        grid: rows and columns of patches `(h, w)`.
        budget: number of patches to mask; about 40 % of the grid in the paper.
        min_block: fewest patches of a block.
        max_block: most patches of a block; None for the budget.
        min_aspect: smallest aspect ratio of a block; the largest is its inverse.
        exact: mask exactly `budget` patches.

    Raises:
        ConfigError: the budget is below the smallest block (masks would be empty and the loss NaN) or above the grid, or no
            block fits.
    """

    grid: tuple[int, int]
    budget: int
    min_block: int = 16
    max_block: int | None = None
    min_aspect: float = 0.3
    exact: bool = False

    def __post_init__(self) -> None:
        height, width = self.grid
        if not 0 < self.budget <= height * width:
            raise ConfigError(
                f"A mask budget of {self.budget} patches does not fit a grid of {height}x{width} = {height * width}. "
                "Choose about 40 % of the grid."
            )
        if self.min_block < 1:
            raise ConfigError(f"min_block is {self.min_block}; it must be at least 1.")
        if self.budget < self.min_block:
            raise ConfigError(
                f"The mask budget ({self.budget} patches) is below the smallest block ({self.min_block}): masks would "
                "be empty. Raise the budget or lower the smallest block."
            )
        if not 0 < self.min_aspect <= 1:
            raise ConfigError(f"min_aspect is {self.min_aspect}; it must lie in (0, 1].")
        if self.max_block is not None and self.max_block < self.min_block:
            raise ConfigError(f"max_block ({self.max_block}) is below min_block ({self.min_block}).")
        if self.min_block > (height - 1) * (width - 1):
            raise ConfigError(
                f"No block of {self.min_block} patches fits a grid of {height}x{width} (a block is smaller than the "
                "grid on both sides). Lower min_block."
            )

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        """One mask: bool `(h, w)`, True where masked; never empty.

        Raises:
            ConfigError: no block of the allowed sizes and aspect ratios fits the grid.
        """
        height, width = self.grid
        mask = np.zeros(self.grid, dtype=bool)
        for _ in range(_MOST_MASKS):
            masked = 0
            while masked < self.budget:
                most = self.budget - masked
                if self.max_block is not None:
                    most = min(most, self.max_block)
                added = self._add_block(mask, most, rng)
                if added == 0:
                    break
                masked += added
            # Ten unlucky tries for the very first block leave the mask empty, and an empty mask has no loss: start again.
            if masked:
                return self._exactly_budget(mask, rng) if self.exact else mask
        raise ConfigError(
            f"No block of {self.min_block} to {self.budget} patches with aspect ratios down to {self.min_aspect} fits a "
            f"grid of {height}x{width}. Lower min_block or min_aspect."
        )

    def _add_block(self, mask: np.ndarray, most: int, rng: np.random.Generator) -> int:
        """Mask a block that adds 1 to `most` patches. Returns how many it added; 0 if ten tries fail."""
        height, width = self.grid
        log_aspect = math.log(self.min_aspect)
        for _ in range(_TRIES):
            # `most` may be below `min_block`, since little of the budget is left. The authors draw between them all the same.
            area = self.min_block + (most - self.min_block) * rng.random()
            aspect = math.exp(log_aspect * (2 * rng.random() - 1))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < 1 or w < 1 or h >= height or w >= width:
                continue
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            block = mask[top : top + h, left : left + w]
            added = h * w - int(block.sum())
            if 0 < added <= most:
                block[:] = True
                return added
        return 0

    def _exactly_budget(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mask or unmask random patches, in place, until `budget` are masked."""
        flat = mask.reshape(-1)
        excess = int(flat.sum()) - self.budget
        change = np.flatnonzero(flat if excess > 0 else ~flat)
        flat[rng.choice(change, abs(excess), replace=False)] = excess < 0
        return mask


@dataclass(frozen=True)
class RandomMask:
    """Draws masks of exactly `budget` patches, chosen uniformly, for comparison with block-wise masks.

    Attributes:
        grid: rows and columns of patches `(h, w)`.
        budget: number of patches to mask.

    Raises:
        ConfigError: the budget is not between 1 and the number of patches.
    """

    grid: tuple[int, int]
    budget: int

    def __post_init__(self) -> None:
        if not 0 < self.budget <= self.grid[0] * self.grid[1]:
            raise ConfigError(f"A mask budget of {self.budget} does not fit a grid of {self.grid[0]}x{self.grid[1]}.")

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        """One mask: bool `(h, w)`, True where masked."""
        mask = np.zeros(self.grid[0] * self.grid[1], dtype=bool)
        mask[rng.choice(mask.size, self.budget, replace=False)] = True
        return mask.reshape(self.grid)

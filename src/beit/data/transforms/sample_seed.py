"""Where all random choices for an image come from: which run, which pass over the image, which image. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draw:
    """What the random choices for one image in one pass follow from, whichever process or worker makes them.

    Attributes:
        seed: of the run.
        visit: which pass over the image, counted from 0.
        key: which image: its number, or 63 bits of a hash of its name.
    """

    seed: int
    visit: int
    key: int

    def rng(self, purpose: int = 0) -> np.random.Generator:
        """A fresh Generator, the same in each call; another `purpose` gives one that knows nothing of the first."""
        words = (self.seed, self.visit, self.key)
        return np.random.default_rng((*words, purpose) if purpose else words)

"""The seed of all random choices for one image: which run, which pass over the images, which image. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SampleSeed:
    """What the crop, flip, colours and mask of one image in one pass follow from, whichever process makes them.

    Attributes:
        seed: of the run.
        pass_index: which pass over the images (epoch), counted from 0.
        key: which image: its number, or 63 bits of a hash of its name.
    """

    seed: int
    pass_index: int
    key: int

    def rng(self, purpose: int = 0) -> np.random.Generator:
        """A fresh Generator, the same at every call. Generators of different purposes are independent."""
        words = (self.seed, self.pass_index, self.key)
        return np.random.default_rng((*words, purpose) if purpose else words)

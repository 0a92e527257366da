"""In which order the images of a folder or an array come."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from beit.core.errors import ConfigError
from beit.data.sources.images import Images
from beit.data.sources.stream import Stream

if TYPE_CHECKING:
    from beit.train.settings import RunSettings


@dataclass(frozen=True)
class Order:
    """Which images make up which step.

    Attributes:
        total: number of images; of a stream those that count as an epoch, None if nobody says.
        batch_size: images a step, over all processes; with fewer images than that, all of them.
        seed: chooses the permutations.
    """

    total: int | None
    batch_size: int
    seed: int

    @classmethod
    def of(cls, images: Images | Stream, settings: RunSettings) -> Order:
        """The order of a run with these settings on these images.

        Raises:
            ConfigError: nobody says when a run on a stream is over.
        """
        if not isinstance(images, Stream):
            return cls(len(images), min(settings.batch_size, len(images)), settings.seed)
        total = settings.images_per_epoch or images.shards.total
        if total is None and settings.steps is None:
            raise ConfigError(
                "Nobody knows how many images the stream has. Give --steps; or --images-per-epoch, and then --epochs counts."
            )
        return cls(total, settings.batch_size, settings.seed)

    @property
    def steps_per_epoch(self) -> int | None:
        """Whole batches in an epoch; what does not fill a batch waits for another epoch's permutation."""
        return None if self.total is None else max(self.total // self.batch_size, 1)

    def indices(self, step: int) -> tuple[int, np.ndarray]:
        """(epoch, image numbers) of step `step`, counted from 0. Not of a stream."""
        assert self.total is not None
        assert self.steps_per_epoch is not None
        epoch, batch = divmod(step, self.steps_per_epoch)
        chosen = _permutation(self.total, self.seed, epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]
        return epoch, chosen.astype(np.int64)


@lru_cache(maxsize=1)  # every step of an epoch asks for it, in each worker: with half the bytes where that is enough
def _permutation(total: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch)).permutation(total)
    return order.astype(np.int32) if total < 2**31 else order

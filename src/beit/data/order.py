"""In which order the images of a folder or an array come. A stream's order is in `stream_order.py`.

Each epoch is a permutation drawn from (seed, epoch), so any step's images follow from (seed, step) alone: a run can be
resumed at any step, and the workers need not talk to each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from beit.core.errors import ConfigError
from beit.data.sources.images import Images
from beit.data.sources.stream import Stream


class OrderSettings(Protocol):
    """The settings of a run that decide its order; see `beit.train.settings.RunSettings`."""

    @property
    def batch_size(self) -> int:
        """Images per step, over all processes."""

    @property
    def seed(self) -> int:
        """Seed of the permutations."""

    @property
    def steps(self) -> int | None:
        """Length of the run; None if `epochs` counts."""

    @property
    def images_per_epoch(self) -> int | None:
        """Of a stream: how many images count as an epoch."""


@dataclass(frozen=True)
class Order:
    """Which images make up which step.

    Attributes:
        total: number of images; of a stream the number that counts as an epoch, None if it is unknown.
        batch_size: images per step, over all processes; all images if there are fewer.
        seed: seed of the permutations.
        labels: class numbers of the images as bytes of int64, for epochs that draw all classes equally often; None for epochs that
            draw each image once.
    """

    total: int | None
    batch_size: int
    seed: int
    labels: bytes | None = None

    @classmethod
    def of(cls, images: Images | Stream, settings: OrderSettings, balanced: bool = False) -> Order:
        """The order of a run with these settings on these images; `balanced` draws all their classes equally often.

        Raises:
            ConfigError: nothing says when a run on a stream is over.
        """
        if not isinstance(images, Stream):
            labels = images.labels.tobytes() if balanced and images.labels is not None else None
            return cls(len(images), min(settings.batch_size, len(images)), settings.seed, labels)
        total = settings.images_per_epoch or images.shards.total
        if total is None and settings.steps is None:
            raise ConfigError(
                "The number of images in the stream is unknown, so the run has no end. Give --steps; or --images-per-epoch, "
                "and then --epochs counts."
            )
        return cls(total, settings.batch_size, settings.seed)

    @property
    def steps_per_epoch(self) -> int | None:
        """Whole batches per epoch. Images that fill no batch are left out of this epoch's permutation."""
        return None if self.total is None else max(self.total // self.batch_size, 1)

    def indices(self, step: int) -> tuple[int, np.ndarray]:
        """(epoch, image numbers `(batch_size,)` int64) of a step, counted from 0. Not for streams."""
        assert self.total is not None
        assert self.steps_per_epoch is not None
        epoch, batch = divmod(step, self.steps_per_epoch)
        chosen = _permutation(self.total, self.seed, epoch, self.labels)[
            batch * self.batch_size : (batch + 1) * self.batch_size
        ]
        return epoch, chosen.astype(np.int64)

    def share(self, step: int, rank: int, world: int) -> tuple[int, np.ndarray]:
        """(epoch, image numbers) of a step for process `rank` of `world`: its contiguous part of `indices`."""
        epoch, indices = self.indices(step)
        share = len(indices) // world
        return epoch, indices[rank * share : (rank + 1) * share]


# Each worker looks up every step in the permutation of its epoch, so it is kept: as int32 where that is enough, which
# halves its memory for millions of images.
@lru_cache(maxsize=1)
def _permutation(total: int, seed: int, epoch: int, labels: bytes | None = None) -> np.ndarray:
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(total) if labels is None else _balanced(np.frombuffer(labels, np.int64), rng)
    return order.astype(np.int32) if total < 2**31 else order


def _balanced(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many images as there are, of each class the same number but for one: each image of a class once before one comes again."""
    groups = [np.flatnonzero(labels == number) for number in np.unique(labels)]
    most = -(-len(labels) // len(groups))
    drawn = [np.concatenate([rng.permutation(group) for _ in range(-(-most // len(group)))])[:most] for group in groups]
    # Class by class in turn, so that the cut at the end takes at most one image of each.
    return rng.permutation(np.stack(drawn, 1).reshape(-1)[: len(labels)])

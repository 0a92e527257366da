"""In which order images come, in batches. Any step's batch follows from (seed, step) alone, so a run can be resumed.

Each epoch is a permutation drawn from (seed, epoch); each image's crop, flip and mask from (seed, epoch, image), those of
a batch of small images from (seed, epoch, step, process). In data-parallel runs every process takes its slice of each
batch.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from beit.data.images import ArrayImages, BadImages, Images
from beit.errors import DataError, InputError

Batch = dict[str, Tensor]


class Views(Protocol):
    """Turns images into model inputs, one by one."""

    def one(self, image: Image.Image, label: Any, rng: np.random.Generator) -> Batch:
        """Inputs of one image and its target (`Images.target`), without the batch dimension."""
        ...


class BatchViews(Views, Protocol):
    """Turns a whole batch of small images into model inputs at once, too; `ArrayImages` need it."""

    def batch(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Batch:
        """Inputs of a batch: `images` float32 `(B, 3, H, W)` in [0, 1], `labels` int64 `(B,)`."""
        ...


@dataclass(frozen=True)
class Order:
    """Which images make up which step.

    Attributes:
        total: number of images.
        batch_size: images a step, over all processes; with fewer images than that, all of them.
        seed: chooses the permutations.
    """

    total: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; what does not fill a batch waits for another epoch's permutation."""
        return max(self.total // self.batch_size, 1)

    def indices(self, step: int) -> tuple[int, np.ndarray]:
        """(epoch, image numbers) of step `step`, counted from 0."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return epoch, _permutation(self.total, self.seed, epoch)[
            batch * self.batch_size : (batch + 1) * self.batch_size
        ]


@lru_cache(maxsize=2)  # every step of an epoch asks for it
def _permutation(total: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(total)


class Loader:
    """Batches from any step on.

    Args:
        images: where they come from. `ArrayImages` are changed a batch at a time, others one by one in `workers`.
        views: what is done to them; `BatchViews` for `ArrayImages`.
        order: which come when.
        workers: processes that read and change images; 0 for none beside this one.
        rank: number of this process among `world` data-parallel ones.
        world: number of data-parallel processes; must divide the batch.
        bad: takes note of images that cannot be read; their place is taken by the next one.

    Raises:
        DataError: the batch cannot be divided among the processes.
        InputError (from `batches`): a target is not what it should be; unlike a damaged file, it ends the run.
    """

    def __init__(
        self,
        images: Images,
        views: Views | BatchViews,
        order: Order,
        bad: BadImages,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if min(order.batch_size, order.total) % world:
            raise DataError(f"A batch of {order.batch_size} cannot be divided among {world} processes.")
        self.images, self.views, self.order, self.bad = images, views, order, bad
        self.workers, self.rank, self.world = workers, rank, world

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps `first` … `last`-1."""
        if isinstance(self.images, ArrayImages):
            for step in range(first, last):
                yield self._from_array(self.images, step)
            return
        loader: DataLoader[Any] = DataLoader(
            _Samples(self.images, self.views, self.order.seed),
            batch_sampler=_Steps(self, first, last),
            num_workers=self.workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_signals,
        )
        batches = iter(loader)
        try:
            for batch, reasons, wrong in batches:
                if wrong is not None:
                    raise InputError(wrong)
                if batch is None:
                    raise DataError("None of the images can be read:\n" + "\n".join(reasons[:10]))
                for reason in reasons:
                    self.bad.add(reason)
                yield batch
        finally:
            # Workers ignore signals, so an error must not leave them to be ended by one when Python exits.
            end = getattr(batches, "_shutdown_workers", None)
            if end is not None:
                end()

    def slice(self, step: int) -> tuple[int, np.ndarray]:
        """(epoch, image numbers) of this process in step `step`."""
        epoch, indices = self.order.indices(step)
        share = len(indices) // self.world
        return epoch, indices[self.rank * share : (self.rank + 1) * share]

    def _from_array(self, images: ArrayImages, step: int) -> Batch:
        epoch, indices = self.slice(step)
        rng = np.random.default_rng((self.order.seed, epoch, step, self.rank))
        pixels = torch.from_numpy(images.array[indices]).permute(0, 3, 1, 2).float().div_(255)
        labels = np.zeros(len(indices), np.int64) if images.labels is None else images.labels[indices]
        return cast(BatchViews, self.views).batch(pixels, torch.from_numpy(labels), rng)


def _ignore_signals(worker: int) -> None:
    """Ctrl-C, and a SIGTERM to a whole job, reach every process; the main one must still finish its step and save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Steps:
    """For each step a list of (epoch, image)."""

    def __init__(self, loader: Loader, first: int, last: int) -> None:
        self.loader, self.first, self.last = loader, first, last

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first, self.last):
            epoch, indices = self.loader.slice(step)
            yield [(epoch, int(index)) for index in indices]

    def __len__(self) -> int:
        return self.last - self.first


# (inputs or None, why images were passed over, what is wrong with a target): errors travel as text, since from a worker an
# exception would come with a traceback in its message.
_Sample = tuple[Batch | None, list[str], str | None]


class _Samples(Dataset[_Sample]):
    def __init__(self, images: Images, views: Views, seed: int) -> None:
        self.images, self.views, self.seed = images, views, seed

    def __getitem__(self, key: tuple[int, int]) -> _Sample:
        epoch, index = key
        reasons: list[str] = []
        for attempt in range(len(self.images)):
            chosen = (index + attempt) % len(self.images)
            try:
                image, target = self.images.read(chosen), self.images.target(chosen)
            except DataError as error:
                reasons.append(str(error))
                continue
            except InputError as error:
                return None, reasons, str(error)
            return self.views.one(image, target, np.random.default_rng((self.seed, epoch, index))), reasons, None
        return None, reasons, None


def _collate(samples: list[_Sample]) -> _Sample:
    good = [sample for sample, _, _ in samples if sample is not None]
    batch = {name: torch.stack([sample[name] for sample in good]) for name in good[0]} if good else None
    wrong = next((text for _, _, text in samples if text is not None), None)
    return batch, [reason for _, reasons, _ in samples for reason in reasons], wrong

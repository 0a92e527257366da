"""What workers do: read the images of a batch and turn them into model inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from beit.core.errors import BeitError, DataError, InputError
from beit.data.order import Order
from beit.data.sources.images import Images
from beit.data.sources.stream import Stream
from beit.data.stream_order import Handed, Place, lane
from beit.data.transforms.sample_seed import Draw
from beit.data.transforms.views import Batch, Views
from beit.data.workers.protocol import Made

_MOST_IN_VAIN = 200  # images of a stream in a row that cannot be used


@dataclass(frozen=True)
class FileWork:
    """Batches of images by number."""

    images: Images
    views: Views
    order: Order
    rank: int
    world: int
    first: int
    last: int

    def batches(self, worker: int, workers: int) -> Iterator[Made]:
        """As `Work.batches`."""
        for step in range(self.first + worker, self.last, workers):
            try:
                made = self._batch(step)
            except BeitError as error:  # not what was passed over: it would be counted before it is told
                made = _failed(error, [])
            yield made
            if made.batch is None:
                return

    def _batch(self, step: int) -> Made:
        epoch, indices = _slice(self.order, self.rank, self.world, step)
        reasons: list[str] = []
        samples = [self._sample(epoch, int(index), reasons) for index in indices]
        return Made(_stacked(samples), reasons)

    def _sample(self, epoch: int, index: int, reasons: list[str]) -> Batch:
        found: list[str] = []
        for attempt in range(len(self.images)):
            chosen = (index + attempt) % len(self.images)
            try:
                image, target = self.images.read(chosen), self.images.target(chosen)
            except DataError as error:
                found.append(str(error))
                continue
            reasons += found
            return self.views.one(image, target, Draw(self.order.seed, epoch, index))
        raise DataError("None of the images can be read:\n" + "\n".join(found[:10]))


@dataclass(frozen=True)
class Lanes:
    """This process's lanes of a stream.

    Attributes:
        before: lanes of processes before this one.
        total: lanes of all processes.
        places: where each of this process's lanes stands.
    """

    before: int
    total: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class StreamWork:
    """Batches of a stream; `share` images each."""

    stream: Stream
    views: Views
    seed: int
    share: int
    lanes: Lanes
    first: int
    last: int

    def batches(self, worker: int, workers: int) -> Iterator[Made]:
        """As `Work.batches`."""
        own = (
            self.first + worker
        ) % workers  # worker 0 is asked first; the lane whose turn it is follows from the step
        lanes = self.lanes
        samples = lane(self.stream, self.seed, lanes.before + own, lanes.total, lanes.places[own])
        for _ in range(self.first + worker, self.last, workers):
            try:
                made = self._batch(samples)
            except BeitError as error:  # a shard cannot be reached
                made = _failed(error, [])
            yield made
            if made.batch is None:
                return

    def _batch(self, samples: Iterator[Handed]) -> Made:
        good: list[Batch] = []
        reasons: list[str] = []
        fresh = in_vain = 0
        while len(good) < self.share:
            handed = next(samples)
            reasons += handed.cuts
            try:
                image, target = self.stream.read(handed.raw), self.stream.target(handed.raw)
            except DataError as error:
                reasons.append(str(error))
                in_vain += 1
                if in_vain < _MOST_IN_VAIN:
                    continue
                text = f"The last {in_vain} images cannot be used:\n" + "\n".join(dict.fromkeys(reasons[-10:]))
                return _failed(DataError(text), reasons)
            except InputError as error:
                return _failed(error, reasons)
            in_vain = 0
            fresh += handed.visit == 0
            good.append(self.views.one(image, target, Draw(self.seed, handed.visit, handed.key)))
        return Made(_stacked(good), reasons, None, handed.place.to_json(), fresh)


def _slice(order: Order, rank: int, world: int, step: int) -> tuple[int, np.ndarray]:
    epoch, indices = order.indices(step)
    share = len(indices) // world
    return epoch, indices[rank * share : (rank + 1) * share]


def _stacked(samples: list[Batch]) -> Batch:
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


# Errors travel as text, since from a worker an exception would come with a traceback in its message.
def _failed(error: BeitError, reasons: list[str]) -> Made:
    return Made(None, reasons, (type(error).__name__, str(error)))

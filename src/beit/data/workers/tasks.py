"""What a worker does for each batch: read the images, skip the unreadable ones, turn the others into model inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from beit.core.errors import BeitError, DataError, InputError
from beit.data.order import Order
from beit.data.sources.images import Images
from beit.data.sources.stream import Stream
from beit.data.stream_order import StreamPosition, StreamSample, samples_of_reader
from beit.data.transforms.sample_seed import SampleSeed
from beit.data.transforms.views import Batch, Views
from beit.data.workers.protocol import WorkerBatch

_MOST_UNUSABLE_IN_A_ROW = 200  # images of a stream, after which the run ends


@dataclass(frozen=True)
class FileTask:
    """Batches of images by number, for one of several data-parallel processes.

    Attributes:
        images: where they come from.
        views: what is done to them.
        order: which image comes when.
        rank: number of this process among the data-parallel ones.
        world: number of data-parallel processes.
        first: first step.
        last: the step after the last.
    """

    images: Images
    views: Views
    order: Order
    rank: int
    world: int
    first: int
    last: int

    def batches(self, worker: int, workers: int) -> Iterator[WorkerBatch]:
        """As `WorkerTask.batches`."""
        for step in range(self.first + worker, self.last, workers):
            try:
                batch = self._batch(step)
            except BeitError as error:
                # Without the skipped images: with them, the main process would report too many bad ones instead.
                batch = WorkerBatch(None, [], error)
            yield batch
            if batch.batch is None:
                return

    def _batch(self, step: int) -> WorkerBatch:
        epoch, indices = self.order.share(step, self.rank, self.world)
        skipped: list[str] = []
        samples = [self._sample(epoch, int(index), skipped) for index in indices]
        return WorkerBatch(_stacked(samples), skipped)

    def _sample(self, epoch: int, index: int, skipped: list[str]) -> Batch:
        """The inputs of image `index`, or of the next readable one in its place."""
        reasons: list[str] = []
        for attempt in range(len(self.images)):
            chosen = (index + attempt) % len(self.images)
            try:
                image, target = self.images.read(chosen), self.images.target(chosen)
            except DataError as error:
                reasons.append(str(error))
                continue
            skipped += reasons
            # The seed stays that of `index`: the random numbers of a place do not depend on which image filled it.
            return self.views.one(image, target, SampleSeed(self.order.seed, epoch, index))
        raise DataError("None of the images can be read:\n" + "\n".join(reasons[:10]))


@dataclass(frozen=True)
class Readers:
    """The readers of a stream that belong to this process; each worker is one reader.

    Attributes:
        before: number of readers of the processes before this one.
        total: number of readers of all processes.
        positions: where each of this process's readers stands.
    """

    before: int
    total: int
    positions: tuple[StreamPosition, ...]


@dataclass(frozen=True)
class StreamTask:
    """Batches of a stream, for one of several data-parallel processes.

    Attributes:
        stream: where the images come from.
        views: what is done to them.
        seed: of the run.
        share: images per batch for this process.
        readers: of this process.
        first: first step.
        last: the step after the last.
    """

    stream: Stream
    views: Views
    seed: int
    share: int
    readers: Readers
    first: int
    last: int

    def batches(self, worker: int, workers: int) -> Iterator[WorkerBatch]:
        """As `WorkerTask.batches`."""
        readers = self.readers
        # A pool always asks worker 0 first. After a resume at step `first`, it may be another reader's turn.
        own = (self.first + worker) % workers
        samples = samples_of_reader(self.stream, self.seed, readers.before + own, readers.total, readers.positions[own])
        for _ in range(self.first + worker, self.last, workers):
            try:
                batch = self._batch(samples)
            except BeitError as error:  # a shard cannot be reached
                batch = WorkerBatch(None, [], error)
            yield batch
            if batch.batch is None:
                return

    def _batch(self, samples: Iterator[StreamSample]) -> WorkerBatch:
        good: list[Batch] = []
        skipped: list[str] = []
        first_pass_images = unusable = 0
        while len(good) < self.share:
            sample = next(samples)
            skipped += sample.truncated
            try:
                image, target = self.stream.read(sample.encoded), self.stream.target(sample.encoded)
            except DataError as error:
                skipped.append(str(error))
                unusable += 1
                if unusable < _MOST_UNUSABLE_IN_A_ROW:
                    continue
                reasons = "\n".join(dict.fromkeys(skipped[-10:]))
                text = f"The last {unusable} images cannot be used:\n{reasons}"
                return WorkerBatch(None, skipped, DataError(text))
            except InputError as error:
                return WorkerBatch(None, skipped, error)
            unusable = 0
            first_pass_images += sample.pass_index == 0
            good.append(self.views.one(image, target, SampleSeed(self.seed, sample.pass_index, sample.key)))
        return WorkerBatch(_stacked(good), skipped, None, sample.position.to_json(), first_pass_images)


def _stacked(samples: list[Batch]) -> Batch:
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}

"""Batches of model inputs from any step on, whoever prepares them.

The order of images is drawn in `order.py` (folders, arrays) and `stream_order.py` (streams); crops, flips and masks follow
from each image's `SampleSeed`. So any step's batch follows from (seed, step) alone. The one exception is a stream, whose
position is part of a checkpoint.

In data-parallel runs every process takes its part of each batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np

from beit.core.errors import DataError, TrainingError
from beit.data.order import Order
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import ArrayImages, Images
from beit.data.sources.stream import Stream
from beit.data.stream_order import STREAM_START, StreamPosition, nearest_position
from beit.data.transforms.pixels import planes
from beit.data.transforms.sample_seed import SampleSeed
from beit.data.transforms.views import Batch, BatchViews, Views
from beit.data.workers.processes import in_processes
from beit.data.workers.protocol import Pool, WorkerBatch
from beit.data.workers.tasks import FileTask, Readers, StreamTask


class ReadBy(NamedTuple):
    """By how many a stream is read.

    Attributes:
        processes: number of data-parallel processes.
        workers: readers of each.
    """

    processes: int
    workers: int


class Loader:
    """Batches from any step on.

    Args:
        images: where they come from. `ArrayImages` are transformed a batch at a time in this process; others, and streams,
            one by one in the workers.
        views: turns images into model inputs; `BatchViews` for `ArrayImages`.
        order: which image comes when.
        bad: counts the images that cannot be read; the next image takes the place of each.
        workers: number of worker processes; 0 to work in this process.
        rank: number of this process among the data-parallel ones.
        world: number of data-parallel processes; must divide the batch.
        pool: runs the workers. Batches of `workers.torch.in_torch_workers` are tensors, those of other pools arrays.

    Raises:
        DataError: the batch cannot be divided among the processes; or, from `batches`, more than a tenth of the images
            cannot be read.
        InputError: from `batches`: a target is invalid. Unlike a damaged file, this ends the run.
        TrainingError: from `batches`: a stream is at another step; or a worker was killed.
    """

    def __init__(
        self,
        images: Images | Stream,
        views: Views | BatchViews,
        order: Order,
        bad: BadImages,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        pool: Pool = in_processes,
    ) -> None:
        # Every batch of a stream is full; one of a small folder is the whole folder.
        most = order.batch_size if isinstance(images, Stream) or order.total is None else order.total
        if min(order.batch_size, most) % world:
            raise DataError(f"A batch of {order.batch_size} cannot be divided among {world} processes.")
        self.images, self.views, self.order, self.bad = images, views, order, bad
        self.workers, self.rank, self.world, self.pool = workers, rank, world, pool
        # Of a stream: the number of batches given out, and where each of this process's readers stands.
        self.step = 0
        self.positions = [STREAM_START] * max(workers, 1)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps `first` … `last - 1`. A stream can only go on where it stands, or start again at 0."""
        if isinstance(self.images, ArrayImages):
            for step in range(first, last):
                yield self._from_array(self.images, step)
        elif isinstance(self.images, Stream):
            yield from self._from_stream(self.images, first, last)
        else:
            task = FileTask(self.images, self.views, self.order, self.rank, self.world, first, last)
            with contextlib.closing(self.pool(task, self.workers)) as batches:
                for batch in batches:
                    yield self._checked(batch)

    def _from_array(self, images: ArrayImages, step: int) -> Batch:
        epoch, indices = self.order.share(step, self.rank, self.world)
        seeds = [SampleSeed(self.order.seed, epoch, int(index)) for index in indices]
        labels = np.zeros(len(indices), np.int64) if images.labels is None else images.labels[indices]
        return cast(BatchViews, self.views).batch(planes(images.array[indices]), labels, seeds)

    def _from_stream(self, stream: Stream, first: int, last: int) -> Iterator[Batch]:
        if first == 0:
            self.step, self.positions = 0, [STREAM_START] * len(self.positions)
        elif first != self.step:
            raise TrainingError(
                f"The stream is at step {self.step}, but step {first} was asked for. Go on from a checkpoint of this run."
            )
        count = len(self.positions)
        readers = Readers(self.rank * count, self.world * count, tuple(self.positions))
        share = self.order.batch_size // self.world
        task = StreamTask(stream, self.views, self.order.seed, share, readers, first, last)
        with contextlib.closing(self.pool(task, self.workers)) as batches:
            for found in batches:
                batch = self._checked(found)
                assert found.position is not None
                # Workers read ahead. Only the batch that is given out now counts: a resumed run must see the others again.
                self.positions[self.step % count] = StreamPosition.from_json(found.position)
                self.step += 1
                self.bad.add_good(found.first_pass_images)
                if all(position.start.pass_index > 0 for position in self.positions):
                    self.bad.end_first_pass()
                yield batch

    def _checked(self, found: WorkerBatch) -> Batch:
        for reason in found.skipped:
            self.bad.add(reason)
        if found.batch is None:
            assert found.error is not None
            raise found.error
        return found.batch

    @property
    def steps_per_epoch(self) -> int | None:
        """Whole batches per epoch; None for a stream of unknown length."""
        return self.order.steps_per_epoch

    def state(self) -> dict[str, Any] | None:
        """Where this process's part of a stream stands after the batches given out, for JSON.

        None for images by number, whose order follows from the step alone.
        """
        if not isinstance(self.images, Stream):
            return None
        return {
            "step": self.step,
            "rank": self.rank,
            "processes": self.world,
            "workers": len(self.positions),
            "seen": self.bad.good,
            "places": [position.to_json() for position in self.positions],
        }

    def restore(self, states: list[dict[str, Any]]) -> ReadBy | None:
        """Go on from what `state` returned in each of the processes that a stream was read by.

        Args:
            states: by rank. The order of the images is kept if there are as many processes and workers as now. If not, every
                reader goes on where about as much of the stream has been read (`stream_order.nearest_position`).

        Returns:
            None where the order is kept; else by how many the stream was read before.
        """
        if not isinstance(self.images, Stream):
            return None
        before = ReadBy(int(states[0]["processes"]), int(states[0]["workers"]))
        kept = before == ReadBy(self.world, len(self.positions))
        own = [states[self.rank]] if kept else states
        positions = [StreamPosition.from_json(position) for state in own for position in state["places"]]
        self.step = int(states[0]["step"])
        if kept:
            self.bad.good, self.positions = int(own[0]["seen"]), positions
            return None
        # Counted by each process for itself.
        self.bad.good = sum(int(state["seen"]) for state in states) // self.world
        count = len(self.positions)
        self.positions = [nearest_position(positions, self.world * count, len(self.images.shards.names))] * count
        return before

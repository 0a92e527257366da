"""Batches from any step on: reads images in their order and turns them into model inputs, in workers or in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from beit.core import errors
from beit.core.errors import DataError, TrainingError
from beit.data.order import Order
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import ArrayImages, Images
from beit.data.sources.stream import Stream
from beit.data.stream_order import BEGINNING, Place
from beit.data.transforms.pixels import planes
from beit.data.transforms.sample_seed import Draw
from beit.data.transforms.views import Batch, BatchViews, Views
from beit.data.workers.processes import in_processes
from beit.data.workers.protocol import Made, Pool
from beit.data.workers.tasks import FileWork, Lanes, StreamWork, _slice


class Loader:
    """Batches from any step on.

    Args:
        images: where they come from. `ArrayImages` are changed a batch at a time, others, and streams, one by one in
            `workers`.
        views: what is done to them; `BatchViews` for `ArrayImages`.
        order: which come when.
        workers: processes that read and change images; 0 for none beside this one.
        rank: number of this process among `world` data-parallel ones.
        world: number of data-parallel processes; must divide the batch.
        bad: takes note of images that cannot be read; their place is taken by the next one.
        pool: runs the workers. Of `torch_workers.in_torch_workers` batches come as tensors, of others as arrays.

    Raises:
        DataError: the batch cannot be divided among the processes.
        InputError (from `batches`): a target is not what it should be; unlike a damaged file, it ends the run.
        TrainingError (from `batches`, `restore`): a stream stands at another step, or was dealt out to other workers; or
            a worker was killed.
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
        # Of a stream, no more than a batch is drawn at once.
        whole = order.batch_size if isinstance(images, Stream) or order.total is None else order.total
        if min(order.batch_size, whole) % world:
            raise DataError(f"A batch of {order.batch_size} cannot be divided among {world} processes.")
        self.images, self.views, self.order, self.bad = images, views, order, bad
        self.workers, self.rank, self.world, self.pool = workers, rank, world, pool
        self.step = 0  # of a stream: batches handed out, and where each of this process's lanes stands
        self.places = [BEGINNING] * max(workers, 1)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps `first` … `last`-1; a stream can only go on where it stands, or begin again."""
        if isinstance(self.images, ArrayImages):
            for step in range(first, last):
                yield self._from_array(self.images, step)
        elif isinstance(self.images, Stream):
            yield from self._from_stream(self.images, first, last)
        else:
            work = FileWork(self.images, self.views, self.order, self.rank, self.world, first, last)
            with contextlib.closing(self.pool(work, self.workers)) as batches:
                for made in batches:
                    yield self._checked(made)

    def _from_stream(self, stream: Stream, first: int, last: int) -> Iterator[Batch]:
        if first == 0:
            self.step, self.places = 0, [BEGINNING] * len(self.places)
        elif first != self.step:
            raise TrainingError(
                f"The stream stands at step {self.step}, and step {first} was asked for. Go on from a checkpoint of this run."
            )
        lanes = Lanes(self.rank * len(self.places), self.world * len(self.places), tuple(self.places))
        share = self.order.batch_size // self.world
        work = StreamWork(stream, self.views, self.order.seed, share, lanes, first, last)
        with contextlib.closing(self.pool(work, self.workers)) as batches:
            for made in batches:
                batch = self._checked(made)
                assert made.place is not None
                # What workers have read ahead is not yet part of the run: the place is that of the batch now handed out.
                self.places[self.step % len(self.places)] = Place.from_json(made.place)
                self.step += 1
                self.bad.saw(made.fresh)
                if all(lane_.start.visit > 0 for lane_ in self.places):
                    self.bad.ended()
                yield batch

    def _checked(self, made: Made) -> Batch:
        for reason in made.reasons:
            self.bad.add(reason)
        if made.batch is None:
            assert made.error is not None
            kind, text = made.error
            raise getattr(errors, kind)(text)
        return made.batch

    @property
    def steps_per_epoch(self) -> int | None:
        """Whole batches in an epoch; None for a stream of unknown length."""
        return self.order.steps_per_epoch

    def state(self) -> dict[str, Any] | None:
        """Where this process's part of a stream stands after the batches handed out, for JSON.

        None for images by number, whose order follows from the step alone.
        """
        if not isinstance(self.images, Stream):
            return None
        return {
            "step": self.step,
            "rank": self.rank,
            "processes": self.world,
            "workers": len(self.places),
            "seen": self.bad.seen,
            "places": [place.to_json() for place in self.places],
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from `state`.

        Raises:
            TrainingError: the run had another number of workers or processes.
        """
        if state is None or not isinstance(self.images, Stream):
            return
        before = {name: state[name] for name in ("processes", "workers", "rank")}
        if before != {"processes": self.world, "workers": len(self.places), "rank": self.rank}:
            raise TrainingError(
                f"The stream was read by {before['processes']} processes with {before['workers']} workers each; now there are "
                f"{self.world} with {len(self.places)}. Go on with as many as before (--workers {before['workers']})."
            )
        self.step, self.bad.seen = state["step"], state["seen"]
        self.places = [Place.from_json(place) for place in state["places"]]

    def slice(self, step: int) -> tuple[int, np.ndarray]:
        """(epoch, image numbers) of this process in step `step`."""
        return _slice(self.order, self.rank, self.world, step)

    def _from_array(self, images: ArrayImages, step: int) -> Batch:
        epoch, indices = self.slice(step)
        draws = [Draw(self.order.seed, epoch, int(index)) for index in indices]
        labels = np.zeros(len(indices), np.int64) if images.labels is None else images.labels[indices]
        return cast(BatchViews, self.views).batch(planes(images.array[indices]), labels, draws)

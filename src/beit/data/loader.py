"""In which order images come, in batches. Any step's batch follows from (seed, step) alone, so a run can be resumed.

Each epoch is a permutation drawn from (seed, epoch); each image's crop, flip and mask from (seed, epoch, image), its
`Draw`. In data-parallel runs every process takes its slice of each batch. Streams have an order of their own
(`streams.py`), whose place is the one thing about data that a checkpoint must keep.

What is to be done is `Work`, which can be pickled; who does it is a `Pool`: `processes.py`, or PyTorch's own workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from PIL import Image

from beit.core import errors
from beit.core.errors import BeitError, ConfigError, DataError, InputError, TrainingError
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import ArrayImages, Images
from beit.data.sources.stream import BEGINNING, Handed, Place, Stream, lane
from beit.data.transforms.ops import planes
from beit.data.transforms.sample_rng import Draw
from beit.data.workers.processes import in_processes
from beit.data.workers.protocol import Batch, Made, Pool

if TYPE_CHECKING:
    from beit.train.settings import RunSettings

_MOST_IN_VAIN = 200  # images of a stream in a row that cannot be used


class Views(Protocol):
    """Turns images into model inputs, one by one."""

    def one(self, image: Image.Image, target: Any, draw: Draw) -> Batch:
        """Inputs of one image and its target (`Images.target`), without the batch dimension."""
        ...


class BatchViews(Views, Protocol):
    """Turns a whole batch of small images into model inputs at once, too; `ArrayImages` need it."""

    def batch(self, images: np.ndarray, labels: np.ndarray, draws: list[Draw]) -> Batch:
        """Inputs of a batch: `images` float32 `(B, 3, H, W)` in [0, 1], `labels` int64 `(B,)`, a draw for each."""
        ...


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
            work = _FileWork(self.images, self.views, self.order, self.rank, self.world, first, last)
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
        lanes = _Lanes(self.rank * len(self.places), self.world * len(self.places), tuple(self.places))
        share = self.order.batch_size // self.world
        work = _StreamWork(stream, self.views, self.order.seed, share, lanes, first, last)
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


def _slice(order: Order, rank: int, world: int, step: int) -> tuple[int, np.ndarray]:
    epoch, indices = order.indices(step)
    share = len(indices) // world
    return epoch, indices[rank * share : (rank + 1) * share]


def _stacked(samples: list[Batch]) -> Batch:
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


# Errors travel as text, since from a worker an exception would come with a traceback in its message.
def _failed(error: BeitError, reasons: list[str]) -> Made:
    return Made(None, reasons, (type(error).__name__, str(error)))


@dataclass(frozen=True)
class _FileWork:
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
class _Lanes:
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
class _StreamWork:
    """Batches of a stream; `share` images each."""

    stream: Stream
    views: Views
    seed: int
    share: int
    lanes: _Lanes
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

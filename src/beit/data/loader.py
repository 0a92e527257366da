"""In which order images come, in batches. Any step's batch follows from (seed, step) alone, so a run can be resumed.

Each epoch is a permutation drawn from (seed, epoch); each image's crop, flip and mask from (seed, epoch, image), its
`Draw`. In data-parallel runs every process takes its slice of each batch. Streams have an order of their own
(`streams.py`), whose place is the one thing about data that a checkpoint must keep.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from beit.data.draw import Draw
from beit.data.images import ArrayImages, BadImages, Images
from beit.data.streams import BEGINNING, Handed, Place, Stream, lane
from beit.errors import BeitError, ConfigError, DataError, InputError, TrainingError

if TYPE_CHECKING:
    from beit.train.settings import RunSettings

Batch = dict[str, Tensor]
_MOST_IN_VAIN = 200  # images of a stream in a row that cannot be used


class Views(Protocol):
    """Turns images into model inputs, one by one."""

    def one(self, image: Image.Image, target: Any, draw: Draw) -> Batch:
        """Inputs of one image and its target (`Images.target`), without the batch dimension."""
        ...


class BatchViews(Views, Protocol):
    """Turns a whole batch of small images into model inputs at once, too; `ArrayImages` need it."""

    def batch(self, images: Tensor, labels: Tensor, draws: list[Draw]) -> Batch:
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
        return epoch, _permutation(self.total, self.seed, epoch)[
            batch * self.batch_size : (batch + 1) * self.batch_size
        ]


@lru_cache(maxsize=2)  # every step of an epoch asks for it
def _permutation(total: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(total)


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

    Raises:
        DataError: the batch cannot be divided among the processes.
        InputError (from `batches`): a target is not what it should be; unlike a damaged file, it ends the run.
        TrainingError (from `batches`, `restore`): a stream stands at another step, or was dealt out to other workers.
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
    ) -> None:
        # Of a stream, no more than a batch is drawn at once.
        whole = order.batch_size if isinstance(images, Stream) or order.total is None else order.total
        if min(order.batch_size, whole) % world:
            raise DataError(f"A batch of {order.batch_size} cannot be divided among {world} processes.")
        self.images, self.views, self.order, self.bad = images, views, order, bad
        self.workers, self.rank, self.world = workers, rank, world
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
            yield from self._from_files(self.images, first, last)

    def _from_files(self, images: Images, first: int, last: int) -> Iterator[Batch]:
        loader: DataLoader[Any] = DataLoader(
            _Samples(images, self.views, self.order.seed),
            batch_sampler=_Steps(self, first, last),
            num_workers=self.workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=ignore_signals,
        )
        with _ended(iter(loader)) as batches:
            for batch, reasons, wrong in batches:
                if wrong is not None:
                    raise InputError(wrong)
                if batch is None:
                    raise DataError("None of the images can be read:\n" + "\n".join(reasons[:10]))
                for reason in reasons:
                    self.bad.add(reason)
                yield batch

    def _from_stream(self, stream: Stream, first: int, last: int) -> Iterator[Batch]:
        if first == 0:
            self.step, self.places = 0, [BEGINNING] * len(self.places)
        elif first != self.step:
            raise TrainingError(
                f"The stream stands at step {self.step}, and step {first} was asked for. Go on from a checkpoint of this run."
            )
        loader: DataLoader[Any] = DataLoader(
            _StreamBatches(self, stream, first, last),
            batch_size=None,  # workers hand over whole batches, in turn: so it is known which lane a batch came from
            num_workers=self.workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=ignore_signals,
        )
        with _ended(iter(loader)) as batches:
            for batch, reasons, error, place, fresh in batches:
                for reason in reasons:
                    self.bad.add(reason)
                if error is not None:
                    raise (InputError if error[0] == InputError.__name__ else DataError)(error[1])
                # What workers have read ahead is not yet part of the run: the place is that of the batch now handed out.
                self.places[self.step % len(self.places)] = Place.from_json(place)
                self.step += 1
                self.bad.saw(fresh)
                if all(lane_.start.visit > 0 for lane_ in self.places):
                    self.bad.ended()
                yield batch

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
        epoch, indices = self.order.indices(step)
        share = len(indices) // self.world
        return epoch, indices[self.rank * share : (self.rank + 1) * share]

    def _from_array(self, images: ArrayImages, step: int) -> Batch:
        epoch, indices = self.slice(step)
        draws = [Draw(self.order.seed, epoch, int(index)) for index in indices]
        pixels = torch.from_numpy(images.array[indices]).permute(0, 3, 1, 2).float().div_(255)
        labels = np.zeros(len(indices), np.int64) if images.labels is None else images.labels[indices]
        return cast(BatchViews, self.views).batch(pixels, torch.from_numpy(labels), draws)


@contextlib.contextmanager
def _ended(batches: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """Workers ignore signals, so an error must not leave them to be ended by one when Python exits."""
    try:
        yield batches
    finally:
        end = getattr(batches, "_shutdown_workers", None)
        if end is not None:
            end()
        for worker in getattr(batches, "_workers", []):
            worker.kill()  # one that still waits for a server; Python would wait for it


def ignore_signals(worker: int) -> None:
    """Ctrl-C, and what a scheduler sends to a whole job, reach every process; the main one must still save."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


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
            return self.views.one(image, target, Draw(self.seed, epoch, index)), reasons, None
        return None, reasons, None


def _collate(samples: list[_Sample]) -> _Sample:
    good = [sample for sample, _, _ in samples if sample is not None]
    batch = {name: torch.stack([sample[name] for sample in good]) for name in good[0]} if good else None
    wrong = next((text for _, _, text in samples if text is not None), None)
    return batch, [reason for _, reasons, _ in samples for reason in reasons], wrong


def _as_it_is(made: Any) -> Any:
    return made


# (inputs or None, why images were passed over, (kind, text) of an error, the lane's place, good images of the first pass)
_Made = tuple[Batch | None, list[str], tuple[str, str] | None, dict[str, Any], int]


class _StreamBatches(IterableDataset[_Made]):
    """The share of one process in each step, made by its workers in turn."""

    def __init__(self, loader: Loader, stream: Stream, first: int, last: int) -> None:
        self.stream, self.views, self.seed = stream, loader.views, loader.order.seed
        self.share = loader.order.batch_size // loader.world
        self.places, self.first, self.last = list(loader.places), first, last
        self.before, self.lanes = loader.rank * len(loader.places), loader.world * len(loader.places)

    def __iter__(self) -> Iterator[_Made]:
        info = get_worker_info()
        workers = len(self.places)
        # Torch asks worker 0 first; the lane whose turn it is follows from the step.
        own = self.first + (0 if info is None else info.id)
        place = self.places[own % workers]
        samples = lane(self.stream, self.seed, self.before + own % workers, self.lanes, place)
        try:
            for _ in range(own, self.last, workers):
                made = self._batch(samples)
                yield made
                if made[0] is None:
                    return
        except BeitError as error:  # a shard cannot be reached
            yield None, [], (type(error).__name__, str(error)), {}, 0

    def _batch(self, samples: Iterator[Handed]) -> _Made:
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
                return None, reasons, (type(error).__name__, text), {}, 0
            except InputError as error:
                return None, reasons, (type(error).__name__, str(error)), {}, 0
            in_vain = 0
            fresh += handed.visit == 0
            good.append(self.views.one(image, target, Draw(self.seed, handed.visit, handed.key)))
        batch = {name: torch.stack([sample[name] for sample in good]) for name in good[0]}
        return batch, reasons, None, handed.place.to_json(), fresh

"""In which order a stream's images come, and from where on to go on. Numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from beit.core.errors import DataError
from beit.data.sources.shards import Cut, Raw, Shards, sample_key
from beit.data.sources.stream import Stream

_EMPTY_PASSES = 10  # for each lane: so often none of its shards has an image before there is said to be none


class Cursor(NamedTuple):
    """A sample's place in its lane.

    Attributes:
        visit: which pass over the shards.
        place: which of the lane's shards in that pass.
        sample: which sample of that shard.
        before: how many samples the lane has read before it in this pass.
    """

    visit: int
    place: int
    sample: int
    before: int


class Place(NamedTuple):
    """Where a lane stands: `taken` samples of window number `window`, which begins at `start`, were handed out."""

    start: Cursor
    window: int
    taken: int

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return {"start": list(self.start), "window": self.window, "taken": self.taken}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Place:
        """What `to_json` gave."""
        return cls(Cursor(*values["start"]), values["window"], values["taken"])


BEGINNING = Place(Cursor(0, 0, 0, 0), 0, 0)


@dataclass(frozen=True)
class Handed:
    """A sample as a lane hands it out.

    Attributes:
        raw: the sample.
        visit: which pass it belongs to.
        key: 63 bits that name it on all machines.
        place: where the lane stands now.
        cuts: shards found to end before their end since the last sample.
    """

    raw: Raw
    visit: int
    key: int
    place: Place
    cuts: tuple[str, ...]


def lane(stream: Stream, seed: int, number: int, lanes: int, place: Place = BEGINNING) -> Iterator[Handed]:
    """The samples of lane `number` of `lanes`, from `place` on, for ever.

    A window ends when it is full, or, if it began with a pass, with that pass: so small data sets come whole, each pass in an
    order of its own, and windows of large ones are all of one size, whose filling keeps step with their emptying.

    Raises:
        DataError: a shard cannot be reached, or there is no image in them.
    """
    cuts: list[str] = []
    items = _items(stream.shards, seed, number, lanes, place.start, cuts)
    ahead = next(items)
    first_of_pass = lanes if _is_shared(stream.shards, lanes) else 1

    def fill(window: list[_Item]) -> bool:
        """One more sample, unless the window is complete."""
        nonlocal ahead
        if len(window) >= stream.shuffle_buffer:
            return False
        if window and window[0].cursor.before < first_of_pass and window[0].cursor.visit != ahead.cursor.visit:
            return False
        window.append(ahead)
        ahead = next(items)
        return True

    window: list[_Item] = []
    index, taken = place.window, place.taken
    while True:
        while fill(window):
            pass
        start = window[0].cursor
        order = np.random.default_rng((seed, number, index)).permutation(len(window))
        waiting: list[_Item | None] = list(window)  # a sample that is handed out gives up its memory
        window = []
        for position, chosen in enumerate(order.tolist()):
            item, waiting[chosen] = waiting[chosen], None
            if position < taken or item is None:
                continue
            fill(window)
            found, cuts[:] = tuple(cuts), []
            yield Handed(item.raw, item.cursor.visit, item.key, Place(start, index, position + 1), found)
        index, taken = index + 1, 0


@dataclass(frozen=True)
class _Item:
    raw: Raw
    cursor: Cursor
    key: int


def _is_shared(shards: Shards, lanes: int) -> bool:
    """Whether all lanes read all shards and share their samples: there are too few to give each lane its own."""
    return len(shards.names) < lanes


def _items(shards: Shards, seed: int, number: int, lanes: int, start: Cursor, cuts: list[str]) -> Iterator[_Item]:
    """The lane's samples in the order in which they are read, for ever; what ends too early goes into `cuts`."""
    shared = _is_shared(shards, lanes)
    visit, first, sample, count = start
    empty = 0
    while True:
        order = np.random.default_rng((seed, visit)).permutation(len(shards.names))
        mine = order if shared else order[number::lanes]
        turn, step = ((number + visit) % lanes, lanes) if shared else (0, 1)
        for place in range(first, len(mine)):
            shard = int(mine[place])
            for found in shards.read(shard, sample):
                if isinstance(found, Cut):
                    cuts.append(found.reason)
                    continue
                if count % step == turn:
                    yield _Item(found, Cursor(visit, place, sample, count), sample_key(shards.names[shard], found.key))
                sample, count = sample + 1, count + 1
            sample = 0
        empty = 0 if count else empty + 1
        # Other lanes may have the only shards with images; but not time after time.
        if empty and (len(mine) == len(order) or empty == _EMPTY_PASSES * lanes):
            why = "\n".join(dict.fromkeys(cuts[:10])) or "Looked for files with the suffixes of images."
            raise DataError(f"There are no images in {', '.join(shards.names[:3])}, …\n{why}")
        visit, first, count = visit + 1, 0, 0

"""In which order a stream's images come, and from where on to go on. Numpy only.

The samples of all shards are dealt out to lanes, one for each worker of each process. A lane reads its shards one after
the other, in an order drawn anew for every pass, and shuffles within windows of raw samples: while one is handed out the
next is filled. Where it stands is three places: where its window begins, which window it is, how much of it is used up.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from beit.core.errors import ConfigError, DataError, InputError
from beit.data.decode import decode_image
from beit.data.fingerprint import fingerprint_of
from beit.data.sources.images import Images
from beit.data.sources.tar import Cut, Raw, Shards

_EMPTY_PASSES = 10  # for each lane: so often none of its shards has an image before there is said to be none


@dataclass
class Stream:
    """Images of a number that nobody knows, in shards.

    Attributes:
        shards: where they are.
        labelled: each has a label that is wanted.
        classes: names of the classes.
        smallest_side: images with a shorter side are refused when read.
        shuffle_buffer: samples that are shuffled together, in each lane.

    Raises:
        ConfigError: labels are wanted, but nobody says what the classes are.
    """

    shards: Shards
    labelled: bool = False
    classes: list[str] = field(default_factory=list)
    smallest_side: int = 1
    shuffle_buffer: int = 4096

    def __post_init__(self) -> None:
        if not self.labelled:
            return
        self.classes = self.classes or self.shards.classes
        if not self.classes:
            raise ConfigError(
                "Labels in tar shards are numbers; nothing says how many classes there are and what they are called. Give "
                "a text file with their names, one a line, from class 0 on: --classes FILE."
            )
        self._numbers = {name: number for number, name in enumerate(self.classes)}
        known = self.shards.classes
        # The data set counts its classes in an order of its own; a model may have them in another.
        strange = [name for name in known if name not in self._numbers]
        if strange:
            raise DataError(f"The data set has classes that the model does not know: {', '.join(strange[:5])}.")

    def read(self, raw: Raw) -> Image.Image:
        """The image in RGB, upright. Raises DataError when it is damaged, too small or too large."""
        return decode_image(raw.data, raw.name, self.smallest_side)

    def target(self, raw: Raw) -> int:
        """The class number, 0 without labels.

        Raises:
            DataError: the sample has no label.
            InputError: it is none of the classes.
        """
        if not self.labelled:
            return 0
        label = raw.label
        if label is None:
            raise DataError(f"{raw.name}: no label beside it (.cls, or .json with label or class).")
        if isinstance(label, int) and self.shards.classes and 0 <= label < len(self.shards.classes):
            label = self.shards.classes[label]
        number = self._numbers.get(label) if isinstance(label, str) else label
        if number is None or not 0 <= number < len(self.classes):
            raise InputError(
                f"{raw.name}: its label is {label!r}; wanted a number from 0 to {len(self.classes) - 1}, or one of "
                f"{', '.join(self.classes[:5])}{', …' if len(self.classes) > 5 else ''}. Give all classes in their order."
            )
        return number

    def fingerprint(self) -> str:
        """Of the names of the shards and classes."""
        return fingerprint_of(*(os.fsencode("\n".join(part)) for part in (self.shards.names, self.classes)))


def count_of(images: Images | Stream) -> int | None:
    """Number of images; None for a stream."""
    return len(images) if isinstance(images, Sized) else None


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


def sample_key(shard: str, sample: str) -> int:
    """63 bits of a hash: the same on all machines, and in any order."""
    digest = hashlib.blake2b(f"{shard}/{sample}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1

"""In which order the images of a stream come, and from which position a resumed run goes on. Numpy only.

All samples of all shards are dealt out to readers: every worker of every data-parallel process is one. A reader reads its
shards one after the other, in an order drawn anew for every pass over the stream, and shuffles within windows of samples
that are not decoded yet: while it hands out one window it fills the next. Its position is where its window begins, which
window that is, and how many of its samples have been handed out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from beit.core.errors import DataError
from beit.data.sources.shards import EncodedSample, Shards, TruncatedShard, sample_key
from beit.data.sources.stream import Stream

_EMPTY_PASSES = 10  # per reader: after this many passes without an image in its shards, the stream counts as empty


class Cursor(NamedTuple):
    """Where a sample is among those of its reader.

    Attributes:
        pass_index: which pass over the stream, counted from 0.
        shard: which of the reader's shards in this pass.
        sample: which sample of that shard.
        before: number of samples that the reader has read before it in this pass.
    """

    pass_index: int
    shard: int
    sample: int
    before: int


class StreamPosition(NamedTuple):
    """Where a reader stands.

    Attributes:
        start: the first sample of its window.
        window: number of the window, from which its shuffling follows.
        taken: number of samples of this window that have been handed out.
    """

    start: Cursor
    window: int
    taken: int

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return {"start": list(self.start), "window": self.window, "taken": self.taken}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> StreamPosition:
        """The position that `to_json` was called on."""
        return cls(Cursor(*values["start"]), values["window"], values["taken"])


STREAM_START = StreamPosition(Cursor(0, 0, 0, 0), 0, 0)


def nearest_position(before: Sequence[StreamPosition], readers: int, shards: int) -> StreamPosition:
    """Where each of another number of readers goes on: where about as much of the stream has been read. Not exact.

    Which samples a reader has, and how it shuffles them, depend on the number of readers. What can be kept is how many shards
    were read to their end, in the order of the pass. Shards that had been begun are read again from their start, and shards
    that some readers had come to before others may be left out of this pass.

    Args:
        before: where the readers stood, in all processes.
        readers: how many there are now.
        shards: number of shards of the stream.
    """
    if shards < len(before):  # each reader read all shards, and took its share of their samples
        finished = min(position.start.pass_index * shards + position.start.shard for position in before)
    else:
        shares = [len(range(reader, shards, len(before))) for reader in range(len(before))]
        finished = sum(
            position.start.pass_index * share + position.start.shard
            for position, share in zip(before, shares, strict=True)
        )
    pass_index, shard = divmod(finished, shards)
    # A window of another number shuffles otherwise than any before it.
    window = max(position.window for position in before) + 1
    return StreamPosition(Cursor(pass_index, shard if shards < readers else shard // readers, 0, 0), window, 0)


@dataclass(frozen=True)
class StreamSample:
    """A sample that a reader hands out.

    Attributes:
        encoded: the image file and its label.
        pass_index: which pass over the stream it belongs to.
        key: 63 bits that identify the sample on all machines.
        position: where the reader stands after this sample.
        truncated: one line per shard that ended early since the last sample, with the reason.
    """

    encoded: EncodedSample
    pass_index: int
    key: int
    position: StreamPosition
    truncated: tuple[str, ...]


def samples_of_reader(
    stream: Stream, seed: int, reader: int, readers: int, position: StreamPosition = STREAM_START
) -> Iterator[StreamSample]:
    """The samples of one reader, from a position on, without end.

    A window ends when it is full. A window that begins with a pass also ends with that pass. So a small data set comes
    whole, pass by pass and each time in another order; and the windows of a large one all have the same size, so that one
    sample is read for each that is handed out.

    Args:
        stream: shards and size of the windows.
        seed: of the run.
        reader: number of the reader, from 0.
        readers: number of readers in all processes.
        position: where to go on.

    Raises:
        DataError: a shard cannot be reached, or no shard has an image.
    """
    truncated: list[str] = []
    items = _read(stream.shards, seed, reader, readers, position.start, truncated)
    ahead = next(items)
    # Readers that share shards each take every `readers`-th sample, so the first of a pass may have a few before it.
    first_of_pass = readers if _shards_are_shared(stream.shards, readers) else 1

    def fill(window: list[_Item]) -> bool:
        """Add one sample, unless the window is complete."""
        nonlocal ahead
        if len(window) >= stream.shuffle_buffer:
            return False
        if window:
            first = window[0].cursor
            if first.before < first_of_pass and first.pass_index != ahead.cursor.pass_index:
                return False
        window.append(ahead)
        ahead = next(items)
        return True

    window: list[_Item] = []
    index, taken = position.window, position.taken
    while True:
        while fill(window):
            pass
        start = window[0].cursor
        order = np.random.default_rng((seed, reader, index)).permutation(len(window))
        waiting: list[_Item | None] = list(window)
        window = []
        for number, chosen in enumerate(order.tolist()):
            item, waiting[chosen] = waiting[chosen], None  # a sample that is handed out releases its memory
            if number < taken or item is None:  # handed out before the run was stopped
                continue
            fill(window)  # the next window grows as this one shrinks: memory holds about one window
            found, truncated[:] = tuple(truncated), []
            here = StreamPosition(start, index, number + 1)
            yield StreamSample(item.encoded, item.cursor.pass_index, item.key, here, found)
        index, taken = index + 1, 0


@dataclass(frozen=True)
class _Item:
    encoded: EncodedSample
    cursor: Cursor
    key: int


def _shards_are_shared(shards: Shards, readers: int) -> bool:
    """Whether there are too few shards to give each reader its own. Then all read all shards and share their samples."""
    return len(shards.names) < readers


def _read(shards: Shards, seed: int, reader: int, readers: int, start: Cursor, truncated: list[str]) -> Iterator[_Item]:
    """The reader's samples in the order of the shards, without end. Shards that end early are noted in `truncated`."""
    shared = _shards_are_shared(shards, readers)
    pass_index, first, sample, count = start
    empty_passes = 0
    while True:
        order = np.random.default_rng((seed, pass_index)).permutation(len(shards.names))
        mine = order if shared else order[reader::readers]
        # Of shared shards every `step`-th sample is this reader's. Whose turn is first changes with the pass, so that no
        # reader sees the same samples in every pass.
        turn, step = ((reader + pass_index) % readers, readers) if shared else (0, 1)
        for place in range(first, len(mine)):
            shard = int(mine[place])
            for found in shards.read(shard, sample):
                if isinstance(found, TruncatedShard):
                    truncated.append(found.reason)
                    continue
                if count % step == turn:
                    key = sample_key(shards.names[shard], found.key)
                    yield _Item(found, Cursor(pass_index, place, sample, count), key)
                sample, count = sample + 1, count + 1
            sample = 0
        empty_passes = 0 if count else empty_passes + 1
        # Another reader may have had the only shards with images, but not in pass after pass.
        if empty_passes and (len(mine) == len(order) or empty_passes == _EMPTY_PASSES * readers):
            why = "\n".join(dict.fromkeys(truncated[:10])) or "Looked for files with the suffixes of images."
            raise DataError(f"There are no images in {', '.join(shards.names[:3])}, …\n{why}")
        pass_index, first, count = pass_index + 1, 0, 0

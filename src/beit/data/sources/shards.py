"""What the shards of a stream are, wherever they lie: encoded samples that are read in order. No decoding here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

LARGEST_IMAGE = 1 << 28  # bytes of an image's file: more than its pixels may take


@dataclass(frozen=True)
class EncodedSample:
    """One sample of a shard, its image not decoded yet.

    Attributes:
        key: identifies the sample within its shard.
        name: what to call it in a message.
        data: the bytes of the image file.
        label: a class number or name; None if the sample has none.
        damage: why there are no bytes of an image; empty if there are.
        label_damage: what is wrong with a label that is not given; empty if nothing is.
    """

    key: str
    name: str
    data: bytes
    label: int | str | None = None
    damage: str = ""
    label_damage: str = ""


@dataclass(frozen=True)
class TruncatedShard:
    """Comes where a shard is damaged: in a gap between samples, or after the last readable one of a shard that ends early.

    Attributes:
        reason: which shard it is, and what of it is left out, and why.
    """

    reason: str


class Shards(Protocol):
    """Several shards of one data set.

    Attributes:
        names: name of each shard, the same on all machines.
        total: number of samples, if known.
    """

    names: list[str]
    total: int | None

    @property
    def classes(self) -> list[str]:
        """Names of the classes, if the shards know them; else empty."""
        ...

    def read(self, number: int, first: int = 0) -> Iterator[EncodedSample | TruncatedShard]:
        """The samples of shard `number` from sample `first` on; and a `TruncatedShard` for each damage.

        Raises:
            DataError: the shard cannot be reached.
        """
        ...


def sample_key(shard: str, sample: str) -> int:
    """63 bits of a hash that identify a sample: the same on all machines, in any order of the shards."""
    digest = hashlib.blake2b(f"{shard}/{sample}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1

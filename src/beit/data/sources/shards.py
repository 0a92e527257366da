"""What a shard of a stream gives: samples, not decoded yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Raw:
    """One sample, undecoded.

    Attributes:
        key: names it within its shard.
        name: what to call it in a message.
        data: the image file.
        label: a class number or name; None if the sample has none.
    """

    key: str
    name: str
    data: bytes
    label: int | str | None = None


@dataclass(frozen=True)
class Cut:
    """A shard ends here before its end.

    Attributes:
        reason: which, and why.
    """

    reason: str


class Shards(Protocol):
    """Several shards.

    Attributes:
        names: what to call each, the same on all machines.
        classes: names of the classes, if the shards know them.
        total: number of samples, if known.
    """

    names: list[str]
    classes: list[str]
    total: int | None

    def read(self, number: int, first: int = 0) -> Iterator[Raw | Cut]:
        """The samples of shard `number` from the `first`-th on; if it is damaged, a `Cut` after what can be read.

        Raises:
            DataError: it cannot be reached.
        """
        ...


def sample_key(shard: str, sample: str) -> int:
    """63 bits of a hash: the same on all machines, and in any order."""
    digest = hashlib.blake2b(f"{shard}/{sample}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1

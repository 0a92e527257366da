"""Processes that share the batches of a run, as the loop sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Processes(Protocol):
    """One of the processes that train together. What is asked of it, all processes must ask at the same point.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
        main: whether this is the one that writes.
    """

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    @property
    def main(self) -> bool: ...

    def wait(self) -> None:
        """Until all processes have come here."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether any process says so. One that stopped alone would leave the others waiting."""
        ...

    def mean(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The mean of each scalar over the processes; all have the same names."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, by rank, in all of them. Values are pickled: numbers, arrays, lists, dictionaries."""
        ...


class Alone:
    """The only process; needs no framework."""

    rank, world, main = 0, 1, True

    def wait(self) -> None:
        """For nobody."""

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def mean(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """The value alone."""
        return [value]

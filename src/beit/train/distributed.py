"""Processes that share the batches of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Processes(Protocol):
    """This process, among those that train together. All of them must call the same methods in the same order.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
        main: whether this is the process that writes.
    """

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    @property
    def main(self) -> bool: ...

    def wait(self) -> None:
        """Wait until all processes have come here."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process. A process that stopped alone would leave the others waiting."""
        ...

    def mean(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The mean of each scalar over all processes, which must give the same names."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank. They are pickled, so numbers, arrays, lists and dictionaries will do."""
        ...


class Alone:
    """A single process. Needs no framework."""

    rank, world, main = 0, 1, True

    def wait(self) -> None:
        """Nobody to wait for."""

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def mean(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """The value alone."""
        return [value]

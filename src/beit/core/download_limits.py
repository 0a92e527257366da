"""What a server must keep to while a file is read from it: size, rate and time."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from beit.core.errors import ConfigError

MAX_BYTES = "BEIT_MAX_BYTES"  # the environment variable that bounds the size of a file
LARGEST_WEIGHTS = 20 * 10**9  # bytes, unless that variable says otherwise; the largest published BEiT has 2.5 · 10⁹
_MOST_SLOW = 3  # times that the file may come too slowly in a row
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


@dataclass(frozen=True)
class Limits:
    """What a server must keep to. Only the time spent waiting for the server counts, not that of the reader.

    Attributes:
        answer: seconds until all headers of an answer are there.
        silence: seconds without a byte.
        slowest: bytes per second that are the least over `window` seconds.
        window: seconds.
        whole: seconds for the whole file.
        largest: bytes of the whole file; None for any number.
    """

    answer: float = 30.0
    silence: float = 30.0
    slowest: float = 10_000.0
    window: float = 60.0
    whole: float = 12 * 3600.0
    largest: int | None = None


def largest_file(otherwise: int | None) -> int | None:
    """The size in bytes that a file behind an address may have: that of BEIT_MAX_BYTES, or `otherwise` where it is not set.

    Raises:
        ConfigError: the variable holds no size.
    """
    text = os.environ.get(MAX_BYTES, "")
    return size_in_bytes(text, MAX_BYTES) if text else otherwise


def size_in_bytes(text: str, what: str) -> int:
    """`5000000`, `5e9` or `5 GB` → bytes; a GB has 10⁹.

    Args:
        text: the size.
        what: its name, for the message.

    Raises:
        ConfigError: it is no size.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)(?:e(\d{1,2}))?\s*([kmgt]?b)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"{what} is {text!r:.80}; wanted a number of bytes, such as 5000000000 or 5GB.")
    return int(float(match[1]) * 10 ** int(match[2] or 0) * _UNITS[(match[3] or "").lower()])


class TooSlowError(ConnectionError):
    """Fewer bytes than the least came; another connection may be faster."""


class OutOfTimeError(ConnectionError):
    """The limits leave no further attempt."""


class Pace:
    """Counts the bytes of a file and the seconds waited for them, over all its connections."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.total = self.seconds = 0.0  # waited so far: for the file, and in this window
        self.bytes = 0  # in this window
        self.slow = 0  # windows in a row
        self.answer: float | None = None  # seconds waited for headers, while that goes on

    def begin_answer(self) -> None:
        self.answer = 0.0

    def end_answer(self) -> None:
        self.answer = None

    def waited(self, seconds: float) -> None:
        """Add a pause between two connections."""
        self.total += seconds
        self.seconds += seconds

    def came(self, seconds: float, size: int) -> None:
        """Add bytes that came. Raises TooSlowError or OutOfTimeError where the limits are passed."""
        limits = self.limits
        self.waited(seconds)
        self.bytes += size
        if self.total > limits.whole:
            raise OutOfTimeError(f"it took longer than {limits.whole:g} s")
        if self.answer is not None:
            self.answer += seconds
            if self.answer > limits.answer:
                raise TooSlowError(f"no answer within {limits.answer:g} s")
            return
        if self.seconds < limits.window:
            return
        rate, self.seconds, self.bytes = self.bytes / self.seconds, 0.0, 0
        if rate >= limits.slowest:
            self.slow = 0
            return
        self.slow += 1
        words = f"{rate:,.0f} bytes per second over {limits.window:g} s, wanted at least {limits.slowest:,.0f}"
        raise (TooSlowError if self.slow < _MOST_SLOW else OutOfTimeError)(words)

"""Signals that tell a run to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# Ctrl-C; what a scheduler sends before it takes the machine away (SLURM's --signal=USR1@60, a cloud's SIGTERM); and what the
# system sends when the terminal closes or its connection breaks. Windows lacks the last two.
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
_HANGUP = getattr(signal, "SIGHUP", None)


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect the signals that tell a run to stop, so that it can save first. A second signal kills as usual.

    But not a second SIGHUP: both the shell and the system may send one. Under `nohup`, where it is ignored, it stays so.

    Yields:
        The numbers of the signals received so far.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if signum != _HANGUP:
            signal.signal(signum, before[signal.Signals(signum)])

    before = {signum: signal.getsignal(signum) for signum in STOPS}
    if _HANGUP is not None and before[_HANGUP] == signal.SIG_IGN:
        del before[_HANGUP]
    for signum in before:
        signal.signal(signum, note)
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

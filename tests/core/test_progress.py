"""Progress bars do not show what was done to the clock."""

from __future__ import annotations

import io
import sys
import time

import pytest

from beit.core.progress import progress_bar

pytest.importorskip("tqdm")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_keeps_to_a_clock_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    bar = progress_bar(range(3), purpose="a test", mininterval=0)
    iterator = iter(bar)
    next(iterator)
    monkeypatch.setattr(time, "time", lambda: now - 7200)
    next(iterator)
    assert 0 <= bar.format_dict["elapsed"] < 60
    assert "-" not in str(bar).partition("[")[2]
    bar.close()


def test_a_bar_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert progress_bar(purpose="a test", total=3).disable
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert progress_bar(purpose="a test", total=3, shown=False).disable

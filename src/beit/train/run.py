"""A run's folder: begin in it, or go on from where it stopped; one run at a time; told to stop, it saves first."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from beit.core.errors import DataError, TrainingError
from beit.core.files import atomic_path, read_json
from beit.train import checkpoint
from beit.train.distributed import Processes
from beit.train.settings import SETTINGS_FILE, RunSettings, differences

logger = logging.getLogger("beit")

LOG_FILE = "log.jsonl"
LOCK_FILE = ".lock"
# What a scheduler sends before it takes the machine away (SLURM's --signal=USR1@60, a cloud's SIGTERM), and Ctrl-C.
STOPS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


@dataclass
class Run:
    """A run's folder and where it begins.

    Attributes:
        processes: that share the batches.
        settings: what the run does.
        first: number of finished steps.
        checkpoint: where to go on from, or None.
        state: what the checkpoint's state.json says.
        history: lines of the log so far.
    """

    processes: Processes
    settings: RunSettings
    first: int = 0
    checkpoint: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.processes.rank

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.processes.world

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.processes.main


def open_run(settings: RunSettings, processes: Processes, check: Callable[[Path], None]) -> Run:
    """Look at the output folder: start in it, or find where to go on. Nothing is written yet.

    Args:
        settings: what the run does.
        processes: that share the batches.
        check: raises CheckpointError when the engine's own files in a checkpoint cannot be read.

    Raises:
        DataError: the folder holds a run or a model already and `resume` is "never".
        TrainingError: the run to go on with has other settings (says which), or no readable checkpoint; or `resume` is
            "must" and there is none.
    """
    run = Run(processes, settings)
    output = settings.output
    if output.is_file():
        raise DataError(f"{output} is a file; give a folder for the result.")
    if settings.resume != "never":
        found = checkpoint.last(output, lambda folder: _check(folder, settings, check))
        if found is not None:
            run.checkpoint, run.state = found
            changed = differences(run.state.get("settings", {}), settings.to_dict())
            if changed:
                raise TrainingError(
                    "\n  ".join([f"{run.checkpoint} belongs to a run with other settings:", *changed])
                    + "\nGo on with the same ones, or choose another output folder."
                )
            run.first = run.state["step"]
            return run
        if settings.resume == "must":
            raise TrainingError(f"{output} has no checkpoint to go on from. Start with --resume auto, or without it.")
        if (output / SETTINGS_FILE).exists() and not (output / "config.json").exists():
            logger.info("%s has no checkpoint yet; starting at step 0", output)
            return run
    elif (output / SETTINGS_FILE).exists():
        raise _holds_a_run(output)
    if (output / "config.json").exists():
        raise DataError(f"{output} holds a model, which would be overwritten. Choose another output folder.")
    return run


def _check(folder: Path, settings: RunSettings, check: Callable[[Path], None]) -> None:
    saved = read_json(folder / checkpoint.STATE_FILE).get("settings", {})
    # Of another framework's run the engine can read nothing, but it is not damaged: the settings will say what is wrong.
    if saved.get("framework") == settings.to_dict().get("framework"):
        check(folder)


def _holds_a_run(output: Path) -> DataError:
    return DataError(f"{output} already holds a run. Go on with it by --resume, or choose another output folder.")


@contextlib.contextmanager
def only_run(run: Run) -> Iterator[None]:
    """Hold the folder for this run: two in one would delete each other's checkpoints. A killed run holds nothing.

    Raises:
        DataError: another run is writing in it, or has written in it since `open_run`.
    """
    if not run.main:
        yield
        return
    output = run.settings.output
    output.mkdir(parents=True, exist_ok=True)
    with open(output / LOCK_FILE, "a+", encoding="utf-8") as file:
        _lock(file, output)
        if run.settings.resume == "never" and (output / SETTINGS_FILE).exists():
            raise _holds_a_run(output)
        file.seek(0)
        file.truncate()
        json.dump({"process": os.getpid(), "host": socket.gethostname()}, file)
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(output / LOCK_FILE)


def _lock(file: IO[str], output: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: no lock, no harm
        return
    try:
        # Not flock: a worker that outlives a killed run for a moment would hold that lock too.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if not isinstance(error, BlockingIOError | PermissionError):  # as systems say
            return  # a file system without locks
        file.seek(0)
        try:
            holder = json.loads(file.read())
            who = f"process {holder['process']} on {holder['host']}"
        except (ValueError, KeyError):
            who = "another process"
        raise DataError(
            f"A run is writing in {output} now ({who}). Wait for it or stop it, or choose another output folder."
        ) from error


def cut_log(path: Path, run: Run) -> None:
    """Drop what a killed run logged after its last checkpoint: these steps come again."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # the last line may be cut
            entry = json.loads(line)
            if entry.get("step", 0) <= run.first:
                lines.append(line)
                run.history.append(entry)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect the signals that tell a run to stop instead of dying of them; a second one kills as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        signal.signal(signum, before[signal.Signals(signum)])

    before = {signum: signal.getsignal(signum) for signum in STOPS}
    for signum in before:
        signal.signal(signum, note)
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

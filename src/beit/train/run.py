"""A run's folder: begin a run in it, or continue one where it stopped; one run at a time."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Generic, ParamSpec, TypeVar

from beit.checkpoints import Checkpoint
from beit.core.errors import BeitError, CheckpointError, DataError, MissingExtraError, TrainingError
from beit.core.files import atomic_path, check_folder, read_json
from beit.data.processor import BeitImageProcessor
from beit.train import checkpoint
from beit.train.distributed import Processes
from beit.train.history import History
from beit.train.settings import FREE, SETTINGS_FILE, RunSettings, differences
from beit.train.start import fill_paper_rate, normalisation
from beit.train.trackers import check_tracker

logger = logging.getLogger("beit")
Params = ParamSpec("Params")
ResultT = TypeVar("ResultT")
SettingsT = TypeVar("SettingsT", bound=RunSettings)
SettingsT_co = TypeVar("SettingsT_co", bound=RunSettings, covariant=True)

LOG_FILE = "log.jsonl"
LOCK_FILE = ".lock"
_DECIDED = ("batch_size", "epochs", "learning_rate", "label_smoothing", "drop_path", "layer_decay")


class UselessCheckpoint(CheckpointError):
    """A checkpoint of this run can be read, but a run cannot go on from it.

    Attributes:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path, error: Exception) -> None:
        says = str(error) if isinstance(error, BeitError) else f"{type(error).__name__}: {error}"
        super().__init__(says if folder.name in says else f"{folder}: {says}")
        self.folder = folder


# Checkpoints that `from_last_good` has found to be of no use, and why. Of one call: another one looks at them anew.
_useless: ContextVar[dict[Path, str]] = ContextVar("useless")


def from_last_good(outline: Callable[Params, ResultT]) -> Callable[Params, ResultT]:
    """Decorate the outline of a run: where it finds a checkpoint to be of no use, it begins again with an older one."""

    @functools.wraps(outline)
    def again(*args: Params.args, **keywords: Params.kwargs) -> ResultT:
        token = _useless.set({})
        try:
            while True:
                try:
                    return outline(*args, **keywords)
                except UselessCheckpoint as error:
                    _useless.get()[error.folder] = str(error)
        finally:
            _useless.reset(token)

    return again


@dataclass
class Run(Generic[SettingsT_co]):
    """A run's folder, and where in it the run begins.

    Attributes:
        processes: those that share the batches.
        settings: what the run does; settings.json.
        requested: the settings as they were given, with which those of a resume are compared; in each state.json.
        first: how many steps are finished.
        checkpoint: the folder to continue from, or None.
        state: what the checkpoint's state.json says.
        opened: the weights in the checkpoint, read: a `Checkpoint`, or a tokenizer.
        history: lines of the log so far.
    """

    processes: Processes
    settings: SettingsT_co
    first: int = 0
    checkpoint: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)
    opened: Any = None
    history: list[dict[str, float]] = field(default_factory=History)

    def __post_init__(self) -> None:
        self.requested = self.settings

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """What a run takes from its checkpoint is built in this `with`: an error says that the checkpoint is of no use.

        Raises:
            UselessCheckpoint: for any error, on a resume; `from_last_good` goes back to an older checkpoint then.
        """
        try:
            yield
        except MissingExtraError:
            raise
        except (BeitError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
            if self.checkpoint is None:
                raise
            raise UselessCheckpoint(self.checkpoint, error) from error

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


def open_run(
    settings: SettingsT,
    processes: Processes,
    check: Callable[[Path], None],
    read: Callable[[Path], Any] = checkpoint.read_model,
) -> Run[SettingsT]:
    """Look into the output folder: start a run in it, or find where to continue. Nothing is written yet.

    Args:
        settings: what the run does. A learning rate that was left out is filled in.
        processes: those that share the batches.
        check: raises CheckpointError when the engine's own files in a checkpoint cannot be read.
        read: opens the weights in a checkpoint; raises CheckpointError when they cannot be read.

    Raises:
        DataError: the folder holds a run or a model already and `resume` is "never".
        TrainingError: the run to continue has other settings (the message says which), or no readable checkpoint; or
            `resume` is "must" and there is none.
    """
    if processes.main:
        check_tracker(settings)
    fill_paper_rate(settings)
    run = Run(processes, settings)
    output = settings.output
    check_folder(output)
    if settings.resume != "never":
        found = _last_checkpoint(settings, check, read)
        if found is not None:
            run.checkpoint, run.state, run.opened = found
            run.first = found.state["step"]
            return run
        if settings.resume == "must":
            raise TrainingError(
                f"{output} has no checkpoint to continue from. Start with --resume auto, or without it."
            )
        if (output / SETTINGS_FILE).exists() and not (output / "config.json").exists():
            logger.info("%s has no checkpoint yet; starting at step 0", output)
            return run
    elif (output / SETTINGS_FILE).exists():
        raise _holds_a_run(output)
    if (output / "config.json").exists():
        raise DataError(f"{output} holds a model, which would be overwritten. Choose another output folder.")
    return run


def _last_checkpoint(
    settings: RunSettings, check: Callable[[Path], None], read: Callable[[Path], Any]
) -> checkpoint.Saved | None:
    """The checkpoint to continue from. Raises TrainingError when it belongs to a run with other settings."""

    def of_this_kind(folder: Path) -> bool:
        # A checkpoint of another kind of run is not damaged, but cannot be read as one of this kind. The comparison of the
        # settings will say what is wrong.
        saved = _saved_settings(read_json(folder / checkpoint.STATE_FILE))
        free = {*FREE, *settings.ADDED}
        same = saved.keys() - free == settings.to_dict().keys() - free
        return same and saved.get("framework") == getattr(settings, "framework", None)

    found = checkpoint.last(
        settings.output,
        lambda folder: check(folder) if of_this_kind(folder) else None,
        lambda folder: read(folder) if of_this_kind(folder) else None,
        _useless.get({}),
    )
    if found is not None and (changed := _changed_settings(found, settings)):
        raise TrainingError(
            "\n  ".join([f"{found.folder} belongs to a run with other settings:", *changed])
            + f"\nGo on with the same ones: --resume --output {settings.output} takes them from there. Or train what this run has "
            f"learned in another way: {_from_here(settings)}."
        )
    return found


def _from_here(settings: RunSettings) -> str:
    """The flags of a new run that begins from the model of the one in the output folder."""
    if hasattr(settings, "model"):
        return f"--model {settings.output} --output NEW, without --resume"
    return "--output NEW, without --resume"  # a tokenizer begins from nothing


def _saved_settings(state: dict[str, Any]) -> dict[str, Any]:
    return state.get("settings", {})


def _changed_settings(found: checkpoint.Saved, settings: RunSettings) -> list[str]:
    """What differs between the settings of a checkpoint's run and those given now, in words."""
    then, now = _saved_settings(found.state), settings.to_dict()
    # Mean and deviation may be given as they were before, or as settings.json states them: there they are those of the
    # image processor that the run started from.
    if isinstance(found.opened, Checkpoint) and (processor := BeitImageProcessor.stored_in(found.opened)) is not None:
        for name, used in zip(("mean", "std"), normalisation(processor), strict=True):
            if now.get(name) == used:
                now[name] = then.get(name)
    # What the settings left open was decided when the run began: it may be left open again, or given as settings.json states it.
    with contextlib.suppress(CheckpointError):
        stated = read_json(settings.output / SETTINGS_FILE)
        for name in _DECIDED:
            if isinstance(stated, dict) and name in stated and now.get(name) == stated[name]:
                now[name] = then.get(name)
    return differences(then, now, settings.ADDED)


def _holds_a_run(output: Path) -> DataError:
    return DataError(
        f"{output} already holds a run. Go on with it: --resume --output {output}. Or choose another output folder."
    )


@contextlib.contextmanager
def only_run(run: Run) -> Iterator[None]:
    """Lock the folder for as long as the `with` lasts: two runs in one folder would delete each other's checkpoints.

    The system releases the lock of a run that was killed.

    Raises:
        DataError: another run is writing in the folder, or has written in it since `open_run`.
    """
    if not run.main:
        yield
        return
    output = run.settings.output
    with locked(output):
        if run.settings.resume == "never" and (output / SETTINGS_FILE).exists():
            raise _holds_a_run(output)
        yield


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Make the folder if need be, and lock it for as long as the `with` lasts.

    Raises:
        DataError: another process has locked it, or it cannot be written in.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        # "a+": must not empty the file of a run that holds it.
        file = open(output / LOCK_FILE, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise DataError(
            f"{output} cannot be written in: {error.strerror or error}. Give another folder for the result."
        ) from error
    with file:
        _lock(file, output)
        with contextlib.suppress(OSError):  # a full disk; it only holds whom the error message names
            # Not through the file's buffer, which closing would try to write again.
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(output / LOCK_FILE)


def _lock(file: IO[str], output: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no such locks; two runs in one folder are not noticed there
        return
    try:
        # Not flock: workers inherit such a lock, and one that outlives a killed run for a moment would still hold it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if not isinstance(
            error, BlockingIOError | PermissionError
        ):  # systems use one or the other for a lock that is held
            return  # a file system without locks
        file.seek(0)
        try:
            holder = json.loads(file.read())
            who = f"process {holder['process']} on {holder['host']}"
        except (ValueError, KeyError, TypeError):
            who = "another process"
        raise DataError(
            f"A run is writing in {output} now ({who}). Wait for it or stop it, or choose another output folder."
        ) from error


def cut_log(path: Path, run: Run) -> None:
    """Drop the lines that a killed run logged after its last checkpoint, because these steps are repeated.

    Lines that are no lines of a log are dropped too, and counted on stderr: a kill cuts the last one, a disk may spoil others.

    Raises:
        CheckpointError: the log cannot be read or written.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}. Move it away and go on.") from error
    lines, strange = [], []
    for number, line in enumerate(text.splitlines(), 1):
        entry = _log_entry(line)
        if entry is None:
            strange.append(number)
        elif entry["step"] <= run.first:
            lines.append(line)
            run.history.append(entry)
    if strange:
        logger.warning("%s: %d lines are none of a log and are dropped, line %d first", path, len(strange), strange[0])
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _log_entry(line: str) -> dict[str, float] | None:
    """A line of the log, read; None for one that no run has written."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or type(entry.get("step")) is not int or entry["step"] < 1:
        return None
    return entry if all(type(value) in (int, float) for value in entry.values()) else None

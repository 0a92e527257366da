"""What a long prediction has done so far, on disk: a run that ends at any moment goes on after the last whole batch.

    results.csv.partial/work.json       what is asked: images, model, settings; written first
    results.csv.partial/batches.jsonl   one line per batch of predictions, synced before the next batch begins
    results.csv                         appears by one rename, when all is done; then the folder is removed

A line that was cut short is dropped, and its batch is computed again. Batches hold the same images as in a run that was never
interrupted, so the results are the same too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from beit.core.errors import CheckpointError, ConfigError
from beit.core.files import read_json, sync_folder, write_json
from beit.core.text import printable
from beit.inference.classification import Prediction

PARTIAL = ".partial"
_WORK, _BATCHES = "work.json", "batches.jsonl"
_ROUNDING = 1e-3  # relative; another machine may round differently


def partial_folder(result: Path) -> Path:
    """`results.csv.partial` beside `results.csv`: unfinished work on it, on the same disk."""
    return result.with_name(result.name + PARTIAL)


def digest(names: Sequence[str]) -> str:
    """Equal for equal names in the same order."""
    found = hashlib.sha256()
    for name in names:
        found.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return found.hexdigest()


class Journal:
    """Predictions of a run, batch by batch. As a context it closes its file, and removes an empty journal after an error.

    Args:
        folder: where to keep them.
        work: what the results depend on, as values of JSON; compared when the run goes on.
        resume: go on with what the folder holds; where there is nothing, begin.

    Attributes:
        done: number of images whose predictions are on disk.

    Raises:
        ConfigError: the folder has unfinished work and `resume` is False; or it is work of another kind.
        CheckpointError: it is damaged, or cannot be written.
    """

    def __init__(self, folder: Path, work: dict[str, Any], resume: bool = False) -> None:
        self.folder = folder
        self.done = 0
        if os.path.lexists(folder) and not resume:
            raise ConfigError(
                f"{folder} holds unfinished work. Go on with it by --resume, or remove that folder to begin anew."
            )
        if (folder / _WORK).exists():
            _compare(folder, read_json(folder / _WORK), work)
        else:
            if (folder / _BATCHES).exists():
                raise CheckpointError(f"{folder} lacks its {_WORK}; remove that folder to begin anew.")
            write_json(folder / _WORK, work)
            sync_folder(folder.parent)
        try:
            self._file = open(folder / _BATCHES, "a+b")  # noqa: SIM115  (closed in __exit__)
            try:
                _lock(self._file.fileno(), folder)
                whole = 0
                for end, batch in self._read():
                    whole, self.done = end, self.done + len(batch)
                self._file.truncate(whole)
                sync_folder(folder)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise _unwritable(folder, error) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is not None and not self.done:
            shutil.rmtree(self.folder, ignore_errors=True)  # there is nothing to go on with

    def add(self, batch: Sequence[Prediction]) -> None:
        """Write the next batch; it is on disk when this returns. Raises CheckpointError where it cannot be written."""
        line = json.dumps({"first": self.done, "predictions": list(batch)}) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self.done += len(batch)

    def predictions(self) -> Iterator[Prediction]:
        """All that is on disk, in order."""
        for _, batch in self._read():
            yield from batch

    def _read(self) -> Iterator[tuple[int, list[Prediction]]]:
        """(where its line ends, its predictions) of each batch, up to the first line that is not whole."""
        self._file.seek(0)
        end = done = 0
        for line in self._file:
            try:
                values = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n") or not isinstance(values, dict) or values.get("first") != done:
                return
            end += len(line)
            done += len(values["predictions"])
            yield end, values["predictions"]

    def remove(self) -> None:
        """Remove the folder: the result is where it belongs."""
        self._file.close()
        (self.folder / _BATCHES).unlink()  # before the file without which it would count as damaged
        shutil.rmtree(self.folder)


def _compare(folder: Path, then: Any, now: dict[str, Any]) -> None:
    """Raise ConfigError unless the work in the folder is the one that is asked for now."""
    if not isinstance(then, dict) or then.keys() != now.keys():
        raise ConfigError(f"{folder} is work of another version of beit; remove that folder to begin anew.")
    advice = f"Give what was given then, or remove {folder} to begin anew."
    for name, value in now.items():
        if name == "images":
            if value != then[name]:
                raise ConfigError(
                    f"These are not the images that {folder} was begun with: names or order differ. {advice}"
                )
        elif name == "model":
            if not _same_model(value, then[name]):
                raise ConfigError(
                    f"This is not the model that {folder} was begun with, or it has been trained since: a test image gets other "
                    f"numbers. {advice}"
                )
        elif value != then[name]:
            raise ConfigError(
                f"{name} is {printable(value)}; {folder} was begun with {printable(then[name])}. {advice}"
            )


def _same_model(one: dict[str, Any], other: Any) -> bool:
    """Whether the classes are the same, and the numbers of a test image differ by rounding alone."""
    if not isinstance(other, dict) or one["classes"] != other.get("classes"):
        return False
    largest = max(map(abs, one["sample"]), default=0.0)
    pairs = zip(one["sample"], other.get("sample", []), strict=True)  # as many as there are classes
    return all(abs(x - y) <= _ROUNDING * largest for x, y in pairs)


def _lock(handle: int, folder: Path) -> None:
    """Keep other processes out until the file is closed, where the system can."""
    with contextlib.suppress(ImportError, OSError):  # Windows has none, some network drives neither
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"Another process works on {folder}. Wait for it, or end it first.") from error


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be written: {error.strerror or error}. What it holds already is kept: go on with --resume."
    )

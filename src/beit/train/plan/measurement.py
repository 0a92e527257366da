"""What a few real steps of a run take: seconds, memory, bytes. They run in a temporary folder, which is removed (`beit plan`).

The first steps are not measured: in them caches fill, and the workers' queues, which were filled in advance, run empty. Where
images are read more slowly than they are used, only later steps show it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beit.core.errors import DataError, require
from beit.data.sources import open_images
from beit.data.sources.stream import Stream
from beit.train.alarms import silence
from beit.train.finetune import finetune
from beit.train.parts import parts_of
from beit.train.plan.torch.memory import peak_and_total, reset_peak
from beit.train.pretrain import pretrain
from beit.train.segmentation import segment
from beit.train.settings import (
    FinetuneSettings,
    PretrainSettings,
    RunSettings,
    SegmentSettings,
    TokenizerSettings,
    ValidatedSettings,
)
from beit.train.tokenizer import train_tokenizer

_SETTLING = 2  # the first steps are slower: memory is allocated, kernels are chosen
_QUEUED = 2  # batches that each worker has ready before the first step (PyTorch's prefetch_factor)


@dataclass
class Measurement:
    """What a few real steps took on this machine.

    Attributes:
        seconds: of each measured step.
        skipped: steps before them.
        start: seconds before the first step: images listed, model made, workers started.
        save: seconds to write a checkpoint.
        data_wait: fraction of the time in which steps wait for their images.
        checkpoint: bytes of a checkpoint.
        model: bytes of the model that a finished run leaves beside its checkpoints.
        line: bytes per line of the log, including TensorBoard's.
        memory: most bytes in use, of the GPU or of this process and its workers.
        memory_of: what `memory` is of: "GPU" or "processes".
        memory_there: how many bytes the GPU or the machine has.
    """

    seconds: list[float]
    skipped: int
    start: float
    save: float
    data_wait: float
    checkpoint: int
    model: int
    line: int
    memory: int
    memory_of: str
    memory_there: int


def measure(settings: RunSettings, steps: int = 5, devices: int = 1) -> Measurement:
    """Run some steps in a temporary folder beside the output, on one device, and remove it.

    The learning rate is tiny, because a full one without its warm-up could make the run diverge.

    Raises:
        DataError: no folder can be made there.
        BeitError: as the run itself would.
    """
    skipped = _SETTLING + _QUEUED * settings.workers
    changes: dict[str, Any] = {
        "batch_size": settings.batch_size // devices,  # one device's share
        "steps": skipped + steps,
        "log_every": 1,
        "save_every": 10**9,  # only at the end
        "learning_rate": settings.learning_rate * 1e-6,
        "min_learning_rate": 0.0,
        "resume": "never",
        "tracker": "none",  # no service hears of it, and the few steps have more pictures than many
    }
    known = {item.name for item in dataclasses.fields(settings)}
    # Evaluation and probes are left out; the forecast's notes say so.
    if isinstance(settings, ValidatedSettings):
        changes |= {"validate_every": 0, "result": "last", "patience": 0}
    if isinstance(settings, FinetuneSettings):
        changes |= _without_validation(settings)
    changes |= dict.fromkeys({"validation", "validation_images", "validation_maps", "probe"} & known)
    with _folder_beside(settings.output) as folder, _Memory() as memory, silence():
        output = folder / settings.output.name
        began = time.time()
        lines = train_some(dataclasses.replace(settings, output=output, **changes))
        ended = time.time()
        log = output / "log.jsonl"
        written = log.stat().st_mtime  # the checkpoint comes after the last line
        checkpoint = sum(map(bytes_of, output.glob("checkpoint-*")))
        logged = bytes_of(log)
        model = bytes_of(output) - checkpoint - logged
    if settings.tracker == "tensorboard":
        logged *= 2  # an event has about as many bytes as the line
    # The log has images per second; with fewer images than a batch, a step has all of them.
    images = min(changes["batch_size"], images_in_epoch(settings) or changes["batch_size"])
    seconds = [images / line["images_per_second"] for line in lines]
    return Measurement(
        seconds=seconds[skipped:],
        skipped=skipped,
        start=max(written - began - sum(seconds), 0.0),
        save=max(ended - written, 0.0) * checkpoint / max(checkpoint + model, 1),  # the rest wrote the model
        data_wait=sum(line.get("data_wait", 0.0) for line in lines[skipped:]) / steps,
        checkpoint=checkpoint,
        model=model,
        line=round(logged / len(lines)),
        memory=memory.most,
        memory_of=memory.of,
        memory_there=memory.there,
    )


class _Memory(threading.Thread):
    """Looks ten times per second how much memory this process and its workers use.

    Attributes:
        most: bytes at the peak; on a GPU those of tensors, without the memory that PyTorch keeps for later ones.
        of: "GPU" or "processes".
        there: bytes that the GPU or the machine has.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.psutil = require("psutil", "train", "beit plan")
        self.process, self.done, self.most = self.psutil.Process(), threading.Event(), 0
        self.of, self.there = "processes", int(self.psutil.virtual_memory().total)

    def run(self) -> None:
        while not self.done.wait(0.1):
            self.look()

    def look(self) -> None:
        """Take note of the memory that is used now."""
        used = 0
        for process in (self.process, *self.process.children(recursive=True)):
            with contextlib.suppress(self.psutil.Error):  # a worker that has ended in the meantime
                used += process.memory_info().rss
        self.most = max(self.most, used)

    def __enter__(self) -> _Memory:
        reset_peak()
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.join()
        self.look()  # a run of few small steps may be over before the first look
        gpu = peak_and_total()
        if gpu is not None:
            self.of, (self.most, self.there) = "GPU", gpu


def train_some(settings: RunSettings) -> list[dict[str, float]]:
    """The lines of the log of a run, by the function that its command calls."""
    return _TRAIN[type(settings)](settings)


_TRAIN: dict[type[RunSettings], Callable[[Any], list[dict[str, float]]]] = {
    PretrainSettings: pretrain,
    FinetuneSettings: lambda settings: finetune(settings)[0],
    SegmentSettings: lambda settings: segment(settings)[0],
    TokenizerSettings: train_tokenizer,
}


@contextlib.contextmanager
def _folder_beside(output: Path) -> Iterator[Path]:
    """A temporary folder on the output's disk: writing takes as long there, while /tmp is often memory and small."""
    parent = existing_folder(output.absolute().parent)
    try:
        folder = tempfile.TemporaryDirectory(prefix=".beit-plan-", dir=parent)
    except OSError as error:
        raise DataError(f"No folder can be made in {parent}: {error.strerror or error}.") from error
    with folder as name:
        yield Path(name)


def existing_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _without_validation(settings: FinetuneSettings) -> dict[str, Any]:
    """Changes of the settings after which the same images are learned from, and those of `validation` are not looked at."""
    return {} if settings.validation is None else {"validation": None, "hold_out": 0.0}


def images_in_epoch(settings: RunSettings) -> int | None:
    """Images in an epoch; None where it is unknown. Raises DataError where there are none."""
    if str(settings.images).startswith("embedded:"):
        return None
    if isinstance(settings, FinetuneSettings):
        found = parts_of(dataclasses.replace(settings, **_without_validation(settings))).learn
    else:
        found = open_images(settings.images)
    return settings.images_per_epoch or found.shards.total if isinstance(found, Stream) else len(found)

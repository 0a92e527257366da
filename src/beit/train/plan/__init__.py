"""What a run will take, before it starts (`beit plan`).

settings → measure: a few real steps, by the function that trains → seconds per step, memory, bytes of a checkpoint
         → count: parameters, operations per image
         → forecast: hours, when it ends, and whether the disk is large enough
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from beit.core.errors import ConfigError, TrainingError
from beit.core.notebook import Shown
from beit.core.text import duration
from beit.data.order import Order
from beit.train.plan.measurement import Measurement, existing_folder, images_in_epoch, measure
from beit.train.plan.torch.flops import count
from beit.train.plan.work import Work
from beit.train.settings import SETTINGS_FILE, RunSettings


@dataclass(repr=False)
class Forecast(Shown):
    """What a run will take. Times are in seconds, sizes in bytes; None where nothing was measured.

    Attributes:
        steps: how many the run has.
        epochs: the same, in passes over the images; None for streams of unknown length.
        images: in an epoch.
        batch_size: images per step, over all devices.
        devices: how many share a batch.
        work: what an image costs.
        step: seconds per step.
        fastest: seconds of the whole run, if all steps were like the fastest one measured.
        slowest: the same, if all were like the slowest.
        time: seconds of the whole run, at the mean speed.
        end: when the run would end if it began now.
        checkpoint: bytes per checkpoint.
        checkpoints: how many are on the disk at once, at most.
        disk: bytes that the run needs.
        free: bytes that are free where its output goes.
        where: the folder in which `free` was measured.
        measured: the measurement, if there was one.
        notes: what the forecast leaves out or assumes.
    """

    steps: int
    epochs: float | None
    images: int | None
    batch_size: int
    devices: int
    work: Work
    step: float | None
    fastest: float | None
    slowest: float | None
    time: float | None
    end: datetime | None
    checkpoint: int
    checkpoints: int
    disk: int
    free: int
    where: Path
    measured: Measurement | None
    notes: list[str]

    @property
    def fits(self) -> bool:
        """Whether the disk is large enough."""
        return self.disk <= self.free

    def shown(self) -> tuple[str, list[tuple[str, ...]]]:
        """As `Shown.shown`: the lines of `describe`."""
        return "Forecast", [*_rows(self), *(("note", note) for note in self.notes)]

    def to_dict(self) -> dict[str, Any]:
        """All values as JSON can hold them."""
        values = dataclasses.asdict(self)
        end = None if self.end is None else self.end.isoformat(timespec="seconds")
        return {**values, "where": str(self.where), "end": end, "fits": self.fits}


def forecast(
    settings: RunSettings,
    steps_measured: int = 5,
    devices: int = 1,
    measured: bool = True,
    images_per_second: float | None = None,
) -> Forecast:
    """What a run of these settings will take.

    Args:
        settings: of the run, as its command takes them.
        steps_measured: how many real steps to measure.
        devices: how many will share a batch. Here one of them does its share.
        measured: whether to measure at all.
        images_per_second: the speed to assume instead, over all devices.

    Raises:
        ConfigError: a setting is impossible, or the length of the run is unknown.
        BeitError: as the run itself at its start.
    """
    images = images_in_epoch(settings)
    settings = settings.decided(images)
    if settings.batch_size % devices:
        raise ConfigError(f"A batch of {settings.batch_size} cannot be divided among {devices} devices.")
    steps, epochs = _length(settings, images)
    batch = settings.batch_size if images is None else min(settings.batch_size, images)
    found = measure(settings, steps_measured, devices) if measured else None
    work = count(settings)
    if found is None:  # float32: the weights and Adam's two moments, and the weights again for a moving average
        checkpoint, model, line = 4 * work.parameters * (4 if settings.ema else 3), 4 * work.parameters, 500
        model *= 2 if settings.ema else 1
    else:
        checkpoint, model, line = found.checkpoint, found.model, found.line
    saves = -(-steps // settings.save_every)
    kept = min(saves, settings.keep + 1)  # the new one is written before the oldest is removed
    disk = kept * checkpoint + model + line * -(-steps // settings.log_every)
    where = existing_folder(settings.output)
    notes = _notes(settings, devices, found, images_per_second is not None)

    seconds = [] if found is None else found.seconds
    if images_per_second is not None:
        seconds = [batch / images_per_second]
    mean = sum(seconds) / len(seconds) if seconds else None
    whole: list[float | None] = [None] * 3
    if seconds and mean is not None:
        # Beside the steps: the start, and the checkpoints.
        more = 0.0 if found is None else found.start + saves * found.save
        whole = [steps * step + more for step in (min(seconds), mean, max(seconds))]
    end = None if whole[1] is None else _now() + timedelta(seconds=whole[1])
    return Forecast(
        steps=steps,
        epochs=epochs,
        images=images,
        batch_size=batch,
        devices=devices,
        work=work,
        step=mean,
        fastest=whole[0],
        slowest=whole[2],
        time=whole[1],
        end=end,
        checkpoint=checkpoint,
        checkpoints=kept,
        disk=disk,
        free=shutil.disk_usage(where).free,
        where=where,
        measured=found,
        notes=notes,
    )


def _now() -> datetime:
    return datetime.now().astimezone()


def _notes(settings: RunSettings, devices: int, found: Measurement | None, told: bool) -> list[str]:
    notes = []
    if found is None:
        notes.append("Sizes are counted, not measured: weights, and Adam's two moments, in float32.")
    if told:
        notes.append("The speed is the one that was given.")
    elif found is not None:
        notes.append(
            f"The mean of {len(found.seconds)} steps, after {found.skipped} others, on this machine as busy as it is now."
        )
    if found is not None and found.memory_of == "processes":
        notes.append("Memory that workers share with the main process is counted several times.")
    if devices > 1 and found is not None:
        notes.append(f"{devices} devices like this one; the time to exchange gradients between them is not counted.")
    for name, text in (
        ("validation", "measuring on the validation images at the end"),
        ("validation_images", "measuring on the validation images at the end"),
        ("probe", "the probes"),
    ):
        if getattr(settings, name, None) is not None:
            notes.append(f"Not counted: {text}.")
    if (settings.output / SETTINGS_FILE).exists():
        more = "the run will refuse it." if settings.resume == "never" else "its finished steps are counted again."
        notes.append(f"{settings.output} already holds a run; {more}")
    return notes


# --- how long ----------------------------------------------------------------------------------------------------


def total_steps(settings: RunSettings) -> tuple[int, float | None, int | None]:
    """(steps of the run, the same in epochs, images in an epoch); the last two are None for a stream of unknown length.

    An epoch has full batches only, as in the log.

    Raises:
        ConfigError: the settings give epochs of a stream of unknown length.
        DataError: no such folder, or no image in it.
    """
    images = images_in_epoch(settings)
    return *_length(settings.decided(images), images), images


def _length(settings: RunSettings, images: int | None) -> tuple[int, float | None]:
    """(steps, epochs) of a run on so many images."""
    if images is None:
        return settings.total_steps(None), None
    epoch = Order(images, min(settings.batch_size, images), settings.seed).steps_per_epoch
    assert epoch is not None  # the number of images is known
    steps = settings.total_steps(epoch)
    return steps, steps / epoch


# --- in words ----------------------------------------------------------------------------------------------------


def describe(plan: Forecast, name: str) -> str:
    """The forecast as text. `name`: the command, such as `segment train`."""
    return "\n".join([f"beit {name}", *(f"  {label:11} {value}" for label, value in _rows(plan)), *plan.notes])


def _rows(plan: Forecast) -> list[tuple[str, str]]:
    work, found = plan.work, plan.measured
    of = "" if plan.epochs is None else f": {plan.epochs:,.4g} epochs of {plan.images:,} images"
    giga = 1e-9
    rows = [
        ("steps", f"{plan.steps:,} of {plan.batch_size:,} images{of}"),
        ("model", f"{work.parameters / 1e6:,.1f} million parameters"),
        (
            "per image",
            f"{work.total * giga:,.3g} gigaflop: forward {work.forward * giga:,.3g}, backward {work.backward * giga:,.3g}, "
            f"tokenizer {work.tokenizer * giga:,.3g}",
        ),
        ("in total", f"{work.total * plan.steps * plan.batch_size * 1e-15:,.3g} petaflop"),
    ]
    if plan.step is not None and plan.time is not None:
        speed = plan.batch_size / plan.step
        rate = f"{plan.step:.3g} s per step, {speed:,.4g} images/s, {work.total * speed * 1e-12:,.3g} teraflop/s"
        rows.append(("speed", rate))
        if found is not None:
            rows.append(("waiting", f"{found.data_wait:.0%} of the time for images"))
        between = ""
        if plan.fastest is not None and plan.slowest is not None and plan.fastest < plan.slowest:
            between = f" ({duration(plan.fastest)} as the fastest step, {duration(plan.slowest)} as the slowest)"
        rows.append(("time", f"{duration(plan.time)}{between}"))
        rows.append(("end", f"{plan.end:%A, %d %B %Y, %H:%M}, if it starts now"))
    if found is not None:
        rows.append(("memory", f"{size(found.memory)} of the {found.memory_of}; there are {size(found.memory_there)}"))
        rows.append(("checkpoint", f"{size(plan.checkpoint)}, written in {found.save:.2g} s"))
    else:
        rows.append(("checkpoint", size(plan.checkpoint)))
    kept = "1 checkpoint" if plan.checkpoints == 1 else f"{plan.checkpoints} checkpoints"
    rows.append(("disk", f"{size(plan.disk)}: {kept} at most, model, log; {size(plan.free)} are free in {plan.where}"))
    return rows


def size(number: float) -> str:
    """`1.2 GB`: in decimal units, as disks are sold."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} bytes"


def check(plan: Forecast) -> None:
    """Raise TrainingError when the run does not fit on the disk."""
    if not plan.fits:
        raise TrainingError(
            f"The run needs {size(plan.disk)} on the disk, and {size(plan.free)} are free in {plan.where}. Free some space, "
            "keep fewer checkpoints (--keep 1) or choose another output folder."
        )

"""A run goes on in other circumstances than it began in: with more steps, by another number of processes.

What stays the same, what differs from an undisturbed run, and what is refused. The settings are compared in `run.py`.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from beit.core.errors import TrainingError
from beit.data.loader import Loader, ReadBy
from beit.data.sources.stream import Stream
from beit.train.run import Run
from beit.train.schedule import rate_of
from beit.train.settings import RunSettings

logger = logging.getLogger("beit")


def go_on(run: Run[Any], loader: Loader, steps: int) -> None:
    """On a resume: check that the run can go on from its checkpoint, and say what will not be as it was.

    Args:
        run: whose checkpoint was opened.
        loader: of the same images; a stream goes on from its position.
        steps: when the run ends now.

    Raises:
        TrainingError: the images are others, the checkpoint is beyond the last step, or the order of a stream cannot be kept
            and the settings do not allow that.
    """
    if run.checkpoint is None:
        return
    data, processes = _data_of(run.state)
    if data not in (None, loader.images.fingerprint()):
        raise TrainingError(
            f"The images, their order or their classes are not those of {run.checkpoint}. Go on with the same ones, or start "
            "anew in another output folder."
        )
    _check_length(run, loader, steps)
    if isinstance(loader.images, Stream):
        before = None
        if "streams" in run.state:
            with run.going_on():
                before = loader.restore(run.state["streams"])
        if before is not None:
            _accept_other_readers(run, before, loader)
    elif processes not in (None, run.world) and run.main:
        logger.warning(
            "%s was written by %d process(es), now there are %d. Each step has the same images, crops and masks as before. Drop "
            "path, dropout, mixup and cutmix are drawn by each process for its share of the batch, so they differ; without them, "
            "losses differ by rounding only.",
            run.checkpoint,
            processes,
            run.world,
        )


def _data_of(state: dict[str, Any]) -> tuple[str | None, int | None]:
    """(fingerprint of the images, number of processes) that a checkpoint was written with."""
    data = state.get("data")
    if data is None or "processes" in state:
        return data, state.get("processes")
    fingerprint, _, shares = data.rpartition(", ")  # version 0.1 wrote one text: "FINGERPRINT, 2 processes"
    number = shares.partition(" ")[0]
    return fingerprint, int(number) if number.isdecimal() else None


def _check_length(run: Run[Any], loader: Loader, steps: int) -> None:
    """Refuse fewer steps than were done; say what another length changes."""
    if steps < run.first:
        raise TrainingError(
            f"{run.checkpoint} has done {run.first} steps, more than the {steps} that the run is to have now. Give at least "
            f"--steps {run.first}, or another output folder."
        )
    before = _steps_before(run, loader)
    if before in (None, steps) or not run.main:
        return
    last = rate_of(run.settings, max(run.first - 1, 0), before)
    if steps == run.first:
        logger.warning(
            "The run was to end after %d steps; it ends after step %d now, in the middle of its schedule (learning rate %.3g).",
            before,
            steps,
            last,
        )
        return
    logger.warning(
        "The run was to end after %d steps, now after %d. It goes on after step %d with the same order of images. But warm-up, "
        "learning rate and all else that follows from the length are those of %d steps from here on: the learning rate was %.3g "
        "in the last step and is %.3g in the next. A run of %d steps from the start would have other losses.",
        before,
        steps,
        run.first,
        steps,
        last,
        rate_of(run.settings, run.first, steps),
        steps,
    )


def _steps_before(run: Run[Any], loader: Loader) -> int | None:
    """When the run was to end; None if that is unknown."""
    if "steps" in run.state:
        return int(run.state["steps"])
    saved = run.state.get("settings", {})  # of version 0.1
    steps, epochs = saved.get("steps"), saved.get("epochs")
    if type(steps) is not int and type(epochs) not in (int, float):
        return None
    settings: RunSettings = replace(run.settings, steps=steps, epochs=epochs)
    return settings.total_steps(loader.steps_per_epoch)


def _accept_other_readers(run: Run[Any], before: ReadBy, loader: Loader) -> None:
    """Say that the order of a stream is not kept. Raises TrainingError where the settings do not allow it."""
    how = (
        f"{run.checkpoint}: the stream was read by {before.processes} process(es) with {before.workers} worker(s) each; now "
        f"there are {run.world} with {len(loader.positions)}. Which images come next follows from both numbers, so the order "
        "cannot be kept"
    )
    if not run.settings.allow_inexact_resume:
        same = f"--workers {before.workers}"
        if before.processes != run.world:
            same = f"{before.processes} process(es) and {same}"
        raise TrainingError(
            f"{how}. Use as many as before ({same}). Or accept with --allow-inexact-resume that some images come twice in this "
            "pass and others not at all."
        )
    if run.main:
        logger.warning(
            "%s. The run goes on with shards of which about as much has been read; some images come twice in this pass and others "
            "not at all.",
            how,
        )

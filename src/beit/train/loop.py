"""The training loop that tokenizers, pre-training, fine-tuning and segmentation share.

    for each step: batch → engine: loss, gradients → clip → AdamW → average → log → checkpoint

What differs between runs is a `Job`. Its `Engine` computes: in which framework, where and in which precision. The `Run` is
the folder. Loads no framework.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beit.core.errors import BeitError, CheckpointError, Interrupted, TrainingError
from beit.core.files import atomic_path, write_json
from beit.data.loader import Loader
from beit.data.transforms.views import Batch
from beit.data.workers.protocol import deaths_in_words
from beit.train import checkpoint
from beit.train.alarms import Watch
from beit.train.engine import Engine, Metrics
from beit.train.log import Log
from beit.train.pictures import Pictures, drawn
from beit.train.resume import go_on
from beit.train.run import LOG_FILE, Run, cut_log, only_run
from beit.train.schedule import cosine, rate_of
from beit.train.selection import Selection
from beit.train.settings import SETTINGS_FILE
from beit.train.signals import caught_signals

logger = logging.getLogger("beit")

AVERAGED = "ema"  # folder below the output for the model with averaged weights


@dataclass(kw_only=True)
class Job:
    """What a run trains, and how.

    Attributes:
        engine: makes the engine; called when the output folder is this run's.
        loader: gives the batches.
        steps: when the run ends.
        save: (model, folder): writes the model and what belongs to it.
        log_metrics: further metrics of a log line; called once per line, by all processes.
        prepare: (batch in memory, step) → the batch that goes to the engine.
        probe: (model with all its weights, step) → metrics; called in the main process.
        probe_every: steps between probes; the last step has one too.
        pictures: makes pictures for a tracker, of the first step and at each checkpoint; None for none.
        begin: (output folder): writes into it what belongs to the run, before the first step; in the main process.
        header: what the run is about, in a few lines; shown before the first step.
        selection: chooses the best step by the metrics of the probe; its checkpoint is kept, and its model is the result.
            None if the last step's model is.
        averaged: whether the probe measures the averaged weights, and the result has them.
    """

    engine: Callable[[], Engine]
    loader: Loader
    steps: int
    save: Callable[[Any, Path], None]
    log_metrics: Callable[[], dict[str, float]] = dict
    prepare: Callable[[Batch, int], Batch] | None = None
    probe: Callable[[Any, int], dict[str, float]] | None = None
    probe_every: int = 1
    pictures: Pictures | None = None
    begin: Callable[[Path], None] | None = None
    header: str = ""
    selection: Selection | None = None
    averaged: bool = False


def train(run: Run[Any], job: Job) -> list[dict[str, float]]:
    """Run all steps that are left, then save the model into the output folder.

    Returns:
        The lines of the log, those from before a resume included.

    Raises:
        TrainingError: the loss or its gradient is not finite; the last good checkpoint stays. On a resume: as
            `beit.train.resume.go_on`.
        DataError: more than a tenth of the images cannot be read; or another run is writing in the folder.
        InputError: a label is wrong.
        CheckpointError: a checkpoint or the log could not be written; earlier checkpoints stay.
        Interrupted: by Ctrl-C, SIGTERM or SIGUSR1, after saving.
    """
    output = run.settings.output
    go_on(run, job.loader, job.steps)
    run.processes.wait()  # until all have looked at the folder: the main process writes in it from here on
    with only_run(run):
        if run.main:
            checkpoint.clear_unfinished(output)
            write_json(output / SETTINGS_FILE, run.settings.to_dict())
            cut_log(output / LOG_FILE, run)
            if job.begin is not None:
                job.begin(output)
        engine = job.engine()
        if run.checkpoint is not None:
            with run.going_on():
                engine.load(run.checkpoint, run.state)
                if job.selection is not None:
                    job.selection.restore(run.state.get("measured", []))
        watch = Watch(job.steps, round(run.settings.warmup * job.steps))
        log = Log(run, job.steps, job.loader.steps_per_epoch, job.log_metrics, watch)
        log.say(job.header)
        with caught_signals() as received, contextlib.closing(log), deaths_in_words():
            _steps(run, job, engine, log, received)
        _save_result(run, job, engine)
    return run.history


def _steps(run: Run[Any], job: Job, engine: Engine, log: Log, received: list[int]) -> None:
    settings = run.settings
    # Looking at the loss means waiting for it. With an accelerator this is done only once per log line, so that it never idles.
    look_every = 1 if engine.immediate else settings.log_every
    good = run.first  # the last step whose loss and gradient were seen to be finite
    batches = job.loader.batches(run.first, job.steps)
    engine.train_mode()
    # A run that had ended early has nothing left to do.
    first = job.steps if _exhausted(run, job) else run.first
    for step in range(first, job.steps):
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began  # "data_wait" of the log
        if job.prepare is not None:
            batch = job.prepare(batch, step)
        rate = rate_of(settings, step, job.steps)
        decay = None  # leaves it as it is
        if settings.weight_decay_end is not None:
            decay = cosine(step / job.steps, settings.weight_decay, settings.weight_decay_end)

        metrics = engine.step(batch, step, rate, decay)
        log.add(metrics, len(next(iter(batch.values()))), waited)

        done = step + 1
        last = done == job.steps
        saves = last or done % settings.save_every == 0
        probes = job.probe is not None and (last or done % job.probe_every == 0)
        looks = saves or probes or done % look_every == 0
        # Several processes stop at the same step, so they ask each other; only when they look, since asking waits too.
        stop = run.processes.any(bool(received)) if looks else run.world == 1 and bool(received)
        if looks or stop:
            if not engine.finite():
                raise _not_finite(run, good, done, rate, metrics)
            good = done
        # A line at each checkpoint too: then the lines after a resume average over the same steps. Only a stop between two
        # lines splits an average in two.
        if saves or probes or stop or done % settings.log_every == 0:
            log.write(done, rate, _probe(run, job, engine, done) if probes else {})
        better, ended = _judged(run, job, done) if probes else (False, False)
        if saves or stop or better or ended:
            # The weights themselves are looked at: an infinite step makes them infinite, though its gradient was finite.
            if not engine.finite_weights():
                raise _not_finite(run, done - 1, done, rate, metrics)
            _save_checkpoint(run, job, engine, done)
        if done == 1 or saves:
            _show(job, engine, log, batch, done)
        if stop and not last:
            number = received[0] if received else signal.SIGTERM  # another process received it
            name = signal.Signals(number).name
            raise Interrupted(
                number,
                f"Stopped by {name} after step {done}; saved. Go on with --resume --output {run.settings.output}.",
            )
        if ended and not last:
            log.say(f"Ended after step {done} of {job.steps}: the last measurements brought nothing better.")
            break


# --- what is saved ---------------------------------------------------------------------------------------------------


def _save_checkpoint(run: Run[Any], job: Job, engine: Engine, step: int) -> None:
    position = job.loader.state()  # in a stream
    positions = None if position is None else run.processes.gather(position)

    def write(folder: Path) -> None:
        # All processes take part, since of a split model each has only a piece; only the main one writes the model.
        model = engine.full_model()
        if model is not None:
            job.save(model, folder)
        state = {
            "step": step,
            "steps": job.steps,
            "settings": run.requested.to_dict(),
            "data": job.loader.images.fingerprint(),
            "processes": run.world,
        }
        if run.main and folder.is_dir():
            state["model"] = sorted(path.name for path in folder.iterdir())
        state |= engine.save(folder)
        if job.selection is not None:
            state["measured"] = job.selection.state()
        if positions is not None:
            state["streams"] = positions
        if run.main:
            write_json(folder / checkpoint.STATE_FILE, state)

    best = None if job.selection is None else job.selection.best
    checkpoint.save(run.settings.output, step, write, run.settings.keep, run.main, run.processes.wait, best)


def _save_result(run: Run[Any], job: Job, engine: Engine) -> None:
    output = run.settings.output
    model = engine.full_model()
    averaged = engine.averaged()
    if model is not None and not (job.averaged or _take_best(run, job)):
        job.save(model, output)
    if averaged is not None:
        with averaged:
            model = engine.full_model()
            if model is not None:
                job.save(model, output / AVERAGED)
                if job.averaged:
                    job.save(model, output)
    if run.main and job.loader.bad:
        logger.warning("%d images were skipped:\n%s", len(job.loader.bad), job.loader.bad)
    run.processes.wait()


def _take_best(run: Run[Any], job: Job) -> bool:
    """Copy the model of the best step from its checkpoint into the output folder; False where the last step's is to be saved."""
    best = None if job.selection is None else job.selection.best
    if best is None:
        return False
    output = run.settings.output
    folder = checkpoint.folder_of(output, best)
    try:
        names = checkpoint.read_state(folder)["model"]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise CheckpointError("its state.json names files outside it")
        for name in sorted(names, key="config.json".__eq__):  # last: a folder without it is no model yet
            with atomic_path(output / name) as temporary:
                shutil.copyfile(folder / name, temporary)
    except (BeitError, OSError, KeyError, TypeError) as error:
        logger.warning(
            "The best model, of step %d, cannot be taken from %s (%s); the last one is saved.", best, folder, error
        )
        return False
    return True


def _show(job: Job, engine: Engine, log: Log, batch: Batch, step: int) -> None:
    """Pictures of a step, for a tracker. All processes must call it: of a split model each has a part."""
    pictures = job.pictures
    if pictures is None:
        return
    model = engine.full_model()
    log.pictures(step, lambda: drawn(pictures, model, batch, step))
    engine.train_mode()  # predicting has put the model into evaluation mode


# --- what may happen in between --------------------------------------------------------------------------------------


def _probe(run: Run[Any], job: Job, engine: Engine, step: int) -> dict[str, float]:
    """Metrics of the probe; only the main process has them."""
    averaged = engine.averaged() if job.averaged else None
    with averaged or contextlib.nullcontext():
        model = engine.full_model()
        found: dict[str, float] = {}
        if model is not None and job.probe is not None:
            found = job.probe(model, step)
            engine.train_mode()  # the probe has put the model into evaluation mode
        run.processes.wait()
    if job.selection is not None and model is not None:
        job.selection.add(step, found)
    return found


def _judged(run: Run[Any], job: Job, step: int) -> tuple[bool, bool]:
    """(whether the model of this step is the best so far, whether the run is over), as the main process sees it."""
    if job.selection is None:
        return False, False
    return run.processes.any(job.selection.best == step), _exhausted(run, job)


def _exhausted(run: Run[Any], job: Job) -> bool:
    return job.selection is not None and run.processes.any(job.selection.exhausted)


def _not_finite(run: Run[Any], good: int, done: int, rate: float, metrics: Metrics) -> TrainingError:
    norm = float(metrics["gradient_norm"])
    found = checkpoint.list_checkpoints(run.settings.output)
    where = f"The last checkpoint, {found[-1]}, is from before" if found else "There was no checkpoint yet"
    between = f"at step {done}" if done == good + 1 else f"between steps {good + 1} and {done}"
    return TrainingError(
        f"The loss or its gradient is not finite {between} (learning rate {rate:.2g}, gradient norm {norm:.3g}). "
        f"{where}. Try a lower learning rate, a longer warm-up or --precision fp32, in another output folder."
    )

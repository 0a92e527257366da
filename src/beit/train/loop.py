"""The training loop that tokenizers, pre-training, fine-tuning and segmentation share.

    for each step: batch → engine: loss, gradients → clip → AdamW → average → log → checkpoint

What differs between runs is a `Job`. Its `Engine` computes: in which framework, where and in which precision. The `Run` is
the folder. Loads no framework.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beit.core.errors import Interrupted, TrainingError
from beit.core.files import write_json
from beit.data.loader import Loader
from beit.data.transforms.views import Batch
from beit.data.workers.protocol import deaths_in_words
from beit.train import checkpoint
from beit.train.alarms import Watch
from beit.train.engine import Engine, Metrics
from beit.train.log import Log
from beit.train.run import LOG_FILE, Run, cut_log, only_run
from beit.train.schedule import cosine, learning_rate
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
        probe_every: steps between probes.
    """

    engine: Callable[[], Engine]
    loader: Loader
    steps: int
    save: Callable[[Any, Path], None]
    log_metrics: Callable[[], dict[str, float]] = dict
    prepare: Callable[[Batch, int], Batch] | None = None
    probe: Callable[[Any, int], dict[str, float]] | None = None
    probe_every: int = 1


def train(run: Run[Any], job: Job) -> list[dict[str, float]]:
    """Run all steps that are left, then save the model into the output folder.

    Returns:
        The lines of the log, those from before a resume included.

    Raises:
        TrainingError: the loss or its gradient is not finite; the last good checkpoint stays.
        DataError: more than a tenth of the images cannot be read; or another run is writing in the folder.
        InputError: a label is wrong.
        CheckpointError: a checkpoint or the log could not be written; earlier checkpoints stay.
        Interrupted: by Ctrl-C, SIGTERM or SIGUSR1, after saving.
    """
    output = run.settings.output
    _check_data(run, job)
    run.processes.wait()  # until all have looked at the folder: the main process writes in it from here on
    with only_run(run):
        if run.main:
            checkpoint.clear_unfinished(output)
            write_json(output / SETTINGS_FILE, run.settings.to_dict())
            cut_log(output / LOG_FILE, run)
        engine = job.engine()
        if run.checkpoint is not None:
            with run.going_on():
                engine.load(run.checkpoint, run.state)
        watch = Watch(job.steps, round(run.settings.warmup * job.steps))
        log = Log(run, job.steps, job.loader.steps_per_epoch, job.log_metrics, watch)
        with caught_signals() as received, contextlib.closing(log), deaths_in_words():
            _steps(run, job, engine, log, received)
        _save_result(run, job, engine)
    return run.history


def _steps(run: Run[Any], job: Job, engine: Engine, log: Log, received: list[int]) -> None:
    settings = run.settings
    warmup = round(settings.warmup * job.steps)
    # Looking at the loss means waiting for it. With an accelerator this is done only once per log line, so that it never idles.
    look_every = 1 if engine.immediate else settings.log_every
    good = run.first  # the last step whose loss and gradient were seen to be finite
    batches = job.loader.batches(run.first, job.steps)
    engine.train_mode()
    for step in range(run.first, job.steps):
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began  # "data_wait" of the log
        if job.prepare is not None:
            batch = job.prepare(batch, step)
        rate = learning_rate(
            step, job.steps, warmup, settings.learning_rate, settings.min_learning_rate, settings.schedule
        )
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
        if saves or stop:
            # The weights themselves are looked at: an infinite step makes them infinite, though its gradient was finite.
            if not engine.finite_weights():
                raise _not_finite(run, done - 1, done, rate, metrics)
            _save_checkpoint(run, job, engine, done)
        if stop and not last:
            number = received[0] if received else signal.SIGTERM  # another process received it
            name = signal.Signals(number).name
            raise Interrupted(number, f"Stopped by {name} after step {done}; saved. Go on with --resume --output {run.settings.output}.")


# --- what is saved ---------------------------------------------------------------------------------------------------


def _save_checkpoint(run: Run[Any], job: Job, engine: Engine, step: int) -> None:
    position = job.loader.state()  # in a stream
    positions = None if position is None else run.processes.gather(position)

    def write(folder: Path) -> None:
        # All processes take part, since of a split model each has only a piece; only the main one writes the model.
        model = engine.full_model()
        if model is not None:
            job.save(model, folder)
        state = {"step": step, "settings": run.requested.to_dict(), "data": _data(run, job), **engine.save(folder)}
        if positions is not None:
            state["streams"] = positions
        if run.main:
            write_json(folder / checkpoint.STATE_FILE, state)

    checkpoint.save(run.settings.output, step, write, run.settings.keep, run.main, run.processes.wait)


def _save_result(run: Run[Any], job: Job, engine: Engine) -> None:
    output = run.settings.output
    model = engine.full_model()
    if model is not None:
        job.save(model, output)
    averaged = engine.averaged()
    if averaged is not None:
        with averaged:
            model = engine.full_model()
            if model is not None:
                job.save(model, output / AVERAGED)
    if run.main and job.loader.bad:
        logger.warning("%d images were skipped:\n%s", len(job.loader.bad), job.loader.bad)
    run.processes.wait()


def _data(run: Run[Any], job: Job) -> str:
    """Says which data a run is trained on, and in how many shares."""
    return f"{job.loader.images.fingerprint()}, {run.world} processes"


def _check_data(run: Run[Any], job: Job) -> None:
    """On a resume: raises TrainingError for other data; a stream continues from its position."""
    before = run.state.get("data")
    if before not in (None, _data(run, job)):
        raise TrainingError(
            f"The images, their order or their classes, or the number of processes are not those of {run.checkpoint}. "
            "Go on with the same ones, or start anew in another output folder."
        )
    if "streams" in run.state:
        with run.going_on():
            job.loader.restore(run.state["streams"][run.rank])


# --- what may happen in between --------------------------------------------------------------------------------------


def _probe(run: Run[Any], job: Job, engine: Engine, step: int) -> dict[str, float]:
    """Metrics of the probe; only the main process has them."""
    model = engine.full_model()
    found: dict[str, float] = {}
    if model is not None and job.probe is not None:
        found = job.probe(model, step)
        engine.train_mode()  # the probe has put the model into evaluation mode
    run.processes.wait()
    return found


def _not_finite(run: Run[Any], good: int, done: int, rate: float, metrics: Metrics) -> TrainingError:
    norm = float(metrics["gradient_norm"])
    found = checkpoint.list_checkpoints(run.settings.output)
    where = f"The last checkpoint, {found[-1]}, is from before" if found else "There was no checkpoint yet"
    between = f"at step {done}" if done == good + 1 else f"between steps {good + 1} and {done}"
    return TrainingError(
        f"The loss or its gradient is not finite {between} (learning rate {rate:.2g}, gradient norm {norm:.3g}). "
        f"{where}. Try a lower learning rate, a longer warm-up or --precision fp32, in another output folder."
    )

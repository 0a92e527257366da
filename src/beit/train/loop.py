"""The training loop that tokenizer, pre-training, fine-tuning and segmentation share.

    for each step: batch → loss → backward → clip → AdamW → log → checkpoint

What differs is a `Job`. Accelerate places the model on the device and spreads it over processes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from beit import hub
from beit.data.loader import Batch, Loader
from beit.errors import CheckpointError, ConfigError, DataError, Interrupted, TrainingError, require
from beit.train import checkpoint
from beit.train.optim import learning_rate
from beit.train.settings import SETTINGS_FILE, RunSettings, differences

logger = logging.getLogger("beit")

LOG_FILE = "log.jsonl"
Metrics = dict[str, Tensor]


@dataclass
class Job:
    """What a run trains, and how.

    Attributes:
        model: its parameters are in `optimizer`, in groups with a `scale` of the learning rate.
        optimizer: its learning rates are set in every step.
        loader: gives the batch of any step.
        steps: when the run ends.
        loss: (model, batch, step) → (loss, metrics to average over a log line).
        save: writes the model into a folder, with what belongs to it.
        extra: further metrics of a log line; called once for each.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: Loader
    steps: int
    loss: Callable[[nn.Module, Batch, int], tuple[Tensor, Metrics]]
    save: Callable[[Path], None]
    extra: Callable[[], dict[str, float]] = dict


@dataclass
class Run:
    """A run's folder and where it begins.

    Attributes:
        accelerator: knows device and processes.
        settings: what the run does.
        first: number of finished steps.
        checkpoint: where to go on from, or None.
    """

    accelerator: Any
    settings: RunSettings
    first: int = 0
    checkpoint: Path | None = None
    data: str | None = None  # fingerprint of the images that the checkpoint's run had
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)


def open_run(settings: RunSettings) -> Run:
    """Look at the output folder: start in it, or find where to go on.

    Raises:
        DataError: the folder holds a run or a model already and `resume` is not set.
        TrainingError: the run to go on with has other settings (says which), or no readable checkpoint.
    """
    accelerate = require("accelerate", "train", "training")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of kernels and drivers; nothing here that a user can act on
        accelerator = accelerate.Accelerator()
    run = Run(accelerator, settings)
    output = settings.output
    if output.is_file():
        raise DataError(f"{output} is a file; give a folder for the result.")
    if settings.resume:
        found = checkpoint.last(output)
        if found is not None:
            run.checkpoint, state = found
            changed = differences(state.get("settings", {}), settings.to_dict())
            if changed:
                raise TrainingError(
                    "\n  ".join([f"{run.checkpoint} belongs to a run with other settings:", *changed])
                    + "\nGo on with the same ones, or choose another output folder."
                )
            run.first, run.data = state["step"], state.get("data")
            return run
        if (output / SETTINGS_FILE).exists() and not (output / "config.json").exists():
            logger.info("%s has no checkpoint yet; starting at step 0", output)
            return run
    elif (output / SETTINGS_FILE).exists():
        raise DataError(f"{output} already holds a run. Go on with it by --resume, or choose another output folder.")
    if (output / "config.json").exists():
        raise DataError(f"{output} holds a model, which would be overwritten. Choose another output folder.")
    return run


def _cut_log(path: Path, run: Run) -> None:
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
    with hub.atomic_path(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def precision(choice: str, device: torch.device) -> torch.dtype | None:
    """The autocast type: bfloat16 or None. "auto" takes bfloat16 where the device multiplies it natively.

    Raises:
        ConfigError: there is no such choice.
    """
    if choice not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"Unknown precision {choice!r}. Choose auto, fp32 or bf16.")
    if choice == "fp32":
        return None
    if choice == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, so it may go
    return torch.bfloat16 if device.type == "cpu" and asked is not None and asked() else None


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one kills as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        signal.signal(signum, before[signal.Signals(signum)])

    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    for signum in before:
        signal.signal(signum, note)
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def train(run: Run, job: Job) -> list[dict[str, float]]:
    """Run all steps that are left, then save the model into the output folder.

    Returns:
        The lines of the log, those before a resume included.

    Raises:
        TrainingError: the loss or its gradient is not finite; the last good checkpoint stays.
        DataError: more than a tenth of the images cannot be read.
        InputError: a label is wrong.
        CheckpointError: a checkpoint or the log could not be written; earlier checkpoints stay.
        Interrupted: by Ctrl-C or SIGTERM, after saving.
    """
    settings, accelerator, output = run.settings, run.accelerator, run.settings.output
    data = f"{job.loader.images.fingerprint()}, {run.world} processes"
    if run.data not in (None, data):
        raise TrainingError(
            f"The images, their order or their classes, or the number of processes are not those of {run.checkpoint}. "
            "Go on with the same ones, or start anew in another output folder."
        )
    accelerator.wait_for_everyone()  # each process has looked at the folder before one writes in it
    if accelerator.is_main_process:
        for unfinished in output.glob(".checkpoint-*.tmp"):  # of a run that was killed while saving
            shutil.rmtree(unfinished, ignore_errors=True)
        hub.write_json(output / SETTINGS_FILE, settings.to_dict())
        _cut_log(output / LOG_FILE, run)
    model, optimizer = accelerator.prepare(job.model, job.optimizer)
    if run.checkpoint is not None:
        optimizer.load_state_dict(checkpoint.read_optimizer(run.checkpoint))
    dtype = precision(settings.precision, accelerator.device)
    warmup = round(settings.warmup * job.steps)
    # On a GPU, looking at the loss waits for it: once a log line is enough there.
    look_every = 1 if accelerator.device.type == "cpu" else settings.log_every
    finite = torch.ones((), dtype=torch.bool, device=accelerator.device)
    log = _Log(run, job)
    good = run.first  # the last step whose loss and gradient were seen to be finite
    model.train()

    def save(step: int) -> None:
        accelerator.wait_for_everyone()
        # A last update can spoil what a finite loss and gradient came from: an infinite step, for example.
        if not all(bool(torch.isfinite(parameter).all()) for parameter in job.model.parameters()):
            raise _not_finite(output, step - 1, step, rate, norm)
        if accelerator.is_main_process:
            checkpoint.save(output, step, job.save, job.optimizer, settings.to_dict(), settings.keep, data)
        accelerator.wait_for_everyone()

    with caught_signals() as received, contextlib.closing(log):
        for step, batch in zip(range(run.first, job.steps), job.loader.batches(run.first, job.steps), strict=True):
            # Dropout and drop path of a step follow from its number: a resumed run draws the same.
            torch.manual_seed(hash((settings.seed, step, run.rank)) % 2**63)
            rate = learning_rate(
                step, job.steps, warmup, settings.learning_rate, settings.min_learning_rate, settings.schedule
            )
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            batch = {name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()}
            with torch.autocast(accelerator.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
                loss, metrics = job.loss(model, batch, step)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
            finite &= torch.isfinite(loss.detach()) & torch.isfinite(norm)
            done = step + 1
            saves = done % settings.save_every == 0 or done == job.steps
            looks = saves or done % look_every == 0
            stop = _any_process(run, bool(received), looks)
            if looks or stop:
                if not bool(finite):
                    raise _not_finite(output, good, done, rate, norm)
                good = done
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            log.add({"loss": loss.detach(), "gradient_norm": norm.detach(), **metrics}, len(next(iter(batch.values()))))
            # A line at each checkpoint too: then the lines after a resume average the same steps. Only a stop between two
            # lines splits an average in two.
            if done % settings.log_every == 0 or saves or stop:
                log.write(done, rate)
            if saves or stop:
                save(done)
            if stop and done < job.steps:
                number = received[0] if received else signal.SIGTERM
                name = signal.Signals(number).name
                raise Interrupted(number, f"Stopped by {name} after step {done}; saved. Go on with --resume.")
    if accelerator.is_main_process:
        job.save(output)
        if job.loader.bad:
            logger.warning("%d images were skipped:\n%s", len(job.loader.bad), job.loader.bad)
    accelerator.wait_for_everyone()
    return run.history


def _any_process(run: Run, flag: bool, looks: bool) -> bool:
    """Whether any process says so, asked where all look; one that stopped alone would leave the others waiting."""
    if run.world == 1 or not looks:
        return flag and run.world == 1
    return bool(run.accelerator.reduce(torch.tensor(float(flag), device=run.accelerator.device)) > 0)


def _not_finite(output: Path, good: int, done: int, rate: float, norm: Tensor) -> TrainingError:
    found = checkpoint.list_checkpoints(output)
    where = f"The last checkpoint, {found[-1]}, is from before" if found else "There was no checkpoint yet"
    between = f"at step {done}" if done == good + 1 else f"between steps {good + 1} and {done}"
    return TrainingError(
        f"The loss or its gradient is not finite {between} (learning rate {rate:.2g}, gradient norm {float(norm):.3g}). "
        f"{where}. Try a lower learning rate, a longer warm-up or --precision fp32, in another output folder."
    )


def _without_disk_errors(hook: Callable[[threading.ExceptHookArgs], Any]) -> Callable[[threading.ExceptHookArgs], Any]:
    def quiet(arguments: threading.ExceptHookArgs) -> None:
        if not issubclass(arguments.exc_type, OSError):
            hook(arguments)

    return quiet


class _Log:
    """Averages metrics over a log line and writes them: progress bar, JSON lines, TensorBoard."""

    def __init__(self, run: Run, job: Job) -> None:
        self.run, self.job = run, job
        self.sums: dict[str, Tensor] = {}
        self.steps = self.images = 0
        self.since = time.perf_counter()
        self.main = run.accelerator.is_main_process
        self.hook = threading.excepthook
        if not self.main:
            return
        output = run.settings.output
        self.file = open(output / LOG_FILE, "a", encoding="utf-8")  # noqa: SIM115  (closed in close)
        self.board = None
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter

            # Its thread would print a traceback on a full disk; the log's own error says what to do.
            threading.excepthook = _without_disk_errors(self.hook)
            self.board = SummaryWriter(str(output / "tensorboard"), purge_step=run.first + 1)
        tqdm = require("tqdm", "train", "training").tqdm
        # Without a terminal a bar is noise; then every log line is printed instead.
        self.bar = tqdm(
            total=job.steps, initial=run.first, desc=output.name, unit="step", disable=None, file=sys.stderr
        )

    def add(self, metrics: Metrics, images: int) -> None:
        for name, value in metrics.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += 1
        self.images += images * self.run.world
        if self.main:
            self.bar.update()

    def write(self, step: int, rate: float) -> None:
        now = time.perf_counter()
        means = {name: value / self.steps for name, value in self.sums.items()}
        if self.run.world > 1:
            means = self.run.accelerator.reduce(means, reduction="mean")
        line: dict[str, float] = {"step": step, "epoch": round(step / self.job.loader.order.steps_per_epoch, 3)}
        line.update({name: round(float(value), 6) for name, value in means.items()})
        line.update({name: round(value, 6) for name, value in self.job.extra().items()})
        line.update(learning_rate=rate, images_per_second=round(self.images / (now - self.since), 1))
        self.sums, self.steps, self.images, self.since = {}, 0, 0, now
        self.run.history.append(line)
        if not self.main:
            return
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            if self.board is not None:
                for name, value in line.items():
                    self.board.add_scalar(name, value, step)
        except OSError as error:
            raise CheckpointError(
                f"The log in {self.run.settings.output} could not be written: {error.strerror or error}. Checkpoints are "
                "untouched; free some space and go on with --resume."
            ) from error
        shown = {
            name: value
            for name, value in line.items()
            if name not in ("step", "epoch", "learning_rate", "gradient_norm")
        }
        text = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in shown.items())
        if self.bar.disable:
            with contextlib.suppress(OSError, AttributeError):  # a closed stderr is no reason to stop training
                print(f"step {step}/{self.job.steps}: {text}", file=sys.stderr, flush=True)
        else:
            self.bar.set_postfix_str(text)

    def close(self) -> None:
        if not self.main:
            return
        self.bar.close()
        with contextlib.suppress(OSError):  # a full disk, which `write` has reported
            self.file.close()
        with contextlib.suppress(OSError):
            if self.board is not None:
                self.board.close()
        threading.excepthook = self.hook


def total_steps(settings: RunSettings, loader: Loader) -> int:
    """Number of steps of a run."""
    if settings.steps is not None:
        return settings.steps
    return max(round(settings.epochs * loader.order.steps_per_epoch), 1)

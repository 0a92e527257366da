"""What the settings of all training runs have in common."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from beit.core.errors import ConfigError
from beit.core.settings import Settings

logger = logging.getLogger("beit")
if TYPE_CHECKING:
    Rate = float  # what it is as soon as settings are made
else:
    Rate = float | Literal["auto"]

SETTINGS_FILE = "settings.json"
_ABSENT = object()
AUTO: Any = "auto"  # a learning rate that is filled in when settings are made
NARROW = ("tiny", "small")  # presets of ours, which learn with a higher rate than the paper's sizes


class PaperRate(float):
    """A learning rate that was left out, and is the paper's.

    When the run starts, `start.fill_paper_rate` looks whether the model is the folder of a narrow one, which learns with a
    higher rate. Because it is a type of its own, such a rate is still recognised in a copy of the settings.
    """


@dataclass(kw_only=True)
class RunSettings(Settings):
    """What all training runs have in common."""

    ADDED: ClassVar[Mapping[str, Any]] = {"allow_inexact_resume": False, "device": None, "tracker": "tensorboard"}
    """Settings that were added after version 0.1 → what its runs did. `to_dict` leaves such values out, so a run without them is
    the same run, and `from_dict` fills them in."""

    images: str | Path
    """Where the images come from: a folder, with or without subfolders; tar shards in WebDataset's layout, such as
    shards/train-{000..099}.tar, local or https://…; or a data set of the Hub, hub:OWNER/NAME, or hub:OWNER/NAME:SPLIT for
    another split than train. Shards and data sets are streamed."""
    output: Path
    """Folder for the result: the model, its checkpoints, the log and these settings."""
    steps: int | None = None
    """Number of steps; overrides epochs."""
    images_per_epoch: int | None = None
    """Images in an epoch of a stream, whose length is unknown before its end."""
    shuffle_buffer: int = 4096
    """How many images of a stream are shuffled together in each worker."""
    epochs: float = 100
    """How often each image is seen."""
    batch_size: int = 128
    """Images per step, over all devices."""
    learning_rate: Rate = AUTO
    """Highest learning rate; auto for the paper's, scaled to the batch size."""
    min_learning_rate: float = 1e-5
    """Learning rate at the end."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: float = 0.05
    """Fraction of the steps in which the learning rate rises from 0."""
    weight_decay: float = 0.05
    """Weight decay of matrices; biases, norms, positions and the cls token have none."""
    weight_decay_end: float | None = None
    """Weight decay at the end; it changes along a cosine. Constant if not given."""
    beta2: float = 0.999
    """Second-moment decay of AdamW."""
    clip: float = 3.0
    """Largest norm of the gradient; 0 for no clipping."""
    seed: int = 0
    """Seed of everything random."""
    accumulate: int = 1
    """Number of parts in which a batch passes through the model, one after the other: the same step in less memory."""
    ema: float = 0.0
    """Decay per step of a moving average of the weights (for example 0.9999), which is saved in output/ema; 0 for none."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, mps, …. If not given, GPUs where there are some."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of matrix products. auto takes bf16 where the device has instructions for it; fp16 scales the loss."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: about a third slower, with far less memory."""
    compile: bool = False
    """Compile the model with torch.compile: minutes at the start, then faster steps on a GPU."""
    shard: bool = False
    """Split weights, gradients and optimiser over the processes (FSDP) instead of copying them to each (DDP)."""
    workers: int = 2
    """Processes that read images from disk. Images held in memory need none."""
    log_every: int = 20
    """Steps between lines of the log."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """How many checkpoints to keep."""
    tracker: Literal["tensorboard", "wandb", "mlflow", "none"] = "tensorboard"
    """Where curves and pictures go, besides log.jsonl: files for TensorBoard in output/tensorboard, or wandb or MLflow, which are
    installed and logged in to by themselves; none for nowhere."""
    resume: Literal["never", "auto", "must"] = "never"
    """Go on from the last checkpoint in the output folder, with the settings of its run: --resume --output FOLDER is enough.
    auto (what --resume alone means) starts a new run if there is no checkpoint, must refuses to; never refuses a folder that
    holds a run."""
    allow_inexact_resume: bool = False
    """Go on also where the order of the images cannot be kept: a stream that is read by another number of processes or
    workers than before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate == 0:
            logger.warning("learning_rate is 0, the old word for the paper's learning rate; write auto instead.")
        elif isinstance(self.learning_rate, str) and self.learning_rate != "auto":
            raise ConfigError(f"learning_rate is {self.learning_rate!r}; wanted a number above 0, or auto.")
        if self.learning_rate in (0, AUTO):
            self.learning_rate = PaperRate(self.paper_learning_rate(narrow=getattr(self, "model", None) in NARROW))
        self.validate()

    def paper_learning_rate(self, narrow: bool = False) -> float:
        """What the learning rate `auto` stands for.

        Args:
            narrow: whether the model is below the paper's sizes.
        """
        return 1.5e-3 * self.batch_size / 2048

    def validate(self) -> None:
        """Check all values. Raises ConfigError."""
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise ConfigError(f"{item.name} is {value}; it must be finite.")
        if str(self.output) in ("", "."):
            raise ConfigError("output is the current folder; name a folder for the result.")
        if self.seed >= 2**63:
            raise ConfigError(f"seed is {self.seed}; it must be below 2^63.")
        self.check_length()
        check_at_least_one(
            self,
            "log_every",
            "save_every",
            "keep",
            "accumulate",
            "shuffle_buffer",
            "images_per_epoch",
            "steps",
        )
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be above 0, or auto for the paper's.")
        check_not_negative(self, "min_learning_rate")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is {self.warmup}; it is a fraction of the steps, in [0, 1).")
        check_not_negative(self, "workers", "clip", "weight_decay", "seed", "weight_decay_end")
        for name in ("beta2", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie in [0, 1).")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"A batch of {self.batch_size} cannot be divided into {self.accumulate} parts (accumulate)."
            )
        if self.shard and self.precision == "fp16":
            raise ConfigError("fp16 does not work with shard; choose --precision bf16.")

    def decided(self, count: int | None) -> Self:
        """The settings with what they left open, decided by the number of images to learn from (None: unknown)."""
        return self

    def check_length(self) -> None:
        """Check what decides how long the run is. Raises ConfigError."""
        check_at_least_one(self, "batch_size")
        if self.epochs <= 0:
            raise ConfigError(f"epochs is {self.epochs}; it must be above 0.")

    def total_steps(self, steps_per_epoch: int | None) -> int:
        """Number of steps of the run.

        Args:
            steps_per_epoch: None for a stream of unknown length.

        Raises:
            ConfigError: the length is unknown, and the settings give epochs instead of steps.
        """
        if self.steps is not None:
            return self.steps
        if steps_per_epoch is None:
            raise ConfigError("A stream has no known length. Give --steps, or --images-per-epoch with --epochs.")
        return max(round(self.epochs * steps_per_epoch), 1)

    def to_dict(self) -> dict[str, Any]:
        """All values as JSON can hold them; without those of `ADDED`."""
        values = dataclasses.asdict(self)
        values = {name: value for name, value in values.items() if self.ADDED.get(name, _ABSENT) != value}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


# --- checks that several settings share; each raises ConfigError -----------------------------------------------------


def check_at_least_one(settings: Any, *names: str) -> None:
    """Whole numbers from 1 on, or None."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1.")


def check_not_negative(settings: Any, *names: str) -> None:
    """Numbers from 0 on, or None."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 0:
            raise ConfigError(f"{name} is {value}; it must not be negative.")


def check_fractions(settings: Any, *names: str) -> None:
    """Numbers in [0, 1]."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise ConfigError(f"{name} is {getattr(settings, name)}; it must lie in [0, 1].")


def check_scale(scale: tuple[float, float]) -> None:
    """`crop_scale`: least and most of an image's area."""
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ConfigError(f"crop_scale is {scale}; wanted two fractions of the area, 0 < least ≤ most ≤ 1.")


def check_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Mean and standard deviation of pixels in [0, 1]."""
    if min(mean) < 0:
        raise ConfigError(f"mean is {mean}; pixels are in [0, 1], so it must not be negative.")
    if min(std) <= 0:
        raise ConfigError(f"std is {std}; pixels are divided by it, so it must be above 0.")


def check_framework(settings: Any) -> None:
    """What PyTorch and Flax runs cannot do."""
    if settings.framework not in ("torch", "flax"):
        raise ConfigError(f"framework is {settings.framework!r}; choose torch or flax.")
    check_at_least_one(settings, "model_parallel")
    if settings.framework == "torch":
        if settings.model_parallel > 1:
            raise ConfigError("model_parallel splits Flax models. With PyTorch choose --shard, or --framework flax.")
        return
    if settings.precision == "fp16":
        raise ConfigError("fp16 needs a scaled loss, which Flax runs do not have; choose --precision bf16.")
    if settings.compile:
        raise ConfigError("Flax runs are always compiled; leave out --compile.")
    if settings.shard:
        raise ConfigError("shard splits PyTorch models. With Flax choose --model-parallel.")

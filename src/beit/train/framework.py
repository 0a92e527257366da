"""What PyTorch and JAX offer to a run, as types, and the choice between them.

The outline of a run is the same in both frameworks: `pretrain.py`, `finetune.py`, … What differs is a set of functions in
a module of the same name in `beit.train.torch` or `beit.train.flax`. The protocols here say which functions, and mypy
checks the modules against them where one is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from beit.config import BeitConfig
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.data.workers.protocol import Pool
from beit.train.distributed import Processes
from beit.train.engine import Engine
from beit.train.run import Run
from beit.train.settings import FinetuneSettings, PretrainSettings, SegmentSettings, TokenizerSettings, TokenizeSettings
from beit.train.start import Start
from beit.train.task import Task

if TYPE_CHECKING:
    from beit.evaluation.evaluate import Measured
    from beit.evaluation.segmentation import SegmentationEvaluation

ModelT = TypeVar("ModelT")  # a model of the framework, with `config` and `save_pretrained`
TargetT = TypeVar("TargetT", contravariant=True)
CountsT = TypeVar("CountsT", bound="CodeCounts")
ProcessesT = TypeVar("ProcessesT", bound=Processes)
SettingsT = TypeVar("SettingsT", contravariant=True)


class Framework(Protocol[SettingsT]):
    """What every kind of run needs."""

    @property
    def pool(self) -> Pool:
        """Runs the workers of the loader."""
        ...

    def processes(self, settings: SettingsT) -> Processes:
        """The processes that share the batches. Raises ConfigError when they do not fit the settings."""
        ...

    def check(self, folder: Path) -> None:
        """Raises CheckpointError when the engine's own files in a checkpoint cannot be read."""
        ...


class Pretraining(Framework[PretrainSettings], Protocol[ModelT, TargetT]):
    """Pre-training."""

    def model(self, run: Run[PretrainSettings], start: Start, config: BeitConfig) -> ModelT:
        """A model of `config`, with the weights of the start or with new ones."""
        ...

    def engine(self, run: Run[PretrainSettings], model: ModelT, target: TargetT) -> Engine:
        """Trains the model on batches that the target's `loss` takes."""
        ...

    def probe(
        self, run: Run[PretrainSettings], processor: BeitImageProcessor, images: Images
    ) -> Callable[[ModelT, int], dict[str, float]]:
        """(model, step) → what its features are worth on labelled images."""
        ...


class Finetuning(Framework[FinetuneSettings], Protocol[ModelT]):
    """Fine-tuning a classifier, or a regression."""

    def model(self, run: Run[FinetuneSettings], start: Start, config: BeitConfig, task: Task) -> ModelT:
        """A model of `config`, with the weights of the start and a new head, or all new; as it is trained."""
        ...

    def as_used(self, model: ModelT, task: Task) -> ModelT:
        """A trained model as it is saved and asked: itself, or a copy in which what was trained is merged."""
        ...

    def engine(self, run: Run[FinetuneSettings], model: ModelT, task: Task) -> Engine:
        """Trains the model on batches of `pixel_values (B, 3, H, W)` and `targets (B, classes)`."""
        ...

    def evaluation(self, run: Run[FinetuneSettings], processor: BeitImageProcessor, images: Images) -> Measured:
        """Of the model in the run's output folder."""
        ...


class Segmenting(Framework[SegmentSettings], Protocol[ModelT]):
    """Training segmentation."""

    def model(self, run: Run[SegmentSettings], start: Start, config: BeitConfig) -> ModelT:
        """A model of `config`, with the weights of the start and new heads where it has none that fit, or all new."""
        ...

    def engine(self, run: Run[SegmentSettings], model: ModelT) -> Engine:
        """Trains the model on batches of `pixel_values (B, 3, H, W)` and `labels (B, H, W)`."""
        ...

    def evaluation(
        self, run: Run[SegmentSettings], processor: BeitImageProcessor, images: Images
    ) -> SegmentationEvaluation:
        """Of the model in the run's output folder."""
        ...


class CodeCounts(Protocol):
    """Counts the codes of a tokenizer in training."""

    def log_metrics(self) -> dict[str, float]:
        """`codes_used` and `perplexity` since the last call. All processes must call it together."""
        ...


class TokenizerTraining(Framework[TokenizerSettings], Protocol[ModelT, CountsT]):
    """Training a tokenizer, and measuring one."""

    def load(self, folder: Path) -> ModelT:
        """The tokenizer in a folder. Raises CheckpointError."""
        ...

    def new(self, settings: TokenizerSettings) -> ModelT:
        """An untrained tokenizer of the size that the settings name."""
        ...

    def code_counts(self, run: Run[TokenizerSettings], model: ModelT) -> CountsT:
        """Counts the codes of a run; `engine` fills them in."""
        ...

    def engine(self, run: Run[TokenizerSettings], model: ModelT, counts: CountsT, steps: int) -> Engine:
        """Trains the model on batches of `images (B, 3, H, W)`, for this many steps in all."""
        ...

    def tensor(self, images: np.ndarray) -> Any:
        """Images `(n, 3, H, W)` as tokenizers of the framework take them."""
        ...

    def measure(self, tokenizer: Any, images: Any, batch_size: int = 256) -> dict[str, float]:
        """As `beit.train.tokenizer.measure`."""
        ...


class Tokenizing(Protocol[ProcessesT]):
    """Computing tokens for a cache."""

    @property
    def pool(self) -> Pool:
        """Runs the workers that crop images."""
        ...

    def processes(self, settings: TokenizeSettings) -> ProcessesT:
        """The processes that share the shards of the cache."""
        ...

    def on_device(self, tokenizer: Any, processes: ProcessesT) -> Callable[[Any], np.ndarray]:
        """A function that computes tokens `(B, N)` of images `(B, 3, h, w)` in [0, 1], where this process computes."""
        ...


# --- the choice ------------------------------------------------------------------------------------------------------


def pretraining(framework: str) -> Pretraining[Any, Any]:
    """The functions of `torch` or `flax` for pre-training."""
    if framework == "flax":
        from beit.train.flax import pretrain as in_flax

        return in_flax
    from beit.train.torch import pretrain as in_torch

    return in_torch


def finetuning(framework: str) -> Finetuning[Any]:
    """The functions of `torch` or `flax` for fine-tuning."""
    if framework == "flax":
        from beit.train.flax import finetune as in_flax

        return in_flax
    from beit.train.torch import finetune as in_torch

    return in_torch


def segmenting() -> Segmenting[Any]:
    """The functions of PyTorch for segmentation; there are no others yet."""
    from beit.train.torch import segmentation

    return segmentation


def tokenizer_training() -> TokenizerTraining[Any, Any]:
    """The functions of PyTorch for training a tokenizer; there are no others yet."""
    from beit.train.torch import tokenizer

    return tokenizer


def tokenizing() -> Tokenizing[Any]:
    """The functions of PyTorch for computing tokens; there are no others yet."""
    from beit.train.torch import tokenize

    return tokenize

"""Training a tokenizer in PyTorch (`beit.train.framework.TokenizerTraining`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from beit.tokenizers import codebook_usage
from beit.tokenizers.dalle.torch import DalleConfig, DalleLoss, DalleTokenizer
from beit.train.checkpoint import check_finite
from beit.train.run import Run
from beit.train.settings import TokenizerSettings
from beit.train.torch.common import check, pool, processes
from beit.train.torch.distributed import Accelerated
from beit.train.torch.engine import Batch, Metrics, TorchEngine
from beit.train.torch.optim import adamw, parameter_groups

__all__ = ["check", "code_counts", "engine", "load", "measure", "new", "pool", "processes", "tensor"]

_COOLED = 0.8  # fraction of the steps after which the temperature stays at its minimum, so that the codes can settle


def load(folder: Path) -> DalleTokenizer:
    """The tokenizer in a folder. Raises CheckpointError, also where a weight is NaN or infinite."""
    tokenizer = DalleTokenizer.from_pretrained(folder)
    check_finite(folder, {name: tensor.numpy() for name, tensor in tokenizer.state_dict().items()})
    return tokenizer


def new(settings: TokenizerSettings) -> DalleTokenizer:
    """An untrained tokenizer of the size that the settings name."""
    torch.manual_seed(settings.seed)
    return DalleTokenizer(
        DalleConfig(
            groups=int(math.log2(settings.factor)) + 1,
            blocks_per_group=settings.blocks,
            n_hid=settings.width,
            n_init=min(128, 4 * settings.width),
            vocab_size=settings.vocab_size,
        )
    )


class CodeCounts:
    """How often each code occurs between two lines of the log, over all processes."""

    def __init__(self, run: Run[TokenizerSettings], model: DalleTokenizer) -> None:
        self.processes = cast(Accelerated, run.processes)
        self.counts = torch.zeros(model.vocab_size, dtype=torch.long, device=self.processes.device)

    def add(self, tokens: Tensor) -> None:
        """Count tokens of any shape."""
        self.counts.add_(torch.bincount(tokens.flatten(), minlength=len(self.counts)))

    def log_metrics(self) -> dict[str, float]:
        """`codes_used` and `perplexity` since the last call. All processes must call it together."""
        found = self.processes.accelerator.reduce(self.counts, reduction="sum").cpu()
        p = found.double() / found.sum()
        entropy = -(p * p.clamp(min=1e-12).log()).sum()  # codes that do not occur add 0 · log 1e-12
        line = {"codes_used": float((found > 0).double().mean()), "perplexity": float(entropy.exp())}
        self.counts.zero_()
        return line


def code_counts(run: Run[TokenizerSettings], model: DalleTokenizer) -> CodeCounts:
    """Counts the codes of a run; `engine` fills them in."""
    return CodeCounts(run, model)


def engine(run: Run[TokenizerSettings], model: DalleTokenizer, counts: CodeCounts, steps: int) -> TorchEngine:
    """AdamW on the tokenizer's own loss, with a temperature that falls over the first 4/5 of the steps."""
    settings = run.settings
    weights = DalleLoss(usage_weight=settings.usage_weight)

    def loss(module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        # A straight line on a log scale, as in the paper.
        cooled = min(step / (_COOLED * steps), 1.0)
        output = module(batch["images"], math.exp(math.log(settings.min_temperature) * cooled), weights)
        counts.add(output.logits.detach().argmax(1))
        return output.loss, {"reconstruction": output.reconstruction_loss.detach()}

    def optimizer() -> torch.optim.Optimizer:
        return adamw(parameter_groups(model, settings.weight_decay), settings.beta2)

    return TorchEngine(run, model, optimizer, loss)


def tensor(images: np.ndarray) -> Tensor:
    """Images as tokenizers of PyTorch take them."""
    return torch.from_numpy(images)


@torch.no_grad()
def measure(tokenizer: Any, images: Tensor, batch_size: int = 256) -> dict[str, float]:
    """As `beit.train.tokenizer.measure`."""
    tokens, error = [], 0.0
    mean = images.mean(0)
    for part in images.split(batch_size):
        found = tokenizer.tokens(part)
        grid = tokenizer.grid((part.shape[2], part.shape[3]))
        error += float(((tokenizer.decode(found, grid) - part) ** 2).sum())
        tokens.append(found)
    usage = codebook_usage(torch.cat(tokens), tokenizer.vocab_size)
    return {
        "codes_used": usage.fraction,
        "perplexity": usage.perplexity,
        "error": error / images.numel(),
        "blank": float(((images - mean) ** 2).mean()),
    }

"""The parts of pre-training that are PyTorch's; `pretrain` says what each is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from beit.config import BeitConfig
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.data.workers.torch import in_torch_workers
from beit.models.torch.beit import BeitForMaskedImageModeling
from beit.train import targets
from beit.train.run import Run
from beit.train.settings import PretrainSettings
from beit.train.torch.distributed import Accelerated
from beit.train.torch.engine import TorchEngine, check
from beit.train.torch.optim import adamw, parameter_groups
from beit.train.torch.targets import PixelTarget, TokenTarget

__all__ = ["check", "engine", "make_target", "model", "pool", "probe", "processes"]

pool = in_torch_workers


def processes(settings: PretrainSettings) -> Accelerated:
    """Those that torchrun or Accelerate has started."""
    return Accelerated()


def make_target(settings: PretrainSettings, config: BeitConfig) -> PixelTarget | TokenTarget:
    """As `targets.make_target`."""
    return targets.make_target(settings, config, PixelTarget, TokenTarget)


def model(run: Run, config: BeitConfig, origin: str | Path | None) -> BeitForMaskedImageModeling:
    """A model of `config` with the weights of `origin`, or with new ones."""
    torch.manual_seed(run.settings.seed)
    if origin is None:
        return BeitForMaskedImageModeling(config)
    fresh = run.checkpoint is None  # its head may be of another codebook
    return BeitForMaskedImageModeling.from_pretrained(origin, config=config, ignore_mismatched_sizes=fresh)


def engine(run: Run, model: BeitForMaskedImageModeling, target: PixelTarget | TokenTarget) -> TorchEngine:
    """AdamW on the target's loss."""

    def optimizer() -> torch.optim.Optimizer:
        return adamw(parameter_groups(model, run.settings.weight_decay), run.settings.beta2)

    made = TorchEngine(
        run,
        model,
        optimizer,
        target.loss,
        weight=lambda batch: batch["mask"].sum().float(),  # the loss is a mean over masked patches
    )
    target.to(made.device)
    return made


def probe(run: Run, processor: BeitImageProcessor, images: Images) -> Callable[[Any, int], dict[str, float]]:
    """The live probe of `beit.evaluation.probe` on labelled images."""
    from beit.evaluation.probe import live_probe

    device = cast(Accelerated, run.processes).device
    return lambda module, step: live_probe(module, processor, images, run.settings.seed, device=device)

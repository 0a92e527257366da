"""Pre-training in PyTorch (`beit.train.framework.Pretraining`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from beit.config import BeitConfig
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.models.torch.beit import BeitForMaskedImageModeling
from beit.train.run import Run
from beit.train.settings import PretrainSettings
from beit.train.start import Start
from beit.train.targets.torch import TorchTarget
from beit.train.torch.common import check, pool, processes
from beit.train.torch.distributed import Accelerated
from beit.train.torch.engine import TorchEngine
from beit.train.torch.optim import adamw, parameter_groups

__all__ = ["check", "engine", "model", "pool", "probe", "processes"]


def model(run: Run[PretrainSettings], start: Start, config: BeitConfig) -> BeitForMaskedImageModeling:
    """A model of `config` with the weights of the start, or with new ones."""
    torch.manual_seed(run.settings.seed)
    if start.checkpoint is None:
        return BeitForMaskedImageModeling(config)
    # The head of another run's model may be of another codebook; that of this run's own checkpoint must fit.
    other = not start.resumed
    return BeitForMaskedImageModeling.from_pretrained(start.checkpoint, config=config, ignore_mismatched_sizes=other)


def engine(run: Run[PretrainSettings], model: BeitForMaskedImageModeling, target: TorchTarget) -> TorchEngine:
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


def probe(
    run: Run[PretrainSettings], processor: BeitImageProcessor, images: Images
) -> Callable[[BeitForMaskedImageModeling, int], dict[str, float]]:
    """`beit.evaluation.probe.live_probe` on labelled images."""
    from beit.evaluation.probe import live_probe

    device = cast(Accelerated, run.processes).device
    return lambda module, step: live_probe(module, processor, images, run.settings.seed, device=device)

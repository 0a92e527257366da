"""Fine-tuning in PyTorch (`beit.train.framework.Finetuning`)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit.config import BeitConfig
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.evaluation import classification
from beit.models.torch.beit import BeitForImageClassification
from beit.train.run import Run
from beit.train.settings import FinetuneSettings
from beit.train.start import Start
from beit.train.torch.common import check, pool, processes
from beit.train.torch.distributed import Accelerated
from beit.train.torch.engine import Batch, Metrics, TorchEngine
from beit.train.torch.optim import adamw, parameter_groups

__all__ = ["check", "engine", "evaluation", "model", "pool", "processes"]


def model(run: Run[FinetuneSettings], start: Start, config: BeitConfig) -> BeitForImageClassification:
    """A classifier of `config` with the weights of the start and a new head where its own does not fit; or all new."""
    torch.manual_seed(run.settings.seed)
    if start.checkpoint is None:
        return BeitForImageClassification(config)
    other = not start.resumed  # this run's own checkpoint must fit
    return BeitForImageClassification.from_pretrained(start.checkpoint, config=config, ignore_mismatched_sizes=other)


def engine(run: Run[FinetuneSettings], model: BeitForImageClassification) -> TorchEngine:
    """AdamW with a rate for each layer, on the cross-entropy with `targets (B, classes)`."""
    settings = run.settings

    def optimizer() -> torch.optim.Optimizer:
        depth = model.config.num_hidden_layers
        return adamw(parameter_groups(model, settings.weight_decay, settings.layer_decay, depth), settings.beta2)

    def loss(module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        targets = batch["targets"]
        logits = module(batch["pixel_values"]).logits.float()
        value = F.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
        return value, {"accuracy": (logits.argmax(-1) == targets.argmax(-1)).float().mean()}

    return TorchEngine(run, model, optimizer, loss)


def evaluation(run: Run[FinetuneSettings], processor: BeitImageProcessor, images: Images) -> classification.Evaluation:
    """Of the classifier as it was saved."""
    saved = BeitForImageClassification.from_pretrained(run.settings.output)
    device = cast(Accelerated, run.processes).device
    return classification.evaluate(saved, processor, images, device=device)

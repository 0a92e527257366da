"""The parts of fine-tuning that are PyTorch's; `finetune` says what each is for."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit.config import BeitConfig
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.data.workers.torch import in_torch_workers
from beit.evaluation import classification
from beit.models.torch.beit import BeitForImageClassification
from beit.train.run import Run
from beit.train.settings import FinetuneSettings
from beit.train.torch.distributed import Accelerated
from beit.train.torch.engine import Batch, Metrics, TorchEngine, check
from beit.train.torch.optim import adamw, parameter_groups

__all__ = ["check", "engine", "evaluation", "model", "pool", "processes"]

pool = in_torch_workers


def processes(settings: FinetuneSettings) -> Accelerated:
    """Those that torchrun or Accelerate has started."""
    return Accelerated()


def model(run: Run, config: BeitConfig, origin: str | Path | None) -> BeitForImageClassification:
    """A classifier of `config` with the weights of `origin` and, unless that is a checkpoint, a new head; or all new."""
    torch.manual_seed(run.settings.seed)
    if origin is None:
        return BeitForImageClassification(config)
    fresh = run.checkpoint is None
    return BeitForImageClassification.from_pretrained(origin, config=config, ignore_mismatched_sizes=fresh)


def engine(run: Run, model: BeitForImageClassification) -> TorchEngine:
    """AdamW with layer-wise rates on the cross-entropy with `targets (B, classes)`."""
    settings = cast(FinetuneSettings, run.settings)

    def optimizer() -> torch.optim.Optimizer:
        depth = model.config.num_hidden_layers
        return adamw(parameter_groups(model, settings.weight_decay, settings.layer_decay, depth), settings.beta2)

    def loss(module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        targets = batch["targets"]
        logits = module(batch["pixel_values"]).logits.float()
        value = F.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
        return value, {"accuracy": (logits.argmax(-1) == targets.argmax(-1)).float().mean()}

    return TorchEngine(run, model, optimizer, loss)


def evaluation(run: Run, processor: BeitImageProcessor, images: Images) -> classification.Evaluation:
    """Of the classifier that was saved, whole."""
    saved = BeitForImageClassification.from_pretrained(run.settings.output)
    device = cast(Accelerated, run.processes).device
    return classification.evaluate(saved, processor, images, device=device)

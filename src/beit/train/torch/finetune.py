"""Fine-tuning in PyTorch (`beit.train.framework.Finetuning`)."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit.checkpoints import Checkpoint
from beit.checkpoints.catalogue import RECOMMENDED
from beit.config import BeitConfig
from beit.core.errors import ConfigError
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.data.sources.table_labels import MULTI, REGRESSION
from beit.evaluation.evaluate import Measured, evaluate
from beit.models.torch.beit import BeitForImageClassification
from beit.train.run import Run
from beit.train.settings import FinetuneSettings
from beit.train.start import Start
from beit.train.task import Task
from beit.train.torch import lora
from beit.train.torch.common import check, pool, processes
from beit.train.torch.distributed import Accelerated
from beit.train.torch.engine import Batch, Metrics, TorchEngine
from beit.train.torch.optim import adamw, parameter_groups

__all__ = ["as_used", "check", "engine", "evaluation", "model", "pool", "processes"]


def model(run: Run[FinetuneSettings], start: Start, config: BeitConfig, task: Task) -> BeitForImageClassification:
    """A model of `config` with the weights of the start and a new head where its own does not fit; or all new.

    The numbers of a regression are trained with mean 0 and deviation 1, and a model with LoRA by its updates: `as_used` is what
    is saved, and the engine keeps what is trained.
    """
    settings = run.settings
    torch.manual_seed(settings.seed)
    if start.checkpoint is None:
        found = BeitForImageClassification(config)
    else:
        # Of a run with LoRA, the layers are those of its start: its checkpoints hold them with the updates added.
        source = start.checkpoint
        if start.resumed and settings.lora:
            source = Checkpoint(settings.model or RECOMMENDED)
        other = not start.resumed or bool(settings.lora)  # this run's own checkpoint must fit
        found = BeitForImageClassification.from_pretrained(source, config=config, ignore_mismatched_sizes=other)
    if task.kind == REGRESSION and not start.resumed:
        same = start.config.problem_type == REGRESSION and start.config.class_names == config.class_names
        _begin_numbers(found.classifier, task, config, trained=same and start.checkpoint is not None)
    if settings.freeze:
        found.beit.requires_grad_(False)
    if settings.lora:
        lora.add(found, settings.lora, settings.seed)
    return found


def _begin_numbers(head: nn.Module, task: Task, config: BeitConfig, trained: bool) -> None:
    """A head that answers with numbers of mean 0 and deviation 1: the start's own, or a new one."""
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        if trained:
            mean, std = (torch.from_numpy(values).float() for values in (task.mean, task.std))
            head.weight /= std[:, None]
            head.bias.copy_((head.bias - mean) / std)
        else:
            head.weight.normal_(0, config.initializer_range)
            head.bias.zero_()


def as_used(model: BeitForImageClassification, task: Task) -> BeitForImageClassification:
    """The model that is saved and asked: with the updates of LoRA added to its weights, and numbers in their own units."""
    if task.kind != REGRESSION and not lora.has(model):
        return model
    copied = copy.deepcopy(model)
    lora.merge(copied)
    if task.kind == REGRESSION:
        mean, std = (torch.from_numpy(values).to(copied.device) for values in (task.mean, task.std))
        head = copied.classifier
        assert isinstance(head, nn.Linear)
        with torch.no_grad():
            head.weight.mul_(std[:, None])
            head.bias.copy_(head.bias.double() * std + mean)
    return copied


def engine(run: Run[FinetuneSettings], model: BeitForImageClassification, task: Task) -> TorchEngine:
    """AdamW with a rate for each layer, on the cross-entropy with `targets (B, classes)`, by softmax or by sigmoids; or on the mean
    squared error."""
    settings, kind = run.settings, task.kind
    if kind == REGRESSION and settings.shard and run.world > 1:
        raise ConfigError("A regression does not split the model over processes: leave out shard.")
    weights = None if task.weights is None else torch.from_numpy(task.weights)

    def optimizer() -> torch.optim.Optimizer:
        depth = model.config.num_hidden_layers
        return adamw(parameter_groups(model, settings.weight_decay, settings.layer_decay, depth), settings.beta2)

    def loss(module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        targets = batch["targets"]
        logits = module(batch["pixel_values"]).logits.float()
        if kind == REGRESSION:
            return F.mse_loss(logits, targets), {}
        own = None if weights is None else weights.to(logits.device)
        if kind == MULTI:
            value = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=own)
            return value, {"accuracy": ((logits > 0) == (targets > 0.5)).float().mean()}
        value = F.cross_entropy(logits, targets, own, label_smoothing=settings.label_smoothing)
        return value, {"accuracy": (logits.argmax(-1) == targets.argmax(-1)).float().mean()}

    return TorchEngine(run, model, optimizer, loss, keeps_weights=kind == REGRESSION or bool(settings.lora))


def evaluation(run: Run[FinetuneSettings], processor: BeitImageProcessor, images: Images) -> Measured:
    """Of the classifier as it was saved."""
    saved = BeitForImageClassification.from_pretrained(run.settings.output)
    device = cast(Accelerated, run.processes).device
    return evaluate(saved, processor, images, device=device)

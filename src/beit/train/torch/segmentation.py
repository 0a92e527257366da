"""Segmentation in PyTorch (`beit.train.framework.Segmenting`)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit.config import BeitConfig
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.evaluation.segmentation import SegmentationEvaluation, evaluate_segmentation
from beit.inference.sliding_window import SlidingWindow
from beit.models.torch.segmentation import BeitForSemanticSegmentation
from beit.train.run import Run
from beit.train.settings import SegmentSettings
from beit.train.start import Start
from beit.train.torch.common import check, pool, processes
from beit.train.torch.distributed import Accelerated
from beit.train.torch.engine import Batch, Metrics, TorchEngine
from beit.train.torch.optim import adamw, parameter_groups

__all__ = ["check", "engine", "evaluation", "model", "pool", "processes"]


def model(run: Run[SegmentSettings], start: Start, config: BeitConfig) -> BeitForSemanticSegmentation:
    """A model of `config` with the weights of the start and new heads where it has none that fit; or all new."""
    torch.manual_seed(run.settings.seed)
    if start.checkpoint is None:
        made = BeitForSemanticSegmentation(config)
    else:
        other = not start.resumed  # this run's own checkpoint must fit
        made = BeitForSemanticSegmentation.from_pretrained(
            start.checkpoint, config=config, ignore_mismatched_sizes=other
        )
    made.beit.layernorm.requires_grad_(False)  # the heads see the layers' outputs, before this norm
    if run.world > 1:
        # Folders of the reference name layers of which the last blocks are none. Alone, a parameter without a gradient is
        # left as it is; DDP would wait for its gradient.
        for block in list(made.beit.encoder.layer)[max(made.layers) :]:
            block.requires_grad_(False)
    if run.world > 1 and cast(Accelerated, run.processes).device.type == "cuda":
        # The batch norms' statistics are over all processes, as the authors' are. PyTorch has no such norm for a CPU; there
        # each process has statistics of its own.
        nn.SyncBatchNorm.convert_sync_batchnorm(made)
    return made


def engine(run: Run[SegmentSettings], model: BeitForSemanticSegmentation) -> TorchEngine:
    """AdamW with a rate for each layer, on the model's own loss."""
    settings = run.settings

    def optimizer() -> torch.optim.Optimizer:
        depth = model.config.num_hidden_layers
        return adamw(parameter_groups(model, settings.weight_decay, settings.layer_decay, depth), settings.beta2)

    def loss(module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        labels = batch["labels"]
        output = module(batch["pixel_values"], labels=labels)
        return output.loss, {"accuracy": pixel_accuracy(output.logits.detach(), labels, settings.ignore_index)}

    return TorchEngine(run, model, optimizer, loss)


def pixel_accuracy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Fraction of the labelled pixels that are right, at the size of the logits: a tensor `()`; 0 without labels.

    Args:
        logits: `(B, classes, h, w)`.
        labels: `(B, H, W)` int64.
        ignore_index: the number that means no label.
    """
    small = F.interpolate(labels[:, None].float(), size=logits.shape[2:], mode="nearest-exact")[:, 0].long()
    counted = small != ignore_index
    return ((logits.argmax(1) == small) & counted).sum() / counted.sum().clamp(min=1)


def evaluation(run: Run[SegmentSettings], processor: BeitImageProcessor, images: Images) -> SegmentationEvaluation:
    """Of the model as it was saved."""
    saved = BeitForSemanticSegmentation.from_pretrained(run.settings.output)
    window = SlidingWindow(short_side=run.settings.short_side)
    return evaluate_segmentation(saved, processor, images, window, cast(Accelerated, run.processes).device)

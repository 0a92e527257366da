"""Fine-tuning in JAX (`beit.train.framework.Finetuning`)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from beit.config import BeitConfig
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.data.sources.table_labels import MULTI
from beit.evaluation.evaluate import Measured, evaluate
from beit.models.flax.beit import FlaxBeitForImageClassification
from beit.models.flax.device import chosen_devices
from beit.train.flax.common import check, constructor_arguments, pool, processes
from beit.train.flax.engine import Batch, FlaxEngine
from beit.train.flax.optim import AdamW
from beit.train.run import Run
from beit.train.settings import FinetuneSettings
from beit.train.start import Start
from beit.train.task import Task

__all__ = ["as_used", "check", "engine", "evaluation", "model", "pool", "processes"]


def model(run: Run[FinetuneSettings], start: Start, config: BeitConfig, task: Task) -> FlaxBeitForImageClassification:
    """A classifier of `config` with the weights of the start and a new head where its own does not fit; or all new."""
    arguments = constructor_arguments(run.settings)
    if start.checkpoint is None:
        return FlaxBeitForImageClassification(config, **arguments)
    other = not start.resumed  # this run's own checkpoint must fit
    return FlaxBeitForImageClassification.from_pretrained(
        start.checkpoint, config=config, ignore_mismatched_sizes=other, **arguments
    )


def as_used(model: FlaxBeitForImageClassification, task: Task) -> FlaxBeitForImageClassification:
    """The model itself: all of its weights are trained as they are used."""
    return model


def engine(run: Run[FinetuneSettings], model: FlaxBeitForImageClassification, task: Task) -> FlaxEngine:
    """AdamW with a rate for each layer, on the cross-entropy with `targets (B, classes)`, by softmax or by sigmoids."""
    settings, several = run.settings, task.kind == MULTI
    weights = jnp.float32(1) if task.weights is None else jnp.asarray(task.weights)

    def loss(params: Any, batch: Batch, key: jax.Array, constants: Any) -> Any:
        output = model.module.apply({"params": params}, batch["pixel_values"], train=True, rngs={"dropout": key})
        logits, targets = output.logits.astype(jnp.float32), batch["targets"]
        if several:
            value = -(
                weights * targets * jax.nn.log_sigmoid(logits) + (1 - targets) * jax.nn.log_sigmoid(-logits)
            ).mean()
            return value, ({"accuracy": ((logits > 0) == (targets > 0.5)).mean()}, None)
        smooth = targets * (1 - settings.label_smoothing) + settings.label_smoothing / targets.shape[-1]
        value = -(weights * smooth * jax.nn.log_softmax(logits)).sum(-1).mean()
        right = (logits.argmax(-1) == targets.argmax(-1)).mean()
        return value, ({"accuracy": right}, None)

    optimizer = AdamW(settings.beta2, settings.clip, settings.layer_decay, model.config.num_hidden_layers)
    return FlaxEngine(run, model, optimizer, loss)


def evaluation(run: Run[FinetuneSettings], processor: BeitImageProcessor, images: Images) -> Measured:
    """Of the classifier as it was saved, in float32."""
    with jax.default_device(chosen_devices(run.settings.device)[0]):
        saved = FlaxBeitForImageClassification.from_pretrained(run.settings.output)
        return evaluate(saved, processor, images)

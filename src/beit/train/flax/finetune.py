"""The parts of fine-tuning that are Flax's; `finetune` says what each is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp

from beit.config import BeitConfig
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.evaluation import classification
from beit.models.flax.beit import FlaxBeitForImageClassification
from beit.train.flax.engine import Batch, FlaxEngine
from beit.train.flax.optim import AdamW
from beit.train.flax.pretrain import check, constructed, pool, processes
from beit.train.run import Run
from beit.train.settings import FinetuneSettings

__all__ = ["check", "engine", "evaluation", "model", "pool", "processes"]


def model(run: Run, config: BeitConfig, origin: str | Path | None) -> FlaxBeitForImageClassification:
    """A classifier of `config` with the weights of `origin` and, unless that is a checkpoint, a new head; or all new."""
    how = constructed(run)
    if origin is None:
        return FlaxBeitForImageClassification(config, **how)
    fresh = run.checkpoint is None
    return FlaxBeitForImageClassification.from_pretrained(origin, config=config, ignore_mismatched_sizes=fresh, **how)


def engine(run: Run, model: FlaxBeitForImageClassification) -> FlaxEngine:
    """AdamW with layer-wise rates on the cross-entropy with `targets (B, classes)`."""
    settings = cast(FinetuneSettings, run.settings)

    def loss(params: Any, batch: Batch, key: jax.Array, constants: Any) -> Any:
        output = model.module.apply({"params": params}, batch["pixel_values"], train=True, rngs={"dropout": key})
        logits, targets = output.logits.astype(jnp.float32), batch["targets"]
        smooth = targets * (1 - settings.label_smoothing) + settings.label_smoothing / targets.shape[-1]
        value = -(smooth * jax.nn.log_softmax(logits)).sum(-1).mean()
        right = (logits.argmax(-1) == targets.argmax(-1)).mean()
        return value, ({"accuracy": right}, None)

    optimizer = AdamW(settings.beta2, settings.clip, settings.layer_decay, model.config.num_hidden_layers)
    return FlaxEngine(run, model, optimizer, loss)


def evaluation(run: Run, processor: BeitImageProcessor, images: Images) -> classification.Evaluation:
    """Of the classifier that was saved, whole, in float32."""
    saved = FlaxBeitForImageClassification.from_pretrained(run.settings.output)
    return classification.evaluate(saved, processor, images)

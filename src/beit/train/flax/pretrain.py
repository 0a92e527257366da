"""Pre-training in JAX (`beit.train.framework.Pretraining`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from beit.config import BeitConfig
from beit.core.errors import ConfigError
from beit.data.masking import mask_sizes
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.models.flax.beit import FlaxBeitForMaskedImageModeling
from beit.train.flax.common import check, constructor_arguments, pool, processes
from beit.train.flax.engine import Batch, FlaxEngine
from beit.train.flax.optim import AdamW
from beit.train.run import Run
from beit.train.settings.pretrain import PROBE_NEEDS_TORCH, PretrainSettings
from beit.train.start import Start
from beit.train.targets.flax import FlaxTarget

__all__ = ["check", "engine", "model", "pool", "probe", "processes"]


def model(run: Run[PretrainSettings], start: Start, config: BeitConfig) -> FlaxBeitForMaskedImageModeling:
    """A model of `config` with the weights of the start, or with new ones."""
    arguments = constructor_arguments(run.settings)
    if start.checkpoint is None:
        return FlaxBeitForMaskedImageModeling(config, **arguments)
    # The head of another run's model may be of another codebook; that of this run's own checkpoint must fit.
    other = not start.resumed
    return FlaxBeitForMaskedImageModeling.from_pretrained(
        start.checkpoint, config=config, ignore_mismatched_sizes=other, **arguments
    )


def engine(run: Run[PretrainSettings], model: FlaxBeitForMaskedImageModeling, target: FlaxTarget) -> FlaxEngine:
    """AdamW on the target's loss."""
    settings = run.settings
    most = mask_sizes(settings, model.config)[0]

    def loss(params: Any, batch: Batch, key: jax.Array, constants: Any) -> Any:
        def predict(pixels: jax.Array, mask: jax.Array, at: jax.Array) -> jax.Array:
            return model.module.apply(
                {"params": params}, pixels, mask, train=True, patches_wanted=at, rngs={"dropout": key}
            ).logits

        return target.loss(predict, batch, most, constants)

    return FlaxEngine(
        run,
        model,
        AdamW(settings.beta2, settings.clip),
        loss,
        weight=lambda batch: batch["mask"].sum().astype(jnp.float32),  # the loss is a mean over masked patches
        constants=target.constants,
        count=target.count,
    )


def probe(
    run: Run[PretrainSettings], processor: BeitImageProcessor, images: Images
) -> Callable[[FlaxBeitForMaskedImageModeling, int], dict[str, float]]:
    """Raises ConfigError: the probe is PyTorch's."""
    raise ConfigError(PROBE_NEEDS_TORCH)

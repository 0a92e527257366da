"""The parts of pre-training that are Flax's; `pretrain` says what each is for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp

from beit.config import BeitConfig
from beit.core.errors import ConfigError
from beit.data.masking import mask_sizes
from beit.data.workers.processes import in_processes
from beit.models.flax.beit import FlaxBeitForMaskedImageModeling
from beit.train import targets
from beit.train.distributed import Alone
from beit.train.flax.engine import Batch, FlaxEngine, arithmetic
from beit.train.flax.mesh import make_mesh
from beit.train.flax.optim import AdamW
from beit.train.flax.state import check
from beit.train.flax.targets import PixelTarget, TokenTarget
from beit.train.run import Run
from beit.train.settings import FinetuneSettings, PretrainSettings

__all__ = ["check", "engine", "make_target", "model", "pool", "processes"]

pool = in_processes


def processes(settings: PretrainSettings | FinetuneSettings) -> Alone:
    """One, which uses all devices that it sees.

    Raises:
        ConfigError: more than one was launched, or the devices cannot be arranged as the settings say.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("A Flax run is one process that uses all devices it sees. Start it without torchrun.")
    make_mesh(settings.model_parallel)
    return Alone()


def make_target(settings: PretrainSettings, config: BeitConfig) -> PixelTarget | TokenTarget:
    """As `targets.make_target`."""
    return targets.make_target(settings, config, PixelTarget, TokenTarget)


def model(run: Run, config: BeitConfig, origin: str | Path | None) -> FlaxBeitForMaskedImageModeling:
    """A model of `config` with the weights of `origin`, or with new ones."""
    how = constructed(run)
    if origin is None:
        return FlaxBeitForMaskedImageModeling(config, **how)
    fresh = run.checkpoint is None  # its head may be of another codebook
    return FlaxBeitForMaskedImageModeling.from_pretrained(origin, config=config, ignore_mismatched_sizes=fresh, **how)


def constructed(run: Run) -> dict[str, Any]:
    """Arguments of the constructor that the settings name."""
    settings = run.settings
    return {
        "seed": settings.seed,
        "dtype": arithmetic(settings.precision),
        "gradient_checkpointing": settings.gradient_checkpointing,
    }


def engine(run: Run, model: FlaxBeitForMaskedImageModeling, target: PixelTarget | TokenTarget) -> FlaxEngine:
    """AdamW on the target's loss."""
    settings = cast(PretrainSettings, run.settings)
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

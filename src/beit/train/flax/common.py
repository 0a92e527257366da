"""What every kind of run has in common in JAX (`beit.train.framework.Framework`)."""

from __future__ import annotations

import os
from typing import Any

from beit.core.errors import ConfigError
from beit.data.workers.processes import in_processes
from beit.train.distributed import Alone
from beit.train.flax.engine import arithmetic
from beit.train.flax.mesh import make_mesh
from beit.train.flax.state import check
from beit.train.settings import FinetuneSettings, PretrainSettings

__all__ = ["check", "constructor_arguments", "pool", "processes"]

pool = in_processes


def processes(settings: PretrainSettings | FinetuneSettings) -> Alone:
    """This process, which uses all devices that it sees.

    Raises:
        ConfigError: more than one process was launched, or the devices cannot be arranged as the settings say.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("A Flax run is one process that uses all devices it sees. Start it without torchrun.")
    make_mesh(settings.model_parallel, settings.device)
    return Alone()


def constructor_arguments(settings: PretrainSettings | FinetuneSettings) -> dict[str, Any]:
    """Arguments of a Flax model's constructor that follow from the settings."""
    return {
        "seed": settings.seed,
        "dtype": arithmetic(settings.precision),
        "gradient_checkpointing": settings.gradient_checkpointing,
    }

"""Devices as a mesh of two axes: over `data` the batch is shared, over `model` the matrices of each layer are split.

The split is Megatron's (Shoeybi et al. 2019, arXiv 1909.08053). XLA adds the communication between devices.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from beit.config import BeitConfig
from beit.core.errors import ConfigError
from beit.models.flax.device import chosen_devices

# Module → axis of its kernel that is split. The outputs of qkv and fc1 (heads, hidden units) are split in the same way as the
# inputs of proj and fc2, so that a layer adds up over the devices only twice.
_SPLIT = {"qkv": -1, "fc1": -1, "lm_head": -1, "proj": 0, "fc2": 0}


def make_mesh(model_parallel: int = 1, device: str | None = None) -> Mesh:
    """All devices of this process, or those that `device` names, as `(devices / model_parallel, model_parallel)`.

    Raises:
        ConfigError: `model_parallel` does not divide their number, or there are none of this name.
    """
    devices = chosen_devices(device)
    if len(devices) % model_parallel:
        raise ConfigError(f"{len(devices)} devices cannot be divided into groups of {model_parallel} (model_parallel).")
    return Mesh(np.array(devices).reshape(-1, model_parallel), ("data", "model"))


def check_mesh(mesh: Mesh, config: BeitConfig, batch_size: int, accumulate: int = 1) -> None:
    """Raises ConfigError when a model or a batch cannot be divided among the devices."""
    data, model = mesh.shape["data"], mesh.shape["model"]
    for name in ("num_attention_heads", "intermediate_size"):
        if getattr(config, name) % model:
            raise ConfigError(f"{name} is {getattr(config, name)}, which model_parallel ({model}) does not divide.")
    if batch_size % (data * accumulate):
        parts = f" in {accumulate} parts" if accumulate > 1 else ""
        raise ConfigError(
            f"A batch of {batch_size}{parts} cannot be divided among {data} devices. Choose a multiple of "
            f"{data * accumulate}, or let fewer devices be seen (CUDA_VISIBLE_DEVICES, JAX_PLATFORMS=cpu)."
        )


def parameter_shardings(mesh: Mesh, params: Any) -> Any:
    """Where each parameter of a tree lies: split along `model`, or complete on each device."""
    size = mesh.shape["model"]

    def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = [str(step.key) for step in path]
        spec: list[str | None] = [None] * leaf.ndim
        axis = _split_axis(names)
        if axis is not None and leaf.shape[axis] % size == 0:  # else complete: a codebook may have any size
            spec[axis] = "model"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(of, params)


def _split_axis(names: list[str]) -> int | None:
    module, leaf = (names[-2] if len(names) > 1 else ""), names[-1]
    if leaf in ("q_bias", "v_bias", "table"):  # their last axis goes over the heads
        return -1
    if leaf == "kernel":
        return _SPLIT.get(module)
    # A bias belongs to the outputs. Those of proj and fc2 are complete on each device, so their biases are too.
    return -1 if leaf == "bias" and _SPLIT.get(module) == -1 else None


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """For arrays `(parts, images of a part, …)`: the images of each part are shared among the devices."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """For arrays that each device has complete."""
    return NamedSharding(mesh, PartitionSpec())

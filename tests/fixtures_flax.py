"""What the tests of Flax share: one model in both frameworks with the same numbers, and how their answers are compared."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import beit
from beit import BeitConfig
from beit.checkpoints import flax_layout
from beit.checkpoints.names import to_state_dict
from fixtures_runs import tiny_config
from golden import make_segmentation as golden

CLOSE = 2e-5
FLATTEN = golden.base.flatten


def small(**changes: Any) -> BeitConfig:
    """As the fixture `tiny`, with four patches, nothing that draws at random, and one meaning of a mask in both frameworks."""
    return tiny_config(**{"patch_size": 8, "drop_path_rate": 0.0, "mask_keeps_position": True, **changes})


def pair(kind: str, config: BeitConfig, seed: int = 0, **arguments: Any) -> tuple[Any, Any, Any]:
    """(PyTorch model, Flax model that keeps nothing, its params): the same numbers, each of which shows in the output."""
    model = getattr(beit, kind)(config, **arguments).eval()
    shapes = {name: array.shape for name, array in model.disk_tensors().items()}
    model.fill(*to_state_dict(golden.draw_weights(shapes, seed)))
    flax_model = getattr(beit, "Flax" + kind)(config, _do_init=False, **arguments)
    return model, flax_model, params_of(model)


def params_of(model: Any) -> Any:
    """The parameters of a PyTorch model as those of its Flax twin."""
    memory = {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}
    tree = jax.tree.map(jnp.asarray, flax_layout.to_tree(memory))
    return tree if "batch_stats" in tree else tree["params"]


def pixels(config: BeitConfig, batch: int = 2, seed: int = 0) -> np.ndarray:
    """Images that a model of `config` takes."""
    height, width = np.broadcast_to(config.image_size, 2).tolist()
    shape = (batch, config.num_channels, height, width)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def some_mask(config: BeitConfig, batch: int = 2) -> np.ndarray:
    """Every third patch, and in the first image one more: how many are masked differs."""
    mask = np.zeros((batch, config.num_patches), bool)
    mask[:, ::3] = True
    mask[0, 1] = True
    return mask


def as_torch(arguments: dict[str, Any]) -> dict[str, Any]:
    """numpy arrays → tensors; all else as it is."""
    return {name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in arguments.items()}


def close(got: Any, wanted: Any, most: float = CLOSE, name: str = "") -> None:
    """An array of jax against a tensor of PyTorch."""
    wanted = wanted.detach().numpy() if isinstance(wanted, torch.Tensor) else np.asarray(wanted)
    assert np.shape(got) == wanted.shape, name
    np.testing.assert_allclose(np.asarray(got), wanted, atol=most, rtol=0, err_msg=name)


def same_outputs(got: Any, wanted: Any, most: float = CLOSE) -> float:
    """All fields of two outputs agree; returns the largest difference."""
    ours, theirs = FLATTEN(got), FLATTEN(wanted)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        close(ours[name], value, most, name)
    return max(float(np.abs(np.asarray(ours[name]) - value.detach().numpy()).max()) for name, value in theirs.items())


def same_gradients(got: Any, model: Any) -> None:
    """A tree of gradients against those in `.grad` of a PyTorch model, tensor by tensor, at a norm of 1."""
    ours = flax_layout.from_tree({"params": got})
    theirs = {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
        for name, p in model.named_parameters()
    }
    assert set(ours) == set(theirs)
    norm = np.sqrt(sum(np.square(gradient, dtype=np.float64).sum() for gradient in theirs.values()))
    assert norm > 0
    for name, gradient in theirs.items():
        close(ours[name] / norm, gradient / norm, name=name)

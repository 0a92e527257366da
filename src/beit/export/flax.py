"""What the Flax model of a checkpoint computes, for parity reports."""

from __future__ import annotations

import numpy as np

from beit.checkpoints import Checkpoint
from beit.config import BeitConfig
from beit.models.flax import beit, segmentation

_CLASSES = {
    "BeitModel": beit.FlaxBeitModel,
    "BeitForMaskedImageModeling": beit.FlaxBeitForMaskedImageModeling,
    "BeitForImageClassification": beit.FlaxBeitForImageClassification,
    "BeitForSemanticSegmentation": segmentation.FlaxBeitForSemanticSegmentation,
}


def outputs_of(
    checkpoint: Checkpoint, name: str, config: BeitConfig, images: np.ndarray, mask: np.ndarray | None
) -> dict[str, np.ndarray]:
    """As `outputs_of` in `torch.py`, computed in JAX."""
    model = _CLASSES[name](config, _do_init=False)
    params = model.fill(checkpoint.state_dict, grid=checkpoint.grid)
    found = model(images, params=params)
    what = "logits" if hasattr(found, "logits") else "last_hidden_state"
    outputs = {what: getattr(found, what)}
    if mask is not None:
        outputs["logits of masked images"] = model(images, mask, params=params).logits
    return {what: np.asarray(value, np.float32) for what, value in outputs.items()}

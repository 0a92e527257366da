"""What the PyTorch model of a checkpoint computes, for parity reports."""

from __future__ import annotations

import numpy as np
import torch

from beit.checkpoints import Checkpoint
from beit.config import BeitConfig
from beit.models.auto import class_named


def outputs_of(
    checkpoint: Checkpoint, name: str, config: BeitConfig, images: np.ndarray, mask: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Outputs of the checkpoint's model on `images`, and on masked images where there is a `mask`.

    Args:
        checkpoint: its tensors are only read, so it may be used again.
        name: the class to make of it.
        config: settings of the model, which may differ from the checkpoint's own.
        images: `(B, channels, H, W)` float32, normalised.
        mask: `(B, N)` bool.

    Returns:
        `logits` or `last_hidden_state`, and `logits of masked images`; float32.
    """
    with torch.device("meta"):
        model = class_named(name)(config)
    model.fill(checkpoint.state_dict, grid=checkpoint.grid)
    model.eval()
    pixels = torch.from_numpy(images)
    with torch.inference_mode():
        found = model(pixels)
        what = "logits" if hasattr(found, "logits") else "last_hidden_state"
        outputs = {what: getattr(found, what)}
        if mask is not None:
            outputs["logits of masked images"] = model(pixels, bool_masked_pos=torch.from_numpy(mask)).logits
    return {what: np.asarray(value, np.float32) for what, value in outputs.items()}

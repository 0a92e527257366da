"""One batch through a Flax classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from beit.data.processor import BeitImageProcessor
from beit.models.flax.beit import FlaxBeitForImageClassification


def logits(
    model: FlaxBeitForImageClassification, processor: BeitImageProcessor, pictures: Sequence[Any], pad_to: int = 1
) -> np.ndarray:
    """float32 `(n, classes)`; fewer than `pad_to` pictures are filled up with blank ones, as every new number of images would
    compile the model again."""
    pixels = processor(pictures, return_tensors="np")["pixel_values"]
    blank = np.zeros((max(pad_to - len(pixels), 0), *pixels.shape[1:]), pixels.dtype)
    found = model(np.concatenate([pixels, blank])).logits
    return np.asarray(found, np.float32)[: len(pixels)]

"""Scores of a semantic segmentation model → one label map per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from beit.core.errors import InputError
from beit.data.postprocess.numpy import best_class as best_class_numpy
from beit.data.tensors import is_torch, to_numpy


def label_maps(outputs: Any, target_sizes: Any = None) -> list[Any]:
    """Scores of `BeitForSemanticSegmentation` → one label map per image.

    The scores are resized (bilinear, corners not aligned) before the best class is taken, a few classes at a time: the 150
    classes of ADE20k at the size of a photograph would need gigabytes.

    Args:
        outputs: has `.logits` (or the key "logits"), or is the logits: (B, labels, h, w), torch, numpy or jax.
        target_sizes: B pairs (height, width) in pixels, as a list or tensor; None keeps (h, w).

    Returns:
        B maps (height, width) of class numbers, int64: torch tensors on the device of torch logits, otherwise numpy.

    Raises:
        InputError: the logits have another shape, or the sizes are not B pairs of whole pixels.
    """
    logits = outputs["logits"] if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
    logits = logits if is_torch(logits) else to_numpy(logits)
    if logits.ndim != 4:
        raise InputError(f"logits have shape {tuple(logits.shape)}; wanted (batch, labels, height, width)")
    if target_sizes is None:
        return list(logits.argmax(1))
    sizes = [tuple(size) for size in target_sizes]
    if len(sizes) != len(logits):
        raise InputError(f"{len(sizes)} target sizes for {len(logits)} images; give one (height, width) for each")
    for size in sizes:
        if len(size) != 2 or not all(int(length) == length > 0 for length in size):
            raise InputError(f"target size {size!r} is no (height, width) in whole pixels above 0")
    best: Callable[[Any, tuple[int, int]], Any] = best_class_numpy
    if is_torch(logits):  # then torch is loaded already; without it, this room must work too
        from beit.data.postprocess.torch import best_class as best_class_torch

        best = best_class_torch
    return [best(scores, (int(h), int(w))) for scores, (h, w) in zip(logits, sizes, strict=True)]

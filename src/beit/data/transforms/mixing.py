"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899): a batch mixed with itself in reverse order. Numpy only."""

from __future__ import annotations

import math

import numpy as np


def mixup(
    images: np.ndarray,
    targets: np.ndarray,
    mixup_alpha: float,
    cutmix_alpha: float,
    rng: np.random.Generator,
    probability: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Mix each image with its partner by mixup or by cutmix, with equal chance if both are on (timm's Mixup, batch mode).

    The kind and the share are the same for the whole batch. Cutmix's share is that of its box after the box is clipped to
    the image.

    Args:
        images: float32 `(B, 3, H, W)`; not changed.
        targets: float32 `(B, classes)` probabilities.
        mixup_alpha: parameter of the beta distribution from which the share is drawn; 0 switches mixup off.
        cutmix_alpha: the same for cutmix.
        rng: source of randomness.
        probability: of mixing at all.

    Returns:
        Mixed images and targets, of the same shapes.
    """
    kinds = [kind for kind, alpha in (("mixup", mixup_alpha), ("cutmix", cutmix_alpha)) if alpha > 0]
    if not kinds or (probability < 1 and rng.random() >= probability):
        return images, targets
    kind = kinds[int(rng.integers(len(kinds)))]
    alpha = mixup_alpha if kind == "mixup" else cutmix_alpha
    keep = float(rng.beta(alpha, alpha))
    if kind == "mixup":
        images = _mixed(images, keep)
    else:
        height, width = images.shape[2:]
        # The box covers 1 - keep of the area and has the image's proportions; around a random centre it may leave the image.
        h, w = int(height * math.sqrt(1 - keep)), int(width * math.sqrt(1 - keep))
        centre_y, centre_x = int(rng.integers(height)), int(rng.integers(width))
        top, bottom = max(centre_y - h // 2, 0), min(centre_y + (h + 1) // 2, height)
        left, right = max(centre_x - w // 2, 0), min(centre_x + (w + 1) // 2, width)
        other, images = images[::-1], images.copy()
        images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        keep = 1 - (bottom - top) * (right - left) / (height * width)
    return images, _mixed(targets, keep)


def _mixed(values: np.ndarray, keep: float) -> np.ndarray:
    """`keep` of each row and 1 - `keep` of its partner in the reversed batch."""
    found = np.empty_like(values)
    for own, other, mixed in zip(values, values[::-1], found, strict=True):  # one at a time: it stays in the cache
        np.subtract(own, other, out=mixed)
        mixed *= keep
        mixed += other
    return found

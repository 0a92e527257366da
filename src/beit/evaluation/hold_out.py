"""Hold out some images of each class, to measure on."""

from __future__ import annotations

import numpy as np

from beit.core.errors import DataError
from beit.data.sources.images import Images

HELD_OUT = 0.2  # the fraction of each class


def hold_out(
    images: Images, seed: int = 0, most: int | None = None, fraction: float = HELD_OUT, keep_single: bool = False
) -> tuple[Images, Images]:
    """Hold out some random images of each class; of images with several labels, or numbers, some random images of all.

    Args:
        images: labelled images.
        seed: of the choice.
        most: use only about this many images, in proportion from each class, but at least two of each.
        fraction: of each class, in (0, 1); at least one image, and never all.
        keep_single: learn from the image of a class that has one alone, instead of raising.

    Returns:
        Images to learn from, and images to measure on.

    Raises:
        DataError: the images have no labels, or a class has a single image.
    """
    if images.labels is None:
        raise DataError("Images can only be held out of each class when they are labelled: one subfolder per class.")
    rng = np.random.default_rng(seed)
    if images.labels.ndim == 2:
        return _of_all(images, rng.permutation(len(images)), most, fraction)
    counts = np.bincount(images.labels, minlength=len(images.classes))
    used = 1.0 if most is None else min(most / len(images), 1.0)
    learn, measure = [], []
    for number, found in enumerate(np.split(np.argsort(images.labels, kind="stable"), np.cumsum(counts)[:-1])):
        if len(found) == 1 and not keep_single:
            raise DataError(
                f"Class {images.classes[number]} has a single image; two are needed, one to learn from and one to measure on."
            )
        chosen = rng.permutation(found)[: max(round(used * len(found)), 2)]
        held = min(max(round(fraction * len(chosen)), 1), len(chosen) - 1) if len(chosen) else 0
        measure.append(chosen[:held])
        learn.append(chosen[held:])
    return images.subset(np.sort(np.concatenate(learn))), images.subset(np.sort(np.concatenate(measure)))


def _of_all(images: Images, order: np.ndarray, most: int | None, fraction: float) -> tuple[Images, Images]:
    if len(order) < 2:
        raise DataError("There is a single image; two are needed, one to learn from and one to measure on.")
    chosen = order if most is None else order[: max(most, 2)]
    held = min(max(round(fraction * len(chosen)), 1), len(chosen) - 1)
    return images.subset(np.sort(chosen[held:])), images.subset(np.sort(chosen[:held]))

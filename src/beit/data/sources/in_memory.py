"""Small images decoded once and kept in memory, instead of read from disk again for every crop."""

from __future__ import annotations

from collections.abc import Sized
from typing import overload

import numpy as np

from beit.core.errors import DataError
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import ArrayImages, Images
from beit.data.sources.stream import Stream

_MOST_BYTES_IN_MEMORY = 1_000_000_000
_LARGEST_SIDE_IN_MEMORY = 128


@overload
def hold_in_memory(images: Images, bad: BadImages, target: int) -> Images: ...
@overload
def hold_in_memory(images: Images | Stream, bad: BadImages, target: int) -> Images | Stream: ...
def hold_in_memory(images: Images | Stream, bad: BadImages, target: int) -> Images | Stream:
    """The same images decoded once, when all have one small size (CIFAR, MNIST, …); else as they are, streams too.

    Only images of up to 1.5 times `target`, the shortest side of a view in pixels: views of a batch are made without a
    filter against aliasing (`views.batch_view`).

    Images that cannot be read are left out and noted in `bad`.
    """
    if isinstance(images, ArrayImages) or not isinstance(images, Sized):
        return images
    first = None
    for index in range(min(len(images), 16)):
        try:
            size = images.read(index).size
        except DataError:
            continue
        if first is not None and size != first:
            return images
        first = size
    if first is None or max(first) > min(_LARGEST_SIDE_IN_MEMORY, 1.5 * target):
        return images
    if len(images) * first[0] * first[1] * 3 > _MOST_BYTES_IN_MEMORY:
        return images
    arrays, kept = [], []
    for index in range(len(images)):
        try:
            image = images.read(index)
        except DataError as error:
            bad.add(str(error))
            continue
        if image.size != first:
            return images
        arrays.append(np.asarray(image))
        kept.append(index)
    labels = None if images.labels is None else images.labels[kept]
    return ArrayImages(np.stack(arrays), labels, images.classes)

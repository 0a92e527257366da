"""Small images of one size, decoded once and kept in memory instead of being read again for every crop."""

from __future__ import annotations

from collections.abc import Sized
from typing import overload

import numpy as np
from PIL import Image

from beit.core.errors import DataError
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import ArrayImages, Images
from beit.data.sources.stream import Stream

_MOST_BYTES = 1_000_000_000
_LARGEST_SIDE = 128  # pixels
_LOOKED_AT = 16  # images; if they have several sizes, the others are not read


@overload
def hold_in_memory(images: Images, bad: BadImages, target: int) -> Images: ...
@overload
def hold_in_memory(images: Images | Stream, bad: BadImages, target: int) -> Images | Stream: ...
def hold_in_memory(images: Images | Stream, bad: BadImages, target: int) -> Images | Stream:
    """The same images as an array, if all have one small size (CIFAR, MNIST, …); otherwise, and of a stream, unchanged.

    Args:
        images: where they come from.
        bad: counts the images that cannot be read. They are left out of the array.
        target: shortest side of a view in pixels. Images of more than 1.5 times that stay on disk, since the views of a batch
            are made without a filter against aliasing (`transforms.crops.batch_view`).

    Raises:
        DataError: more than a tenth of the images cannot be read.
    """
    if isinstance(images, ArrayImages) or not isinstance(images, Sized):
        return images
    count = len(images)
    first: list[Image.Image | DataError] = []  # a look at some before all are read; none is read twice
    size: tuple[int, int] | None = None
    for index in range(min(count, _LOOKED_AT)):
        image = _read(images, index)
        first.append(image)
        if isinstance(image, DataError):
            continue
        size = size or image.size
        too_large = max(size) > min(_LARGEST_SIDE, 1.5 * target) or count * size[0] * size[1] * 3 > _MOST_BYTES
        if image.size != size or too_large:
            return images
    if size is None:
        return images
    arrays, kept = [], []
    for index in range(count):
        image = first[index] if index < len(first) else _read(images, index)
        if isinstance(image, DataError):
            bad.add(str(image))
        elif image.size != size:
            return images  # they stay on disk; the bad ones found so far are counted once, here and when read again
        else:
            arrays.append(np.asarray(image))
            kept.append(index)
    labels = None if images.labels is None else images.labels[kept]
    return ArrayImages(np.stack(arrays), labels, images.classes)


def _read(images: Images, index: int) -> Image.Image | DataError:
    try:
        return images.read(index)
    except DataError as error:
        return error

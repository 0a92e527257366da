"""Batches of the images that can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from PIL import Image

from beit.core.errors import DataError
from beit.data.sources.images import Images

# Called with the number of an image that cannot be read, and the reason.
OnError = Callable[[int, str], None]


def batches_of(images: Images, batch_size: int, on_error: OnError) -> Iterator[tuple[list[int], list[Image.Image]]]:
    """Yield (numbers, images) of up to `batch_size` images, in order; those that cannot be read go to `on_error`."""
    numbers: list[int] = []
    pictures: list[Image.Image] = []
    for index in range(len(images)):
        try:
            pictures.append(images.read(index))
        except DataError as error:
            on_error(index, str(error))
            continue
        numbers.append(index)
        if len(numbers) == batch_size:
            yield numbers, pictures
            numbers, pictures = [], []
    if numbers:
        yield numbers, pictures

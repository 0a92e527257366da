"""Batches of the images that can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from PIL import Image

from beit.core.errors import DataError, InputError
from beit.core.text import printable
from beit.data.processor import BeitImageProcessor
from beit.data.processor_sizes import target_size
from beit.data.sources.images import Images

# Called with the number of an image that cannot be read, and the reason.
OnError = Callable[[int, str], None]


def batches_of(
    images: Images, processor: BeitImageProcessor, batch_size: int, on_error: OnError, start: int = 0
) -> Iterator[tuple[list[int], list[Image.Image]]]:
    """Yield (numbers, images) of up to `batch_size` images, in order, from image `start` on.

    Those that cannot be read, or have a shape that the processor refuses, go to `on_error`.
    """
    numbers: list[int] = []
    pictures: list[Image.Image] = []
    for index in range(start, len(images)):
        try:
            picture = images.read(index)
            if processor.do_resize:
                target_size(processor.size, *picture.size)
        except DataError as error:
            on_error(index, str(error))
            continue
        except InputError as error:
            on_error(index, f"{printable(images.name(index))}: {error}.")
            continue
        pictures.append(picture)
        numbers.append(index)
        if len(numbers) == batch_size:
            yield numbers, pictures
            numbers, pictures = [], []
    if numbers:
        yield numbers, pictures

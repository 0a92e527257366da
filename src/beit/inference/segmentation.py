"""Segment images: pictures in, label maps out, at the size of each picture.

    segment          one picture in memory    → its label map (what a server asks for)
    segment_images   an `Images` source       → an iterator of (number, image, label map) (what a batch job asks for)

Models are PyTorch's; importing this does not load it. `segment_files.py` is the layer above that reads and writes files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from beit.core.errors import DataError
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.inference.batches import OnError
from beit.inference.sliding_window import DEFAULT_WINDOW, SlidingWindow

if TYPE_CHECKING:
    import torch

    from beit.models.torch.segmentation import BeitForSemanticSegmentation


def segment(
    model: BeitForSemanticSegmentation,
    processor: BeitImageProcessor,
    image: Image.Image | np.ndarray,
    sliding_window: SlidingWindow = DEFAULT_WINDOW,
    device: torch.device | str | None = None,
) -> np.ndarray:
    """The label map of one image.

    Args:
        model: a segmentation model; it is put into evaluation mode.
        processor: its image processor.
        image: a PIL image, or an array uint8 `(H, W)` or `(H, W, 3)`.
        sliding_window: how the image is brought to the model.
        device: where to compute; where the model is, if not given.

    Returns:
        int64 `(H, W)`, the class number of each pixel.

    Raises:
        InputError: an array of another type or shape.
        CheckpointError: the model answers NaN or infinity.
    """
    from beit.inference.torch.segmentation import Segmenter

    return Segmenter(model.to(device or model.device), processor, sliding_window)(image).numpy()


def segment_images(
    model: BeitForSemanticSegmentation,
    processor: BeitImageProcessor,
    images: Images,
    on_error: OnError,
    sliding_window: SlidingWindow = DEFAULT_WINDOW,
    device: torch.device | str | None = None,
) -> Iterator[tuple[int, Image.Image, np.ndarray]]:
    """Yield (number, image, label map int64 `(H, W)`) of each image that can be read, one after the other.

    Args:
        model: as for `segment`.
        processor: its image processor.
        images: what to segment; `ImageFiles` makes such a source from paths.
        on_error: called with (number, reason) for each image that cannot be read.
        sliding_window: as for `segment`.
        device: as for `segment`.

    Raises:
        CheckpointError: the model answers NaN or infinity.
    """
    from beit.inference.torch.segmentation import Segmenter

    segmenter = Segmenter(model.to(device or model.device), processor, sliding_window)
    for index in range(len(images)):
        try:
            image = images.read(index)
        except DataError as error:
            on_error(index, str(error))
            continue
        yield index, image, segmenter(image).numpy()

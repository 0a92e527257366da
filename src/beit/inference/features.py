"""Features of images: the pooled output of a model, or the mean of the patches of one layer.

    batch_features    pictures in memory      → an array (what a server asks for)
    feature_batches   an `Images` source      → an iterator, batch by batch (what a batch job asks for)
    embed             an `Images` source      → one array (`beit embed`)

Models are PyTorch's; importing this does not load it. Features of all layers at once, for `beit probe`, are in
`inference/torch/features.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from beit.core.errors import DataError
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import Images
from beit.inference.batches import OnError, batches_of
from beit.inference.checks import check_layers, require_finite

if TYPE_CHECKING:
    import torch

    from beit.models.torch.beit import BeitPreTrainedModel


def batch_features(
    model: BeitPreTrainedModel,
    processor: BeitImageProcessor,
    pictures: Sequence[Any],
    layer: int | None = None,
    device: torch.device | str | None = None,
) -> np.ndarray:
    """Features of one batch.

    Args:
        model: any BEiT model; it is put into evaluation mode.
        processor: its image processor.
        pictures: n images in any form that the processor takes: PIL images, arrays, paths.
        layer: 1 … L, the layer whose patches are averaged; None for the pooled output of the whole model (a model without a
            pooler, such as one just pre-trained, gives the mean of the last layer's patches). Middle layers are best for
            models that were only pre-trained.
        device: where to compute; where the model is, if not given.

    Returns:
        float32 `(n, C)`.

    Raises:
        DataError: there is no such layer.
        CheckpointError: the model answers NaN or infinity.
    """
    from beit.inference.torch.features import pooled_features

    check_layers([] if layer is None else [layer], model.config.num_hidden_layers)
    found = pooled_features(model, processor, pictures, layer, device)
    require_finite(bool(np.isfinite(found).all()))
    return found


def feature_batches(
    model: BeitPreTrainedModel,
    processor: BeitImageProcessor,
    images: Images,
    on_error: OnError,
    layer: int | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (numbers of images, their features `(n, C)` float32) batch by batch.

    Args:
        model: as for `batch_features`.
        processor: its image processor.
        images: what to embed.
        on_error: called with (number, reason) for each image that cannot be read.
        layer: as for `batch_features`.
        batch_size: images per forward pass.
        device: as for `batch_features`.

    Raises:
        DataError: there is no such layer.
        CheckpointError: the model answers NaN or infinity.
    """
    check_layers([] if layer is None else [layer], model.config.num_hidden_layers)  # before an image is read
    for numbers, pictures in batches_of(images, processor, batch_size, on_error):
        yield numbers, batch_features(model, processor, pictures, layer, device)


def embed(
    model: BeitPreTrainedModel,
    processor: BeitImageProcessor,
    images: Images,
    layer: int | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> tuple[list[int], np.ndarray, list[str]]:
    """Features of all images; arguments as `feature_batches`.

    Returns:
        The numbers of the images that can be read; their features, float32 `(n, C)`; why the others cannot be read.

    Raises:
        DataError: there is no such layer, no image can be read, or more than a tenth of them cannot.
        CheckpointError: the model answers NaN or infinity.
    """
    bad = BadImages(len(images))
    kept: list[int] = []
    features = []
    batches = feature_batches(model, processor, images, lambda _, reason: bad.add(reason), layer, batch_size, device)
    for numbers, found in batches:
        kept += numbers
        features.append(found)
    if not kept:
        raise DataError("None of the images can be read:\n" + str(bad))
    return kept, np.concatenate(features), list(bad.reasons)

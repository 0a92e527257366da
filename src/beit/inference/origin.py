"""Which model made features: said when they are written, and checked when others are compared with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beit.core.errors import ConfigError, DataError
from beit.core.text import printable
from beit.data.processor import BeitImageProcessor
from beit.inference.feature_files import FeatureIndex, Origin, sample_image
from beit.inference.features import batch_features
from beit.inference.trained import open_encoder

if TYPE_CHECKING:
    import torch

    from beit.models.torch.beit import BeitModel

# Relative distance of two features of the sample image. Processors and versions of libraries differ by 1e-4 at most, two models
# of one run that are a few steps apart by more than this.
_SAME = 0.01


def origin_of(
    source: str,
    model: BeitModel,
    processor: BeitImageProcessor,
    layer: int | None,
    device: torch.device | str | None = None,
) -> Origin:
    """What a file of features says about its making; arguments as for `batch_features`, and `source`, as the user named the model."""
    sample = batch_features(model, processor, [sample_image()], layer, device)[0]
    where = os.path.abspath(source) if os.path.exists(source) else source
    return Origin(where, layer, os.getcwd(), [round(float(value), 6) for value in sample])


def open_as_in(
    index: FeatureIndex, path: Path, source: str | None, layer: int | None
) -> tuple[BeitModel, BeitImageProcessor, int | None]:
    """Open the model that made an index, for features that can be compared with it.

    Args:
        index: the features.
        path: of their file, for messages.
        source: folder or Hub id of the model; None for the one that the index names.
        layer: of the model; None for the one that the index names, else the pooled output.

    Returns:
        The model, its image processor and the layer.

    Raises:
        ConfigError: the index does not say its model and none was given; or the model, the layer or the image processor is
            another one.
        CheckpointError: there is no such model.
    """
    origin = index.origin
    if origin is None and source is None:
        raise ConfigError(
            f"{printable(path)} does not say which model made it. Name it: --model MODEL, and --layer if it was one."
        )
    if origin is not None and layer is not None and layer != origin.layer:
        raise ConfigError(
            f"layer is {layer}; {printable(path)} holds {origin.where()}. Leave --layer away, or embed the images again."
        )
    model, processor = open_encoder(source if source is not None else origin.model if origin is not None else "")
    layer = layer if origin is None else origin.layer
    found = batch_features(model, processor, [sample_image()], layer)[0]
    width = index.features.shape[1]
    if len(found) != width:
        raise ConfigError(
            f"The model gives {len(found)} numbers per image; {printable(path)} has {width}"
            + ("." if origin is None else f", made by {printable(origin.model)}.")
            + " Give the model that made it."
        )
    if origin is not None:
        known = np.array(origin.sample, np.float32)
        if len(known) != width:
            raise DataError(f"{printable(path)}: what it says about its model is damaged; embed the images again.")
        if not np.linalg.norm(found - known) <= _SAME * np.linalg.norm(known):
            raise ConfigError(
                f"This is another model, or another state of it, than the one that made {printable(path)} ({origin.where()} of "
                f"{printable(origin.model)}): a test image has other features. Give that model, or embed the images again."
            )
    return model, processor, layer

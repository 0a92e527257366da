"""`load`: a checkpoint as the model class that belongs to it, without naming the class."""

from __future__ import annotations

from typing import Any

from beit.checkpoints import Checkpoint, Source
from beit.checkpoints.hub import split_hub_keywords
from beit.core.errors import CheckpointError, require

_MODELS = (
    "BeitModel",
    "BeitForMaskedImageModeling",
    "BeitForImageClassification",
    "BeitForSemanticSegmentation",
    "BeitBackbone",
)


def load(id_or_folder: Source, **keywords: Any) -> Any:
    """Load any BEiT checkpoint as the class that belongs to it.

    The class is the one that config.json names under `architectures`; without that, it is told by the tensors.

    Args:
        id_or_folder: a folder, a weight file, an id, a URL, a name of the catalogue, or an open `Checkpoint`: see
            `BeitModel.from_pretrained`.
        **keywords: as for `BeitModel.from_pretrained`.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: as `from_pretrained`; or config.json names a class that `beit` does not have.
        MissingExtraError: torch is not installed.
    """
    where, overrides = split_hub_keywords(keywords)
    checkpoint = Checkpoint.open(id_or_folder, **where)
    named = checkpoint.with_given(overrides).architecture
    if named not in _MODELS:
        kind = checkpoint.settings.get("model_type")
        raise CheckpointError(
            f"{checkpoint.source} holds a {named} (model_type {kind}), which is not one of the models here: {', '.join(_MODELS)}."
        )
    return _class_named(named).from_pretrained(checkpoint, **overrides)


def _class_named(name: str) -> Any:
    require("torch", "torch", f"beit.{name}")
    from beit.models.torch import beit, segmentation

    return getattr(segmentation if name in ("BeitForSemanticSegmentation", "BeitBackbone") else beit, name)

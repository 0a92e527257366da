"""`load`: a checkpoint as the model class that belongs to it, without naming the class."""

from __future__ import annotations

from typing import Any

from beit.checkpoints import Checkpoint, Source
from beit.checkpoints import keywords as loader
from beit.core.errors import CheckpointError, require

MODELS = (
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
    given = loader.with_token(keywords)
    places = (*loader.WHERE, *loader.WEIGHT_FILES)
    where = {name: given.pop(name) for name in places if name in given}
    checkpoint = Checkpoint.open(id_or_folder, **{name: value for name, value in where.items() if value is not None})
    fields = {name: value for name, value in given.items() if name not in loader.LOADER}
    named = checkpoint.with_given(fields).architecture
    if named not in MODELS:
        kind = checkpoint.settings.get("model_type")
        raise CheckpointError(
            f"{checkpoint.source} holds a {named} (model_type {kind}), which is not one of the models here: {', '.join(MODELS)}."
        )
    return class_named(named).from_pretrained(checkpoint, **given)


def class_named(name: str) -> Any:
    """The class of this name, one of `MODELS`, in PyTorch; in Flax with `Flax` before the name.

    Raises:
        MissingExtraError: the framework is not installed.
    """
    segments = name.endswith(("BeitForSemanticSegmentation", "BeitBackbone"))
    if name.startswith("Flax"):
        require("flax", "flax", f"beit.{name}")
        from beit.models.flax import beit as flax_beit
        from beit.models.flax import segmentation as flax_segmentation

        return getattr(flax_segmentation if segments else flax_beit, name)
    require("torch", "torch", f"beit.{name}")
    from beit.models.torch import beit, segmentation

    return getattr(segmentation if segments else beit, name)

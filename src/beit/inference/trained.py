"""Open trained models for inference: a model and its image processor from one checkpoint, each weight file read once.

A model whose head was never trained is refused, because it would only guess.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

from beit.checkpoints import Checkpoint, Source
from beit.core.errors import ConfigError
from beit.data.processor import BeitImageProcessor
from beit.models.validation import problem_type

if TYPE_CHECKING:
    from beit.models.torch.beit import BeitModel
    from beit.models.torch.segmentation import BeitForSemanticSegmentation

logger = logging.getLogger("beit")


def processor_of(checkpoint: Checkpoint) -> BeitImageProcessor:
    """The image processor of a checkpoint. Where no file states it, as in a folder that holds a model alone, it is the publisher's.

    Such a guess is logged as a warning.

    Raises:
        CheckpointError: its file is damaged.
    """
    stored = BeitImageProcessor.stored_in(checkpoint)
    if stored is not None:
        return stored
    logger.warning(
        "%s has no preprocessor_config.json. Images are prepared as BEiT's publishers do it, which is a guess: %s. If it is wrong, "
        "put the right file into the folder (BeitImageProcessor(…).save_pretrained).",
        checkpoint.source,
        "; ".join(f"{guess.name} = {guess.value}" for guess in checkpoint.pixel_guesses),
    )
    return BeitImageProcessor.from_dict(checkpoint.pixels)


def open_classifier(source: Source, framework: Literal["torch", "flax"] = "torch") -> tuple[Any, BeitImageProcessor]:
    """A fine-tuned classifier.

    Args:
        source: a folder, weight file, Hub id, URL, name of the catalogue, or an open `Checkpoint`.
        framework: `torch` for a `BeitForImageClassification`, `flax` for a `FlaxBeitForImageClassification`.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged or of another architecture.
        ConfigError: its classifier was never trained, or it has fewer than two classes.
    """
    checkpoint = Checkpoint.open(source)
    model: Any
    if framework == "flax":
        from beit.models.flax.beit import FlaxBeitForImageClassification

        model = FlaxBeitForImageClassification.from_pretrained(checkpoint)
    else:
        from beit.models.torch.beit import BeitForImageClassification

        model = BeitForImageClassification.from_pretrained(checkpoint)
    if model.load_report is not None and model.load_report.needs_training:
        raise ConfigError(
            f"{checkpoint.source} has no trained classifier. Fine-tune it first: beit finetune --model {checkpoint.source} …"
        )
    one_class = problem_type(model.config, whole_numbers=True) == "single_label_classification"
    if one_class and model.config.num_labels < 2:
        raise ConfigError(f"{checkpoint.source} has {model.config.num_labels} classes; a classifier has at least two.")
    return model, processor_of(checkpoint)


def open_segmenter(source: Source) -> tuple[BeitForSemanticSegmentation, BeitImageProcessor]:
    """A trained segmentation model.

    Args:
        source: as for `open_classifier`.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged or of another architecture.
        ConfigError: its heads were never trained.
    """
    from beit.models.torch.segmentation import BeitForSemanticSegmentation

    checkpoint = Checkpoint.open(source)
    model = BeitForSemanticSegmentation.from_pretrained(checkpoint)
    if model.load_report is not None and model.load_report.needs_training:
        raise ConfigError(
            f"{checkpoint.source} was not trained for segmentation. Train it first: beit segment train --model {checkpoint.source} …"
        )
    return model, processor_of(checkpoint)


def open_encoder(source: Source) -> tuple[BeitModel, BeitImageProcessor]:
    """The encoder of any BEiT model, for `embed`.

    A model that was only pre-trained has no trained pooler; it comes without one, and `embed` averages the patches of its last
    layer instead.

    Args:
        source: as for `open_classifier`.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged or of another architecture.
    """
    from beit.models.torch.beit import BeitModel

    checkpoint = Checkpoint.open(source)
    processor = processor_of(checkpoint)
    model = BeitModel.from_pretrained(checkpoint)
    initialised = [name for name, _ in getattr(model.load_report, "new", [])]
    if model.pooler is not None and any(name.startswith("pooler") for name in initialised):
        model.pooler = None
    return model, processor


def open_trained_layers(source: Source) -> tuple[BeitModel, BeitImageProcessor]:
    """The encoder of any BEiT model without a pooler, for a probe of its layers.

    Args:
        source: as for `open_classifier`.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged or of another architecture.
        ConfigError: some of its layers were never trained, so their features mean nothing.
    """
    from beit.models.torch.beit import BeitModel

    checkpoint = Checkpoint.open(source)
    model = BeitModel.from_pretrained(checkpoint, add_pooling_layer=False)
    new = [name for name, _ in getattr(model.load_report, "new", [])]
    untrained = [name for name in new if name.startswith(("embeddings", "encoder")) and "mask_token" not in name]
    if untrained:
        raise ConfigError(
            f"{checkpoint.source} lacks weights of its layers ({', '.join(untrained[:3])}): its features mean nothing. Pre-train it "
            f"first: beit pretrain --model {checkpoint.source} …"
        )
    return model, processor_of(checkpoint)

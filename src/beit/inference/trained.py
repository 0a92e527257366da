"""Open trained models for inference: a model and its image processor from one checkpoint, each weight file read once.

A model whose head was never trained is refused, because it would only guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from beit.checkpoints import Checkpoint, Source
from beit.core.errors import ConfigError
from beit.data.processor import BeitImageProcessor
from beit.models.validation import problem_type

if TYPE_CHECKING:
    from beit.models.torch.beit import BeitModel
    from beit.models.torch.segmentation import BeitForSemanticSegmentation


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
    return model, BeitImageProcessor.from_pretrained(checkpoint)


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
    return model, BeitImageProcessor.from_pretrained(checkpoint)


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
    processor = BeitImageProcessor.from_pretrained(checkpoint)
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
    return model, BeitImageProcessor.from_pretrained(checkpoint)

"""`AutoModel` and its relatives: names under which scripts for transformers open a model without naming its class.

Each stands for one class here, whatever head the checkpoint has: `beit.load` takes the class that the checkpoint names.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from beit.checkpoints import Source
from beit.config import BeitConfig
from beit.core.errors import CheckpointError, ConfigError
from beit.models.auto import class_named


class AutoConfig:
    """The config of any BEiT checkpoint; `AutoConfig.from_pretrained` is `BeitConfig.from_pretrained`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        _refuse_instance(self)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Source, **kwargs: Any) -> Any:
        """As `BeitConfig.from_pretrained`. Raises CheckpointError for another architecture."""
        return BeitConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def for_model(cls, model_type: str, *args: Any, **kwargs: Any) -> BeitConfig:
        """A new config: `AutoConfig.for_model("beit", num_labels=10)`.

        Raises:
            ConfigError: another architecture, or an impossible value.
        """
        if model_type != BeitConfig.model_type:
            raise ConfigError(f"beit has no model of type {model_type!r}; the one type is {BeitConfig.model_type!r}.")
        return BeitConfig(*args, **kwargs)


class _Auto:
    """A name for one model class."""

    stands_for: ClassVar[str]

    def __init__(self, *_: Any, **__: Any) -> None:
        _refuse_instance(self)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Source, *model_args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint as this kind of model; arguments are those of the class's own `from_pretrained`.

        Raises:
            CheckpointError: as the class's own; among others, the checkpoint is of another architecture.
            MissingExtraError: the framework is not installed.
        """
        return cls._class().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    @classmethod
    def from_config(cls, config: BeitConfig, **kwargs: Any) -> Any:
        """A new model with random weights; `kwargs` are arguments of the class's constructor.

        Raises:
            ConfigError: `config` is not that of a BEiT.
            MissingExtraError: the framework is not installed.
        """
        if not isinstance(config, BeitConfig):
            kind = getattr(config, "model_type", type(config).__name__)
            raise ConfigError(f"{cls.__name__} builds a BEiT, and the config is of {kind!r}. Give a BeitConfig.")
        return cls._class()(config, **kwargs)

    @classmethod
    def _class(cls) -> Any:
        return class_named(cls.stands_for)


class AutoModel(_Auto):
    """`BeitModel` for any BEiT checkpoint: the encoder, without a head."""

    stands_for = "BeitModel"


class AutoModelForImageClassification(_Auto):
    """`BeitForImageClassification` for any BEiT checkpoint: a classifier of images."""

    stands_for = "BeitForImageClassification"


class AutoModelForMaskedImageModeling(_Auto):
    """`BeitForMaskedImageModeling` for any BEiT checkpoint: a model for masked image modelling."""

    stands_for = "BeitForMaskedImageModeling"


class AutoModelForSemanticSegmentation(_Auto):
    """`BeitForSemanticSegmentation` for any BEiT checkpoint: a model for semantic segmentation."""

    stands_for = "BeitForSemanticSegmentation"


class AutoBackbone(_Auto):
    """`BeitBackbone` for any BEiT checkpoint: feature maps for a detector or another head."""

    stands_for = "BeitBackbone"


class FlaxAutoModel(_Auto):
    """`FlaxBeitModel` for any BEiT checkpoint: the encoder, without a head, in Flax."""

    stands_for = "FlaxBeitModel"


class FlaxAutoModelForImageClassification(_Auto):
    """`FlaxBeitForImageClassification` for any BEiT checkpoint: a classifier of images, in Flax."""

    stands_for = "FlaxBeitForImageClassification"


class FlaxAutoModelForMaskedImageModeling(_Auto):
    """`FlaxBeitForMaskedImageModeling` for any BEiT checkpoint: a model for masked image modelling, in Flax."""

    stands_for = "FlaxBeitForMaskedImageModeling"


class FlaxAutoModelForSemanticSegmentation(_Auto):
    """`FlaxBeitForSemanticSegmentation` for any BEiT checkpoint: a model for semantic segmentation, in Flax."""

    stands_for = "FlaxBeitForSemanticSegmentation"


def _refuse_instance(self: object) -> NoReturn:
    name = type(self).__name__
    raise CheckpointError(f"{name} is made by {name}.from_pretrained(folder), not by calling it.")

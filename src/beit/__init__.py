"""beit: the home of BEiT. `from beit import BeitForImageClassification`, or `beit --help` on the command line.

Names are loaded when first used: `import beit` itself loads neither torch nor jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name → the module that has it. A test compares this list with docs and modules.
_PUBLIC = {
    "AutoImageProcessor": "beit.processing",
    "BeitBackbone": "beit.models.pytorch_segmentation",
    "BeitConfig": "beit.config",
    "BeitFeatureExtractor": "beit.processing",
    "BeitForImageClassification": "beit.models.pytorch_beit",
    "BeitForMaskedImageModeling": "beit.models.pytorch_beit",
    "BeitForSemanticSegmentation": "beit.models.pytorch_segmentation",
    "BeitImageProcessor": "beit.processing",
    "BeitModel": "beit.models.pytorch_beit",
    "BeitPreTrainedModel": "beit.models.pytorch_beit",
    "BeitModelOutputWithPooling": "beit.outputs",
    "BackboneOutput": "beit.outputs",
    "BeitError": "beit.errors",
    "CheckpointError": "beit.errors",
    "ConfigError": "beit.errors",
    "DataError": "beit.errors",
    "FlaxBeitForImageClassification": "beit.models.flax_beit",
    "FlaxBeitForMaskedImageModeling": "beit.models.flax_beit",
    "FlaxBeitForSemanticSegmentation": "beit.models.flax_segmentation",
    "FlaxBeitModel": "beit.models.flax_beit",
    "FlaxBeitModelOutputWithPooling": "beit.outputs",
    "FlaxBeitPreTrainedModel": "beit.models.flax_beit",
    "ImageClassifierOutput": "beit.outputs",
    "InputError": "beit.errors",
    "MaskedLMOutput": "beit.outputs",
    "MissingExtraError": "beit.errors",
    "SemanticSegmenterOutput": "beit.outputs",
    "TrainingError": "beit.errors",
    "load": "beit.hub",
}

# Second names, under which transformers has the same thing.
_ALIASES = {
    "AutoImageProcessor": "BeitImageProcessor",
    "FlaxBeitModelOutputWithPooling": "BeitModelOutputWithPooling",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        for framework, room in (("torch", ".pytorch_"), ("flax", ".flax_")):
            if room in _PUBLIC[name]:
                from beit.errors import require

                require(framework, framework, f"beit.{name}")
        value = getattr(importlib.import_module(_PUBLIC[name]), _ALIASES.get(name, name))
        globals()[name] = value
        return value
    raise AttributeError(f"module 'beit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from beit.config import BeitConfig as BeitConfig
    from beit.errors import BeitError as BeitError
    from beit.errors import CheckpointError as CheckpointError
    from beit.errors import ConfigError as ConfigError
    from beit.errors import DataError as DataError
    from beit.errors import InputError as InputError
    from beit.errors import MissingExtraError as MissingExtraError
    from beit.errors import TrainingError as TrainingError
    from beit.hub import load as load
    from beit.models.flax_beit import FlaxBeitForImageClassification as FlaxBeitForImageClassification
    from beit.models.flax_beit import FlaxBeitForMaskedImageModeling as FlaxBeitForMaskedImageModeling
    from beit.models.flax_beit import FlaxBeitModel as FlaxBeitModel
    from beit.models.flax_beit import FlaxBeitPreTrainedModel as FlaxBeitPreTrainedModel
    from beit.models.flax_segmentation import FlaxBeitForSemanticSegmentation as FlaxBeitForSemanticSegmentation
    from beit.models.pytorch_beit import BeitForImageClassification as BeitForImageClassification
    from beit.models.pytorch_beit import BeitForMaskedImageModeling as BeitForMaskedImageModeling
    from beit.models.pytorch_beit import BeitModel as BeitModel
    from beit.models.pytorch_beit import BeitPreTrainedModel as BeitPreTrainedModel
    from beit.models.pytorch_segmentation import BeitBackbone as BeitBackbone
    from beit.models.pytorch_segmentation import BeitForSemanticSegmentation as BeitForSemanticSegmentation
    from beit.outputs import BackboneOutput as BackboneOutput
    from beit.outputs import BeitModelOutputWithPooling as BeitModelOutputWithPooling
    from beit.outputs import ImageClassifierOutput as ImageClassifierOutput
    from beit.outputs import MaskedLMOutput as MaskedLMOutput
    from beit.outputs import SemanticSegmenterOutput as SemanticSegmenterOutput
    from beit.processing import BeitFeatureExtractor as BeitFeatureExtractor
    from beit.processing import BeitImageProcessor as BeitImageProcessor

    AutoImageProcessor = BeitImageProcessor
    FlaxBeitModelOutputWithPooling = BeitModelOutputWithPooling

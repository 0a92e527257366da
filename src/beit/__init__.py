"""beit: the home of BEiT. `from beit import BeitForImageClassification`, or `beit --help` on the command line.

Names are loaded when first used: `import beit` itself loads neither torch nor jax.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name → the module that has it. A test compares this list with docs and modules.
_PUBLIC = {
    "AutoBackbone": "beit.models.auto_classes",
    "AutoConfig": "beit.models.auto_classes",
    "AutoModel": "beit.models.auto_classes",
    "AutoModelForImageClassification": "beit.models.auto_classes",
    "AutoModelForMaskedImageModeling": "beit.models.auto_classes",
    "AutoModelForSemanticSegmentation": "beit.models.auto_classes",
    "FlaxAutoModel": "beit.models.auto_classes",
    "FlaxAutoModelForImageClassification": "beit.models.auto_classes",
    "FlaxAutoModelForMaskedImageModeling": "beit.models.auto_classes",
    "FlaxAutoModelForSemanticSegmentation": "beit.models.auto_classes",
    "AutoImageProcessor": "beit.data.processor",
    "BeitBackbone": "beit.models.torch.segmentation",
    "BeitConfig": "beit.config",
    "BeitFeatureExtractor": "beit.data.processor",
    "BeitForImageClassification": "beit.models.torch.beit",
    "BeitForMaskedImageModeling": "beit.models.torch.beit",
    "BeitForSemanticSegmentation": "beit.models.torch.segmentation",
    "BeitImageProcessor": "beit.data.processor",
    "BeitModel": "beit.models.torch.beit",
    "BeitPreTrainedModel": "beit.models.torch.beit",
    "BeitModelOutputWithPooling": "beit.models.outputs",
    "BackboneOutput": "beit.models.outputs",
    "BeitError": "beit.core.errors",
    "CheckpointError": "beit.core.errors",
    "ClassNumberError": "beit.core.errors",
    "ConfigError": "beit.core.errors",
    "DataError": "beit.core.errors",
    "FlaxBeitForImageClassification": "beit.models.flax.beit",
    "FlaxBeitForMaskedImageModeling": "beit.models.flax.beit",
    "FlaxBeitForSemanticSegmentation": "beit.models.flax.segmentation",
    "FlaxBeitModel": "beit.models.flax.beit",
    "FlaxBeitModelOutputWithPooling": "beit.models.outputs",
    "FlaxBeitPreTrainedModel": "beit.models.flax.beit",
    "ImageClassifierOutput": "beit.models.outputs",
    "InputError": "beit.core.errors",
    "MaskedLMOutput": "beit.models.outputs",
    "MismatchError": "beit.core.errors",
    "MissingExtraError": "beit.core.errors",
    "SaveConfigCallback": "beit.models.torch.trainer",
    "SemanticSegmenterOutput": "beit.models.outputs",
    "ShapeError": "beit.core.errors",
    "TrainingError": "beit.core.errors",
    "load": "beit.models.auto",
}

# Second names, under which transformers has the same thing.
_ALIASES = {
    "AutoImageProcessor": "BeitImageProcessor",
    "FlaxBeitModelOutputWithPooling": "BeitModelOutputWithPooling",
}

# Modules of version 0.1 that scripts may still import from here → where their content is.
_MOVED = {"weights": "beit.checkpoints.names"}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        for framework, room in (("torch", ".torch."), ("flax", ".flax.")):
            if room in _PUBLIC[name]:
                from beit.core.errors import require

                require(framework, framework, f"beit.{name}")
        value = getattr(importlib.import_module(_PUBLIC[name]), _ALIASES.get(name, name))
        globals()[name] = value
        return value
    if name in _MOVED:
        warnings.warn(f"beit.{name} is {_MOVED[name]} now.", DeprecationWarning, stacklevel=2)
        return importlib.import_module(_MOVED[name])
    raise AttributeError(f"module 'beit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from beit.config import BeitConfig as BeitConfig
    from beit.core.errors import BeitError as BeitError
    from beit.core.errors import CheckpointError as CheckpointError
    from beit.core.errors import ClassNumberError as ClassNumberError
    from beit.core.errors import ConfigError as ConfigError
    from beit.core.errors import DataError as DataError
    from beit.core.errors import InputError as InputError
    from beit.core.errors import MismatchError as MismatchError
    from beit.core.errors import MissingExtraError as MissingExtraError
    from beit.core.errors import ShapeError as ShapeError
    from beit.core.errors import TrainingError as TrainingError
    from beit.data.processor import BeitFeatureExtractor as BeitFeatureExtractor
    from beit.data.processor import BeitImageProcessor as BeitImageProcessor
    from beit.models.auto import load as load
    from beit.models.auto_classes import AutoBackbone as AutoBackbone
    from beit.models.auto_classes import AutoConfig as AutoConfig
    from beit.models.auto_classes import AutoModel as AutoModel
    from beit.models.auto_classes import AutoModelForImageClassification as AutoModelForImageClassification
    from beit.models.auto_classes import AutoModelForMaskedImageModeling as AutoModelForMaskedImageModeling
    from beit.models.auto_classes import AutoModelForSemanticSegmentation as AutoModelForSemanticSegmentation
    from beit.models.auto_classes import FlaxAutoModel as FlaxAutoModel
    from beit.models.auto_classes import FlaxAutoModelForImageClassification as FlaxAutoModelForImageClassification
    from beit.models.auto_classes import FlaxAutoModelForMaskedImageModeling as FlaxAutoModelForMaskedImageModeling
    from beit.models.auto_classes import FlaxAutoModelForSemanticSegmentation as FlaxAutoModelForSemanticSegmentation
    from beit.models.flax.beit import FlaxBeitForImageClassification as FlaxBeitForImageClassification
    from beit.models.flax.beit import FlaxBeitForMaskedImageModeling as FlaxBeitForMaskedImageModeling
    from beit.models.flax.beit import FlaxBeitModel as FlaxBeitModel
    from beit.models.flax.beit import FlaxBeitPreTrainedModel as FlaxBeitPreTrainedModel
    from beit.models.flax.segmentation import FlaxBeitForSemanticSegmentation as FlaxBeitForSemanticSegmentation
    from beit.models.outputs import BackboneOutput as BackboneOutput
    from beit.models.outputs import BeitModelOutputWithPooling as BeitModelOutputWithPooling
    from beit.models.outputs import ImageClassifierOutput as ImageClassifierOutput
    from beit.models.outputs import MaskedLMOutput as MaskedLMOutput
    from beit.models.outputs import SemanticSegmenterOutput as SemanticSegmenterOutput
    from beit.models.torch.beit import BeitForImageClassification as BeitForImageClassification
    from beit.models.torch.beit import BeitForMaskedImageModeling as BeitForMaskedImageModeling
    from beit.models.torch.beit import BeitModel as BeitModel
    from beit.models.torch.beit import BeitPreTrainedModel as BeitPreTrainedModel
    from beit.models.torch.segmentation import BeitBackbone as BeitBackbone
    from beit.models.torch.segmentation import BeitForSemanticSegmentation as BeitForSemanticSegmentation
    from beit.models.torch.trainer import SaveConfigCallback as SaveConfigCallback

    AutoImageProcessor = BeitImageProcessor
    FlaxBeitModelOutputWithPooling = BeitModelOutputWithPooling

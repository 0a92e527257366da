"""Settings of `beit probe` and `beit knn`. Importing this loads no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from beit.core.settings import Settings


@dataclass(kw_only=True)
class _FrozenFeatures(Settings):
    """What both commands share: a model whose features are measured, the images, and the k-NN classifier."""

    model: str
    """Folder or Hub id of any BEiT model: pre-trained, fine-tuned or a classifier."""
    images: Path
    """Folder of labelled training images, one subfolder per class."""
    validation: Path | None = None
    """Folder of labelled images to measure on. If not given, a fifth of each class of the training images is held out."""
    labels_per_class: int | None = None
    """Use only the first N training images of each class."""
    k: int = 20
    """Number of neighbours that vote."""
    temperature: float = 0.07
    """Temperature of the votes: a neighbour with cosine similarity s has the weight exp(s / temperature)."""
    batch_size: int = 64
    """Images per forward pass."""
    seed: int = 0
    """Random seed."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, mps, …; a GPU where there is one if not given."""
    output: Path | None = None
    """Folder for probe.json and probe.png."""


@dataclass(kw_only=True)
class Probe(_FrozenFeatures):
    """Measure frozen features: k-NN and a linear probe on every layer, with the authors' recipe."""

    epochs: int = 100
    """Epochs of the linear probe."""
    linear_batch_size: int = 1024
    """Images per step of the linear probe."""
    learning_rate: float | None = None
    """Initial learning rate of the linear probe. If not given, 4e-3 per 1,024 images of the batch."""
    standardise: bool = False
    """Scale features to mean 0 and deviation 1 first. The authors do not; with few images it gains several points."""
    views: int = 0
    """Random crops of each image to train the linear probe on, in turn, instead of the image. Each costs a forward pass."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest fraction of an image's area that a random crop covers."""
    save: Path | None = None
    """Folder for a classifier: the first layers, up to the best, with a logistic regression as head. It is a model like any other: beit
    predict, evaluate and embed take it."""


@dataclass(kw_only=True)
class Knn(_FrozenFeatures):
    """Measure frozen features without any training: classify images by their nearest neighbours, layer by layer."""

    layer: int | None = None
    """Layer to measure, from 1 to the last; all layers if not given."""

"""Settings of `beit probe` and `beit knn`. A field's text is its `--help`. Loads no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(kw_only=True)
class _Layers:
    """What `beit probe` and `beit knn` share."""

    model: str
    """Any BEiT model folder or Hub id: pre-trained, fine-tuned or a classifier."""
    images: Path
    """Folder with images to learn from, one subfolder a class."""
    validation: Path | None = None
    """Folder with images to measure on, in the same class subfolders. If not given, a fifth of each class is held out of
    the others."""
    labels_per_class: int | None = None
    """Learn from only the first so many images of each class."""
    k: int = 20
    """Number of neighbours that vote."""
    temperature: float = 0.07
    """A neighbour of cosine similarity s votes with weight exp(s / temperature)."""
    batch_size: int = 64
    """Images at a time."""
    seed: int = 0
    """Seed of everything random."""
    output: Path | None = None
    """Folder to write probe.json and probe.png into."""


@dataclass(kw_only=True)
class Probe(_Layers):
    """What features are worth without fine-tuning: k-NN and a linear probe of every layer, as the authors do it."""

    epochs: int = 100
    """How often the linear probe sees each image."""
    linear_batch_size: int = 1024
    """Images a step of the linear probe."""
    learning_rate: float | None = None
    """Learning rate of the linear probe at its beginning; 4e-3 at a batch of 1,024, in proportion, if not given."""
    standardise: bool = False
    """Bring features to mean 0 and deviation 1 first. Not the authors' way; with thousands of images instead of a million
    it gives several points more."""
    views: int = 0
    """Random crops of each image that the linear probe learns from, in turn, instead of the image itself; each costs one
    more pass through the network."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Part of an image's area that such a crop keeps."""


@dataclass(kw_only=True)
class Knn(_Layers):
    """What features are worth without any training: the classes of an image's nearest neighbours, layer by layer."""

    layer: int | None = None
    """Layer to look at, 1 to the last; all of them if not given."""

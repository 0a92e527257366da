"""Settings of the commands that do not train. Those of training runs are in `train/settings.py`. Loads no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(kw_only=True)
class Evaluate:
    """Measure a classifier on labelled images: top-1 and top-5."""

    model: str
    """Fine-tuned model folder or Hub id."""
    images: Path
    """Folder with one subfolder a class, named as the model's classes."""
    batch_size: int = 64
    """Images at a time."""
    output: Path | None = None
    """Folder to write evaluation.json into, with the confusion matrix."""


@dataclass(kw_only=True)
class Embed:
    """Write features of images to a .npy or .parquet file."""

    model: str
    """Any BEiT model folder or Hub id."""
    images: Path
    """Folder with images."""
    output: Path
    """File to write: features.npy (with features.txt, the paths) or features.parquet (paths and features)."""
    layer: int | None = None
    """Layer to take, 1 to the last; the pooled output if not given."""
    batch_size: int = 64
    """Images at a time."""


@dataclass(kw_only=True)
class EvaluateTokenizer:
    """Measure a tokenizer: codes in use, and the error of pictures decoded from tokens."""

    tokenizer: str
    """Tokenizer folder or Hub id."""
    images: Path
    """Folder with images."""
    image_size: int = 64
    """Side in pixels to which images are cropped and resized."""


@dataclass(kw_only=True)
class Predict:
    """Classify images."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    model: str
    """Fine-tuned model folder or Hub id."""
    top: int = 5
    """How many labels to show."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(kw_only=True)
class DemoSettings:
    """The whole idea on embedded images: tokenizer, pre-training, fine-tuning, the same from scratch, a report."""

    output: Path = Path("runs/demo")
    """Folder for models, logs and report.html; made anew."""
    smoke: bool = False
    """A few steps of everything, in under a minute: shows that it runs, not what it can do."""
    seed: int = 0
    """Seed of everything random."""

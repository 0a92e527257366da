"""Settings of the commands that do not train. Those of training runs are in `train/settings.py`. Loads no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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


@dataclass(kw_only=True)
class _Ways:
    """How segmentation brings images to the model."""

    model: str
    """Folder or Hub id of a model that was trained for segmentation."""
    mode: Literal["slide", "whole"] = "slide"
    """Windows of the model's size over the image, or the whole image resized to that size (faster, coarser)."""
    short_side: int | None = None
    """Shorter side in pixels to which images are resized before windows are cut; the model's size if not given."""
    scales: tuple[float, ...] = (1.0,)
    """Average over these scales of the image, such as 0.5 0.75 1 1.25 1.5 1.75."""
    flip: bool = False
    """Average with the mirrored image."""
    batch_size: int = 8
    """Windows at a time."""


@dataclass(kw_only=True)
class EvaluateSegmentation(_Ways):
    """Measure segmentation on images with label maps: mIoU, accuracies, and a report with the worst cases."""

    images: Path
    """Folder with images; or embedded:pasted_garments, the test part of the embedded task."""
    maps: Path | None = None
    """Folder with their label maps, named and arranged alike."""
    classes: Path | None = None
    """Text file with the names of the classes, one a line, where the model's own are only numbers."""
    ignore_index: int | None = None
    """Number in the label maps that means no label, if not the model's."""
    reduce_labels: bool = False
    """Maps count classes from 1 and 0 means no label; so it is anyway for a model that was trained so."""
    examples: int = 6
    """How many images from all over the set, and how many of the worst, to show in the report."""
    output: Path | None = None
    """Folder to write evaluation.json and report.html into."""


@dataclass(kw_only=True)
class PredictSegmentation(_Ways):
    """Segment images: label maps, overlays, and a legend of the colours."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    output: Path
    """Folder for maps/, overlays/ and legend.png."""


@dataclass(kw_only=True)
class SegmentDemo:
    """Segmentation on embedded images: a tiny model learns to find garments pasted on photographs, and a report."""

    output: Path = Path("runs/segment_demo")
    """Folder for the model, the log and report.html; made anew."""
    smoke: bool = False
    """A few steps, in seconds: shows that it runs, not what it can do."""
    seed: int = 0
    """Seed of everything random."""

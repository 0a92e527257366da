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
    framework: Literal["torch", "flax"] = "torch"
    """What computes: PyTorch, or JAX."""
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
    framework: Literal["torch", "flax"] = "torch"
    """What computes: PyTorch, or JAX."""
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
    framework: Literal["torch", "flax"] = "torch"
    """What pre-trains and fine-tunes: PyTorch, or JAX with the models in Flax. The tokenizer is PyTorch's in both cases."""
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


@dataclass(kw_only=True)
class Recipes:
    """The recipes: published runs of the paper, and small ones for one GPU or none."""

    name: tyro.conf.Positional[str | None] = None
    """Recipe to show; all of them in a table if not given."""
    print: bool = False
    """Show every setting, and which differ from the command's own."""
    json: bool = False
    """Print settings.json, as beit pretrain --settings FILE takes it."""
    command: bool = False
    """Print the command line that the recipe stands for, every flag spelled out."""
    part: str | None = None
    """Only this run of an experiment of several, such as pretrain; --json needs it then."""
    images: str | None = None
    """Where the images are."""
    output: str | None = None
    """Folder for the result."""
    tokenizer: str | None = None
    """Folder or Hub id of the tokenizer."""
    model: str | None = None
    """Folder or Hub id of the model to start from."""
    batch_size: int | None = None
    """Images a step, over all devices; the learning rate goes with it."""
    devices: int = 1
    """How many devices share a batch; with few of them it goes through the model in parts."""


@dataclass(kw_only=True)
class Plan:
    """Forecast time, memory and disk of a run: beit plan pretrain …, with the arguments that beit pretrain takes."""

    steps_measured: int = 5
    """Steps to measure, after those in which caches and queues fill."""
    measure: bool = True
    """Run these steps, in a temporary folder; --no-measure only counts parameters and operations."""
    images_per_second: float | None = None
    """Take this speed, of another machine for example, instead of the measured one."""
    devices: int = 1
    """Devices that will share a batch. One does its part here; sending gradients between them is not counted."""
    json: bool = False
    """Print JSON instead of text."""


@dataclass(kw_only=True)
class Models:
    """The published checkpoints, under names that every command takes for a model."""

    name: tyro.conf.Positional[str | None] = None
    """Checkpoint to show; all of them in a table if not given."""
    task: Literal["pretrained", "classify", "segment"] | None = None
    """Only those for this task."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(kw_only=True)
class _Unstated:
    """What weight files do not state, where the guess is wrong."""

    image_size: tuple[int, ...] | None = None
    """Side of the images in pixels, or height and width. Positions are resized where it is not the checkpoint's own."""
    num_attention_heads: int | None = None
    """Heads of each attention, where no relative-position table shows them."""
    layer_norm_eps: float | None = None
    """Epsilon of the layer norms."""
    pixels: Literal["half", "imagenet"] | None = None
    """Mean and deviation that pixels are normalised with: 0.5, or ImageNet's."""


@dataclass(kw_only=True)
class Inspect(_Unstated):
    """Say what a checkpoint is: whose, which class, its settings, what was guessed, what is missing or left over."""

    model: tyro.conf.Positional[str]
    """Folder, weight file, Hub id, URL, or a name that beit models lists."""
    tensors: bool = False
    """List every tensor too: name, type, shape."""
    json: bool = False
    """Print JSON instead of text."""


@dataclass(kw_only=True)
class Convert(_Unstated):
    """Write a checkpoint in another layout, and compare what both compute on photographs."""

    model: tyro.conf.Positional[str]
    """Folder, weight file, Hub id, URL, or a name that beit models lists."""
    output: tyro.conf.Positional[Path]
    """Folder to write (hf, timm, flax), or file (unilm, openmmlab)."""
    to: Literal["hf", "unilm", "timm", "flax", "openmmlab"]
    """Layout: transformers (and beit), the authors' code, timm, transformers' Flax, mmpretrain and mmsegmentation."""
    check: bool = True
    """Compute both on embedded photographs, and fail where they differ."""


@dataclass(kw_only=True)
class Resize(_Unstated):
    """Write a model folder for images of another size: positions bicubically, relative-position tables as the authors do it."""

    model: tyro.conf.Positional[str]
    """Folder, weight file, Hub id, URL, or a name that beit models lists."""
    output: tyro.conf.Positional[Path]
    """Folder to write."""

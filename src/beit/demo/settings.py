"""Settings of the two demonstrations. Importing this loads no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from beit.core.settings import Settings


@dataclass(kw_only=True)
class DemoSettings(Settings):
    """BEiT from beginning to end on embedded images: tokenizer, pre-training, fine-tuning, training from scratch, report."""

    output: Path = Path("runs/demo")
    """Folder for models, logs and report.html. An earlier demo in it is replaced."""
    smoke: bool = False
    """Run a few steps of everything, in under a minute: shows that it runs, not how good it is."""
    framework: Literal["torch", "flax"] = "torch"
    """Pre-train and fine-tune with PyTorch (torch) or JAX (flax). The tokenizer is trained with PyTorch in both cases."""
    seed: int = 0
    """Random seed."""


@dataclass(kw_only=True)
class SegmentDemo(Settings):
    """Segmentation on embedded images: a tiny model learns to find garments pasted on photographs, and a report."""

    output: Path = Path("runs/segment_demo")
    """Folder for the model, the log and report.html. An earlier demo in it is replaced."""
    smoke: bool = False
    """Run a few steps, in seconds: shows that it runs, not how good it is."""
    seed: int = 0
    """Random seed."""

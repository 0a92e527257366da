"""Settings of the two demonstrations. Importing this loads no framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


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
class SegmentDemo:
    """Segmentation on embedded images: a tiny model learns to find garments pasted on photographs, and a report."""

    output: Path = Path("runs/segment_demo")
    """Folder for the model, the log and report.html; made anew."""
    smoke: bool = False
    """A few steps, in seconds: shows that it runs, not what it can do."""
    seed: int = 0
    """Seed of everything random."""

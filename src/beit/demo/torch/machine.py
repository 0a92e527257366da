"""What PyTorch computes with."""

from __future__ import annotations

import torch

from beit.inference.torch.device import default_device
from beit.train.torch.engine import precision

VERSION = f"torch {torch.__version__}"


def arithmetic(choice: str) -> str:
    """Version and type of a run with this `precision`, such as `torch 2.9.0, bf16`."""
    return f"{VERSION}, {'bf16' if precision(choice, torch.device(default_device())) else 'fp32'}"

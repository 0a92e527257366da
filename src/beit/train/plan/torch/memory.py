"""Memory of a GPU, as PyTorch knows it."""

from __future__ import annotations

import torch


def reset_peak() -> None:
    """Forget the peak so far, where there is a GPU."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_and_total() -> tuple[int, int] | None:
    """(bytes of tensors at the peak, bytes of the GPU); None where there is no GPU."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory

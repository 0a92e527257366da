"""What inference refuses: outputs that are not numbers, and layers that do not exist."""

from __future__ import annotations

from collections.abc import Iterable

from beit.core.errors import CheckpointError, DataError


def require_finite(finite: bool) -> None:
    """Raise CheckpointError unless all outputs of a model are `finite`."""
    if not finite:
        raise CheckpointError("The model answers NaN or infinity: its weights are damaged, or its training went wrong.")


def check_layers(layers: Iterable[int], depth: int) -> None:
    """Raise DataError for a layer outside 1 … `depth`."""
    for layer in layers:
        if not 1 <= layer <= depth:
            raise DataError(f"There is no layer {layer}; choose one from 1 to {depth}.")

"""Low-rank updates of a model's matrices (LoRA, Hu et al. 2022, arXiv 2106.09685), by the peft library."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from beit.core.errors import require

_LAYERS = ("query", "key", "value", "dense")  # the matrices of attention and of the MLP
_HEADS = ("classifier", "pooler")


def add(model: nn.Module, rank: int, seed: int) -> None:
    """Freeze all but the head, and give each matrix of the layers an update B·A of this rank, which begins at 0.

    The update counts twice (α = 2 · rank, as is usual). The same seed gives the same A.

    Raises:
        MissingExtraError: peft is not installed.
    """
    peft = require("peft", "peft", "--lora")
    torch.manual_seed(seed)
    settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(_LAYERS), lora_dropout=0.0, bias="none")
    peft.inject_adapter_in_model(settings, model)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.requires_grad_(any(part in name for part in _HEADS))


def has(model: nn.Module) -> bool:
    """Whether `add` was called with the model."""
    return any(_is_layer(module) for module in model.modules())


def merge(model: nn.Module) -> None:
    """Add the updates to the weights, and put the plain layers back."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if _is_layer(child):
                layer: Any = child
                layer.merge(safe_merge=False)
                setattr(parent, name, layer.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def _is_layer(module: nn.Module) -> bool:
    return hasattr(module, "get_base_layer") and hasattr(module, "merge")

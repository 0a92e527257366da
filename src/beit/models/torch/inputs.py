"""What a PyTorch model is given: checked in the words of `models/validation.py`, and brought to the form the formulas want."""

from __future__ import annotations

import torch
from torch import Tensor

from beit.config import BeitConfig
from beit.core.errors import InputError
from beit.models import validation


def check_is_tensor(name: str, value: object) -> None:
    """Raises InputError unless `value` is a tensor; `name` is the argument's."""
    if not isinstance(value, Tensor):
        raise InputError(
            f"{name} is a {type(value).__name__}; wanted a torch.Tensor. From numpy: torch.from_numpy(...); from images: "
            'BeitImageProcessor(...)(images, return_tensors="pt").'
        )


def check_pixels(pixel_values: Tensor | None, config: BeitConfig) -> Tensor:
    """Images `(B, channels, H, W)` that a model of `config` takes. Raises InputError."""
    if pixel_values is not None:
        check_is_tensor("pixel_values", pixel_values)
    validation.check_pixels(None if pixel_values is None else pixel_values.shape, config)
    assert pixel_values is not None  # refused above
    return pixel_values


def check_mask(mask: Tensor | None, pixel_values: Tensor, config: BeitConfig) -> Tensor | None:
    """`(B, N)` or `(B, h, w)` → `(B, N)` bool on the images' device. Raises InputError."""
    if mask is None:
        return None
    check_is_tensor("bool_masked_pos", mask)
    validation.check_mask(mask.shape, pixel_values.shape, config)
    return mask.flatten(1).to(pixel_values.device).bool()


def expand_head_mask(head_mask: Tensor | None, x: Tensor, config: BeitConfig) -> Tensor | None:
    """`(heads,)` or `(L, heads)` → `(L, 1, heads, 1, 1)` of the type of `x`. Raises InputError."""
    if head_mask is None:
        return None
    check_is_tensor("head_mask", head_mask)
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if tuple(head_mask.shape) not in ((heads,), (layers, heads)):
        raise InputError(
            f"head_mask has shape {tuple(head_mask.shape)}; wanted ({heads},) for all layers or ({layers}, {heads})."
        )
    return head_mask.to(x).expand(layers, heads)[:, None, :, None, None]


def masked_tokens(labels: Tensor, mask: Tensor, masked: int, config: BeitConfig) -> Tensor:
    """Tokens `(M,)` or `(B, N)` → those of the `masked` patches, int64 `(M,)`. Raises InputError."""
    check_is_tensor("labels", labels)
    validation.check_masked_labels(labels.numel(), masked, mask.shape)
    if labels.numel() != masked:  # one per patch
        labels = labels.reshape(mask.shape)[mask.to(labels.device)]
    check_classes(labels, config.vocab_size, "vocab_size")
    return labels.reshape(-1).to(mask.device).long()


def check_classes(labels: Tensor, number: int, setting: str, ignore: int = -100) -> None:
    """Refuse class numbers outside [0, number), except `ignore`, which cross-entropy leaves out.

    On a CPU only. Elsewhere, looking at the labels would wait for the device, and its kernel refuses them anyway.

    Args:
        labels: class numbers, of any shape.
        number: how many classes there are.
        setting: the field of the config with that number, for the message.
        ignore: allowed as well.

    Raises:
        InputError: a class number is outside.
    """
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or labels.numel() == 0:
        return
    wrong = labels[((labels < 0) | (labels >= number)) & (labels != ignore)]
    if wrong.numel():
        raise validation.outside_classes(wrong.unique().tolist(), number, setting, ignore)

"""Attention of long sequences on a CPU by PyTorch's fused kernel, one head at a time.

The fused kernel keeps its scores in the cache, but it reads the relative-position bias from memory: at 1,601 tokens and 12
heads, 123 MB that take as long to build as the attention itself, or that 12 layers keep in 1.5 GB. Here a single buffer of
one head, 10 MB, is filled from the table again and again, once for all images of a batch. Measured on an Intel Xeon with
AMX, one thread, milliseconds per layer and image:

    tokens                                577    1,025    1,601
    fused, bias kept from before         17.2     49.5      137
    fused, bias built                    22.3     97.8      265
    plain formula, head by head          26.6     69.9      203
    here                                 25.3     63.7      171
    here, two images                     21.7     67.1      136
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_ALIGNED = 16  # rows of the bias begin at multiples of 16 numbers: 64 bytes, a line of the cache


def attend_fused(q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, windows: Tensor | None) -> Tensor:
    """softmax(q·kᵀ/√D + bias)·v.

    Args:
        q: `(B, heads, T, D)`, T = 1 + h·w, as are `k` and `v`.
        k: keys.
        v: values.
        table: `(rows, heads)`, the relative-position table as in `geometry.relative_position_index`, or None.
        windows: `(heads, h, w, h·w)`, the bias of each query patch in reverse order on all key patches, or None.

    Returns:
        `(B, T, heads·D)`.
    """
    batch, heads, tokens, width = q.shape
    if table is None or windows is None:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    q = q.flip(2)  # the order of the windows: patches from last to first, then cls
    y = q.new_empty(batch, tokens, heads, width)
    bias = q.new_empty(tokens, -(-tokens // _ALIGNED) * _ALIGNED)[:, :tokens]
    patches = bias[:-1, 1:].unflatten(0, windows.shape[1:3])
    for head in range(heads):
        cls_to_patch, patch_to_cls, cls_to_cls = table[-3:, head].tolist()
        patches.copy_(windows[head])
        bias[:-1, 0] = patch_to_cls
        bias[-1, 1:] = cls_to_patch
        bias[-1, 0] = cls_to_cls
        one = slice(head, head + 1)
        y[:, :, one] = F.scaled_dot_product_attention(q[:, one], k[:, one], v[:, one], attn_mask=bias).transpose(1, 2)
    return y.flip(1).flatten(2)

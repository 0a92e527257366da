"""Attention of long sequences on a CPU, one head after the other, without ever building the relative-position bias.

At 640 pixels there are 1,601 tokens: scores of 10 MB a head, 123 MB a layer, and as much again for the bias. Head by head
all of it stays in the processor's cache, the products take the faster way of `pytorch_linear.py`, and the bias is read from
its table: for patches it depends on the displacement alone,

    bias[(y, x), (y', x')] = table[y - y' + h-1, x - x' + w-1]

so that with the queries in reverse order every (y, x) sees a window of one small picture, which strides can say. Measured at 1,601 tokens and 12 heads: 32 ms a layer, against 48 for `scaled_dot_product_attention` and another 28 to
63 to build its bias. Softmax overwrites the scores; so there is no gradient here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from beit.models.torch.kernels.linear import convolves, product

_FEWEST_TOKENS = 500  # below, the fused kernel with a bias that is kept is as fast


def head_by_head(x: Tensor) -> bool:
    """Whether attention on `x (B, T, C)` should go head by head."""
    return convolves(x) and not torch.jit.is_tracing() and not torch.is_grad_enabled() and x.shape[1] >= _FEWEST_TOKENS


def attend(qkv: Tensor, table: Tensor | None, grid: tuple[int, int]) -> Tensor:
    """softmax(q·kᵀ/√D + bias)·v, by the plain formula, head by head.

    Args:
        qkv: `(B, T, 3, heads, D)` float32, T = 1 + h·w.
        table: `(rows, heads)`, the relative-position table as in `geometry.relative_position_index`, or None.
        grid: patches `(h, w)`.

    Returns:
        `(B, T, heads·D)`.
    """
    batch, tokens, _, heads, width = qkv.shape
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D)
    q = (q * (1 / math.sqrt(width))).flip(2)  # patches from last to first, then cls
    k, v = k.contiguous(), v.transpose(2, 3).contiguous()
    windows = None if table is None else _windows(table, grid)
    y = qkv.new_empty(batch, tokens, heads, width)
    for image in range(batch):
        for head in range(heads):
            scores = product(q[image, head], k[image, head])  # (T, T)
            if table is not None and windows is not None:  # both or none
                cls_to_patch, patch_to_cls, cls_to_cls = table[-3:, head].tolist()
                patches = scores[:-1, 1:].unflatten(0, grid)
                patches += windows[head]
                scores[:-1, 0] += patch_to_cls
                scores[-1, 1:] += cls_to_patch
                scores[-1, 0] += cls_to_cls
            torch.softmax(scores, -1, out=scores)
            y[image, :, head] = product(scores, v[image, head]).flip(0)
    return y.flatten(2)


def _windows(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """`(heads, h, w, h·w)`: the bias of each query patch (y, x), in reverse order, on all key patches.

    A view: only the windows along x are copied, w·(2h-1)·w numbers a head, so that each of these rows is whole in memory.
    """
    height, width = grid
    picture = table[:-3].t().unflatten(1, (2 * height - 1, 2 * width - 1)).flip(1, 2)
    along_x = picture.unfold(2, width, 1).transpose(1, 2).flatten(2)  # (heads, w, (2h-1)·w)
    return along_x.unfold(2, height * width, width).transpose(1, 2)

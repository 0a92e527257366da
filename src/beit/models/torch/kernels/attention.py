"""Attention without its weights, by the fastest kernel: softmax(q·kᵀ/√D + bias)·v as `attention` in `beit.py` has it.

PyTorch's fused `scaled_dot_product_attention` is the usual way. Long sequences on a CPU go head by head where `choice.py`
says that this is faster, by the formula (below) or by the fused kernel (`fused_heads.py`), and the relative-position bias is
never built:

At 640 pixels there are 1,601 tokens: scores of 10 MB per head, 123 MB per layer, and as much again for the bias. Head by
head, all of it stays in the processor's cache, the products take the faster way of `linear.py`, and the bias is read from
its table. For patches it depends on the displacement alone,

    bias[(y, x), (y', x')] = table[y - y' + h-1, x - x' + w-1]

so with the queries in reverse order every (y, x) sees a window of one small picture, which strides can express. Measured on
an AMD EPYC at 1,601 tokens and 12 heads: 32 ms per layer, against 48 ms for `scaled_dot_product_attention` and another 28 to
63 ms to build its bias. Softmax overwrites the scores, so there is no gradient here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from beit.models.torch.kernels.choice import chosen
from beit.models.torch.kernels.fused_heads import attend_fused
from beit.models.torch.kernels.linear import may_choose, product
from beit.models.torch.kernels.position_bias import PositionBias

_FEWEST_TOKENS = 500  # below, the fused kernel with a kept bias is as fast
_FEWEST_TOKENS_FUSED = 1000  # below, the biases that are kept take 0.6 GB at most


def head_by_head(x: Tensor) -> bool:
    """Whether attention on `x (B, T, C)` should go head by head."""
    if torch.is_grad_enabled() or not may_choose(x) or x.shape[1] < _FEWEST_TOKENS:
        return False
    way = chosen("attention", _trial)
    return way == "heads" or (way == "fused" and x.shape[1] >= _FEWEST_TOKENS_FUSED)


def plain_is_faster(q: Tensor, bias: PositionBias) -> bool:
    """On a CPU the fused kernel has no gradient for the bias; it falls back to one slower than the plain formula.

    A traced program is one program, with and without gradients: it has the fused kernel.
    """
    if torch.jit.is_tracing():
        return False
    return q.device.type == "cpu" and not bias.by_head and bias.total is not None and bias.total.requires_grad


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: PositionBias, dropout: float) -> Tensor:
    """Attention by a fused kernel.

    Args:
        q: `(B, heads, T, D)`, as are `k` and `v`.
        k: keys.
        v: values.
        bias: with `by_head`, attention goes head by head; then `dropout` must be 0.
        dropout: probability by which attention weights are dropped.

    Returns:
        `(B, T, heads·D)`.
    """
    if bias.by_head:
        return attend_head_by_head(q, k, v, bias.total, bias.grid)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.dense(q.dtype), dropout_p=dropout)
    return y.transpose(1, 2).flatten(2)


def attend_head_by_head(q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, grid: tuple[int, int]) -> Tensor:
    """Attention head by head: softmax(q·kᵀ/√D + bias)·v, by the plain formula or by the fused kernel.

    Args:
        q: `(B, heads, T, D)` float32, T = 1 + h·w, as are `k` and `v`.
        k: keys.
        v: values.
        table: `(rows, heads)`, the relative-position table as in `geometry.relative_position_index`, or None.
        grid: patches `(h, w)`.

    Returns:
        `(B, T, heads·D)`.
    """
    windows = None if table is None else _windows(table, grid)
    by_head = attend_fused if chosen("attention", _trial) == "fused" else _by_formula
    return by_head(q, k, v, table, windows)


def _by_formula(q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, windows: Tensor | None) -> Tensor:
    """The scores of one head at a time stand in memory; see `attend_head_by_head` and, for `windows`, `_windows`."""
    batch, heads, tokens, width = q.shape
    q = (q * (1 / math.sqrt(width))).flip(2)  # patches from last to first, then cls
    k, v = k.contiguous(), v.transpose(2, 3).contiguous()
    y = q.new_empty(batch, tokens, heads, width)
    for image in range(batch):
        for head in range(heads):
            scores = product(q[image, head], k[image, head])  # (T, T)
            if table is not None and windows is not None:  # both or none
                cls_to_patch, patch_to_cls, cls_to_cls = table[-3:, head].tolist()
                patches = scores[:-1, 1:].unflatten(0, windows.shape[1:3])
                patches += windows[head]
                scores[:-1, 0] += patch_to_cls
                scores[-1, 1:] += cls_to_patch
                scores[-1, 0] += cls_to_cls
            torch.softmax(scores, -1, out=scores)
            y[image, :, head] = product(scores, v[image, head]).flip(0)
    return y.flatten(2)


def _windows(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """`(heads, h, w, h·w)`: the bias of each query patch (y, x), in reverse order, on all key patches.

    A view. Only the windows along x are copied, w·(2h-1)·w numbers per head, so that each row of a window is contiguous.
    """
    height, width = grid
    picture = table[:-3].t().unflatten(1, (2 * height - 1, 2 * width - 1)).flip(1, 2)
    along_x = picture.unfold(2, width, 1).transpose(1, 2).flatten(2)  # (heads, w, (2h-1)·w)
    return along_x.unfold(2, height * width, width).transpose(1, 2)


def _trial() -> Mapping[str, Callable[[], object]]:
    """Attention of 4 heads on 1,025 tokens with a bias, by all ways."""
    grid = (32, 32)
    with torch.inference_mode(False):
        q, table, bias = torch.ones(1, 1025, 4, 64), torch.ones(63 * 63 + 3, 4), torch.ones(1, 4, 1025, 1025)
    q = q.transpose(1, 2)  # in memory as a linear layer returns it
    k, v = q.clone(), q.clone()
    return {
        "plain": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=bias.clone()),  # cheaper than building it
        "heads": lambda: _by_formula(q, k, v, table, _windows(table, grid)),
        "fused": lambda: attend_fused(q, k, v, table, _windows(table, grid)),
    }

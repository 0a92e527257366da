"""3x3 convolutions with four times fewer multiplications: Winograd's F(4x4, 3x3), on a CPU without gradients.

A tile of 4x4 outputs depends on 6x6 inputs. In one dimension, 4 outputs of a filter with 3 taps are the product of two
polynomials evaluated at 6 points: 6 multiplications instead of 12; in two dimensions 36 instead of 144. With d the tile's
inputs and g the filter,

    y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

and for many channels ⊙ becomes 36 matrix products, one a point. Lavin and Gray, Fast Algorithms for Convolutional Neural
Networks, 2015 (arXiv 1509.09308). The points 0, 1, -1, 1/2, -2, ∞ lose least by rounding (Barabasz et al., 2018, arXiv
1803.10986): against float64 the largest error of 768 channels is 2.4e-6 of the largest output, a direct convolution's 3e-7,
and 8e-6 with the usual points 0, 1, -1, 2, -2, ∞.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from beit.models.torch.kernels.choice import chosen
from beit.models.torch.kernels.linear import as_convolution, convolves, may_choose

_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)  # and infinity
_TILES_AT_ONCE = 256  # so that transforms stay in the processor's cache, and products have rows enough
_FEWEST_CHANNELS = 512  # below, the transforms cost what the products save
_FEWEST_TILES = 100


def _matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Aᵀ `(4, 6)`, G `(6, 3)`, Bᵀ `(6, 6)` by the Toom-Cook construction; the last point is infinity."""
    points = np.array(_POINTS)
    others = [np.delete(points, i) for i in range(len(points))]
    a, g, b = np.zeros((4, 6)), np.zeros((6, 3)), np.zeros((6, 6))
    a[:, :5] = points ** np.arange(4)[:, None]
    a[3, 5] = g[5, 2] = 1
    for i, rest in enumerate(others):
        g[i] = points[i] ** np.arange(3) / np.prod(points[i] - rest)
        b[i, :5] = np.poly(rest)[::-1]  # coefficients of Π (x - other point), lowest first
    b[5] = np.poly(points)[::-1]
    first, second, third = (torch.from_numpy(matrix).to(dtype) for matrix in (a, g, b))
    return first, second, third


def pays(x: Tensor, channels: int) -> bool:
    """Whether a convolution of `x (B, H, W, in)` to that number of channels is faster this way."""
    tiles = -(-x.shape[1] // 4) * -(-x.shape[2] // 4)
    large = min(x.shape[3], channels) >= _FEWEST_CHANNELS and tiles >= _FEWEST_TILES
    return large and may_choose(x) and chosen("winograd", _trial) == "on"


class WinogradConv3x3:
    """A 3x3 convolution that keeps the size: `(B, H, W, in)` → `(B, H, W, out)`.

    Args:
        weight: `(out, in, 3, 3)`.
        bias: `(out,)`.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        channels, inputs = weight.shape[:2]
        self.bias = bias
        a, g, b = _matrices(torch.float64)
        # A tile's two dimensions as one: 36 numbers in, 16 out.
        self.inputs, self.outputs = (torch.kron(m, m).to(weight.dtype) for m in (b, a))
        self.weight = weight.new_empty(36, channels, inputs)
        for begin in range(0, channels, 64):  # in parts: in float64 the whole would be 340 MB for 768 channels
            part = torch.einsum("ik,ockl,jl->ijoc", g, weight[begin : begin + 64].double(), g)
            self.weight[:, begin : begin + 64] = part.flatten(0, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """`(B, H, W, in)` → `(B, H, W, out)`, in the memory of `x` where it fits: `x` is lost."""
        batch, height, width, inputs = x.shape
        rows, columns = -(-height // 4), -(-width // 4)
        at_once = min(rows, max(_TILES_AT_ONCE // columns, 1))
        channels, most = len(self.bias), at_once * columns
        fits = (channels, 4 * rows, 4 * columns) == (inputs, height, width) and x.is_contiguous()
        y = x if fits else x.new_empty(batch, 4 * rows, 4 * columns, channels)
        above = x.new_zeros(width, inputs)  # the row above the next tiles, which may have been overwritten
        bordered = x.new_zeros(4 * at_once + 2, 4 * columns + 2, inputs)
        tiles, points = x.new_empty(36 * most * inputs), x.new_empty(36 * most * inputs)
        products, results = x.new_empty(36 * most * channels), x.new_empty(16 * most * channels)
        for image in range(batch):
            for begin in range(0, rows, at_once):
                count = min(at_once, rows - begin)
                size = count * columns
                _copy_with_border(x[image], 4 * begin, above if begin else None, bordered[: 4 * count + 2])
                above.copy_(x[image, min(4 * (begin + count), height) - 1])
                windows = bordered[: 4 * count + 2].unfold(0, 6, 4).unfold(1, 6, 4)  # (count, columns, in, 6, 6)
                tile = tiles[: 36 * size * inputs].view(6, 6, count, columns, inputs)
                tile.copy_(windows.permute(3, 4, 0, 1, 2))
                point = points[: 36 * size * inputs].view(36, -1)
                torch.mm(self.inputs, tile.view(36, -1), out=point)
                multiplied = products[: 36 * size * channels].view(36, size, channels)
                _multiply(point.view(36, size, inputs), self.weight, out=multiplied)
                result = results[: 16 * size * channels].view(16, -1)
                torch.mm(self.outputs, multiplied.view(36, -1), out=result)
                result = result.view(4, 4, count, columns, channels).add_(self.bias)
                place = y[image].view(rows, 4, columns, 4, channels)[begin : begin + count]
                place.permute(1, 3, 0, 2, 4).copy_(result)
        return y[:, :height, :width]


def _multiply(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """36 products: `x (36, rows, in)`, `weight (36, out, in)` → `out (36, rows, out)`."""
    if not convolves(x):
        torch.bmm(x, weight.transpose(1, 2), out=out)  # up to 1.3 times as fast as one by one
        return
    for k in range(36):
        out[k] = as_convolution(x[k], weight[k])


def _copy_with_border(x: Tensor, first: int, above: Tensor | None, out: Tensor) -> None:
    """The row `above` `(W, C)`, then rows `first`, first + 1, … of `x (H, W, C)`, into `out`, whose first column is a border.

    Zeros outside of `x`, and where `above` is None.
    """
    height, width, _ = x.shape
    count = min(len(out) - 1, height - first)
    out[0] = 0
    if above is not None:
        out[0, 1 : 1 + width] = above
    out[1 : 1 + count, 1 : 1 + width] = x[first : first + count]
    out[1 + count :] = 0


def _trial() -> Mapping[str, Callable[[], object]]:
    """A convolution of the smallest size worth it, by both ways."""
    with torch.inference_mode(False):
        x = torch.ones(1, 40, 40, _FEWEST_CHANNELS)
        weight, bias = torch.ones(_FEWEST_CHANNELS, _FEWEST_CHANNELS, 3, 3), torch.zeros(_FEWEST_CHANNELS)
        winograd, direct = WinogradConv3x3(weight, bias), weight.contiguous(memory_format=torch.channels_last)
    picture = x.permute(0, 3, 1, 2)
    return {"off": lambda: F.conv2d(picture, direct, bias, padding=1), "on": lambda: winograd(torch.ones_like(x))}

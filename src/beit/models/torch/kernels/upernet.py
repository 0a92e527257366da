"""Pyramid and UPerHead of `models/torch/segmentation.py` without gradients, on a CPU: less work for the same logits.

Here maps are `(B, h, w, C)`, as tokens are, and

1. each batch norm is folded into the convolution before it;
2. a transposed convolution of kernel and stride 2 is one matrix product; where a 1x1 convolution follows it, the two
   matrices are multiplied once and for all;
3. a 3x3 convolution over several maps, all but the first of them enlarged, is computed without enlarging them first.
   Convolution and bilinear enlarging are both linear: mixing the channels for each of the nine taps where the map is
   small, then enlarging, shifting and adding, is the same sum in another order, with 4, 16 and 64 times fewer
   multiplications. Enlarging and shifting with a border of zeros is one small matrix along each axis;
4. the wide 3x3 convolutions that remain go by `winograd.py`.

The largest layer of BEiT-B at 640 pixels, a 3x3 convolution from 3,072 to 768 channels, needs 1,087 GFLOP as written, 361
by the third step and 157 by the fourth. What is computed from weights is kept, and computed again when they have changed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit.models.torch.kernels import winograd
from beit.models.torch.kernels.linear import linear, untouched
from beit.models.torch.kernels.winograd import WinogradConv3x3

_MOST_AT_ONCE = 1 << 24  # numbers in the buffer of an enlarging convolution: 64 MiB
_PIXELS_AT_ONCE = 640  # of a transposed convolution: its output of 8 MB fits the cache
_BAND = 32  # rows of an enlarging matrix that are multiplied together: only a few of its columns are not zero there

# What pyramid and UPerHead are made of, besides the head's own classes.
_PARTS = (
    nn.AdaptiveAvgPool2d,
    nn.BatchNorm2d,
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.Dropout2d,
    nn.GELU,
    nn.ModuleList,
    nn.Sequential,
    nn.SyncBatchNorm,
)


class FoldedUperNet(nn.Module):
    """A model's pyramid and UPerHead with everything folded: built at the first call, and again when weights have changed.

    It has no parameters of its own. It is a module because modules hear when the model around them starts to train or moves
    to another type or device: then it lets go of what it keeps.

    Args:
        parts: the classes of which the head is made, besides PyTorch's.
    """

    def __init__(self, parts: tuple[type, ...]) -> None:
        super().__init__()
        self.parts = parts
        self.kept: tuple[list[Any], UperNet] | None = None  # one name, so that another thread sees both or none

    def applies(self, model: Any, tokens: Tensor) -> bool:
        """Whether this may stand in for the plain formulas of `model`.

        In evaluation, without gradients, on a CPU in float32 or float64, while pyramid and head are as they were built: no part
        is of another class, has a hook, is offloaded or is in training.
        """
        return (
            not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and not torch.is_autocast_enabled("cpu")
            and tokens.device.type == "cpu"
            and tokens.dtype in (torch.float32, torch.float64)
            and len(tokens) > 0
            and type(model.decode_head.classifier) is nn.Conv2d
            and model.decode_head.classifier.bias is not None
            and all(
                type(part) in (*_PARTS, *self.parts)
                and untouched(part, type(part))
                and not part.training
                and getattr(part, "weight", 0) is not None
                and getattr(part, "running_var", 0) is not None
                for group in (model.fpn1, model.fpn2, model.decode_head)
                for part in group.modules()
            )
        )

    def forward(self, model: Any, tokens: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """Outputs of four layers `(B, 1+N, C)` → logits `(B, num_labels, 4h, 4w)`."""
        kept, found = self.kept, _fingerprint(model)
        if kept is None or kept[0] != found:
            kept = self.kept = None  # before the new one is built: there may be memory for one only
            with torch.inference_mode(False), torch.no_grad():
                kept = self.kept = found, UperNet(model)
        return kept[1](tokens, grid)

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.kept = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.kept = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": None}  # copies and pickles build their own


def _fingerprint(model: Any) -> list[Any]:
    """Numbers that differ when weights differ: small tensors as they are, of large ones a random combination of each row.

    The versions of tensors do not do: fused optimisers and writes through `.data` leave them as they are.
    """
    found: list[Any] = []
    for group in (model.fpn1, model.fpn2, model.decode_head):
        for part in group.modules():
            found.append(getattr(part, "eps", None))
            for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                rows = tensor.detach()
                if rows.ndim > 1:
                    rows = rows.flatten(1)
                    rows = rows @ _random_numbers(rows.shape[1], rows.dtype)
                found += [tensor.data_ptr(), tensor.dtype, rows.tolist()]
    return found


@lru_cache(maxsize=16)
def _random_numbers(count: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.rand(count, dtype=dtype, generator=torch.Generator().manual_seed(0)) + 0.5


# --- weights ---------------------------------------------------------------------------------------------------------


def _folded(
    conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.Module, inputs: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """(weight, bias) of a convolution with the batch norm after it; output channels first in the weight."""
    transposed = isinstance(conv, nn.ConvTranspose2d)
    scale, shift = _scale_and_shift(norm)
    weight = (conv.weight.transpose(0, 1) if transposed else conv.weight)[:, inputs] * scale.view(-1, 1, 1, 1)
    bias = shift if conv.bias is None else shift + scale * conv.bias
    return weight, bias


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class Dense:
    """A 1x1 convolution as a matrix: `(B, h, w, in)` → `(B, h, w, out)`."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight.flatten(1).contiguous(), bias

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Doubling:
    """A transposed convolution of kernel and stride 2: `(B, h, w, in)` → `(B, 2h, 2w, out)`."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """`weight (out, in, 2, 2)`."""
        self.weight = weight.permute(2, 3, 0, 1).flatten(0, 2).contiguous()  # (dy, dx, out) rows
        self.bias = bias.repeat(4)

    @classmethod
    def then(cls, conv: nn.ConvTranspose2d, dense: Dense) -> Doubling:
        """The transposed convolution with a 1x1 convolution after it, as one."""
        assert conv.bias is not None
        weight = torch.einsum("ok,ikyx->oiyx", dense.weight, conv.weight)
        return cls(weight, dense.weight @ conv.bias + dense.bias)

    def __call__(self, x: Tensor, activation: Any) -> Tensor:
        """A few rows at a time, so that they stay in the cache until their pixels are in place."""
        batch, height, width, _ = x.shape
        y = x.new_empty(batch, height, 2, width, 2, len(self.bias) // 4)
        rows = max(_PIXELS_AT_ONCE // (batch * width), 1)
        for begin in range(0, height, rows):
            part = x[:, begin : begin + rows]
            pixels = activation(linear(part, self.weight, self.bias)).view(*part.shape[:3], 2, 2, -1)
            y[:, begin : begin + rows] = pixels.transpose(2, 3)
        return y.view(batch, 2 * height, 2 * width, -1)


class Conv3x3:
    """A 3x3 convolution that keeps the size, direct or by Winograd: `(B, h, w, in)` → `(B, h, w, out)`.

    Weights are folded at the first call, for the way that is taken. Winograd's are four times as large as the others.

    Args:
        module: the convolution with its batch norm.
        inputs: the input channels that it has here.
    """

    def __init__(self, module: Any, inputs: slice = slice(None)) -> None:
        self.module, self.inputs = module, inputs
        self.direct: tuple[Tensor, Tensor] | None = None
        self.winograd: WinogradConv3x3 | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """`x` may be overwritten."""
        if winograd.pays(x, self.module.conv.out_channels):
            if self.winograd is None:
                self.winograd = WinogradConv3x3(*_folded(self.module.conv, self.module.bn, self.inputs))
            return self.winograd(x)
        if self.direct is None:
            weight, bias = _folded(self.module.conv, self.module.bn, self.inputs)
            self.direct = weight.contiguous(memory_format=torch.channels_last), bias
        weight, bias = self.direct
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1).permute(0, 2, 3, 1)


class EnlargingConv3x3:
    """A 3x3 convolution over maps side by side, all but the first enlarged to the size of the first.

    For a map x and the matrices U (along y) and V (along x) of enlarging and shifting, its part of the sum is

        Σ over (dy, dx) of U[dy] · (taps[dy, dx] · x) · V[dx]ᵀ

    Args:
        module: the convolution with its batch norm.
        maps: how many maps, with the same number of channels each.
    """

    def __init__(self, module: Any, maps: int) -> None:
        width = module.conv.in_channels // maps
        self.first = Conv3x3(module, slice(0, width))
        weight, _ = _folded(module.conv, module.bn, slice(width, None))
        self.taps = [part.permute(2, 3, 0, 1).contiguous() for part in weight.split(width, dim=1)]  # (dy, dx, out, in)

    def __call__(self, maps: list[Tensor]) -> Tensor:
        """Maps `(B, h_i, w_i, in)`, the first `(B, H, W, in)`, which may be overwritten → `(B, H, W, out)`."""
        y = self.first(maps[0]).contiguous()  # with the bias; the other maps are added to it
        batch, height, width, channels = y.shape
        down = _down(tuple(x.shape[1] for x in maps[1:]), height, y.dtype)
        rows = 3 * sum(x.shape[1] for x in maps[1:])
        # Channels at once: as many as fit the buffer, in steps that vector units like.
        at_once = min(channels, max(_MOST_AT_ONCE // (rows * width) // 64 * 64, 64))
        buffer = y.new_empty(rows * width * at_once)
        for image in range(batch):
            for begin in range(0, channels, at_once):
                part = slice(begin, min(begin + at_once, channels))
                wide = buffer[: rows * width * (part.stop - begin)].view(rows, -1)
                self._enlarge_rows([x[image] for x in maps[1:]], part, wide.view(rows, width, -1))
                for there, here, matrix in down:
                    y[image, there, :, part] += (matrix @ wide[here]).view(len(matrix), width, -1)
        return y

    def _enlarge_rows(self, maps: list[Tensor], part: slice, out: Tensor) -> None:
        """Mix channels and enlarge along x: for each dy and each map, `out` gets the rows `(h_i, W, channels)`."""
        row = 0
        for dy in range(3):
            for x, taps in zip(maps, self.taps, strict=True):
                height, width, channels = x.shape
                weight = taps[dy, :, part].reshape(-1, channels)  # (dx, out) rows
                mixed = linear(x, weight, None).view(height, 3 * width, -1)  # (h, w·dx, out)
                for there, here, matrix in _across(width, out.shape[1], x.dtype):
                    out[row : row + height, there] = torch.matmul(matrix, mixed[:, here])
                row += height


Band = tuple[slice, Any, Tensor]  # rows, the columns that are not zero there, the numbers


def _shifted(have: int, want: int, dtype: torch.dtype) -> Tensor:
    """`(3, want, have)`: bilinear enlarging along one axis as a matrix, shifted by -1, 0 and 1, with zeros outside."""
    lines = torch.eye(have, dtype=dtype)[:, None]  # each unit vector as a line of one channel
    matrix = F.interpolate(lines, size=want, mode="linear", align_corners=False)[:, 0].t()
    padded = F.pad(matrix, (0, 0, 1, 1))
    return torch.stack([padded[shift : shift + want] for shift in range(3)])


@lru_cache(maxsize=64)
def _across(have: int, want: int, dtype: torch.dtype) -> list[Band]:
    """Enlarging along x: columns are (x, dx), and those of a band are contiguous."""
    with torch.inference_mode(False):
        matrix = _shifted(have, want, dtype).permute(1, 2, 0).flatten(1)
        return [
            (rows, slice(int(here[0]), int(here[-1]) + 1), band) for rows, here, band in _bands(matrix, contiguous=True)
        ]


@lru_cache(maxsize=64)
def _down(have: tuple[int, ...], want: int, dtype: torch.dtype) -> list[Band]:
    """Enlarging along y for several maps and adding up: columns are (dy, map, y)."""
    with torch.inference_mode(False):
        matrix = torch.cat([_shifted(height, want, dtype) for height in have], dim=2).transpose(0, 1).flatten(1)
        return _bands(matrix, contiguous=False)


def _bands(matrix: Tensor, contiguous: bool) -> list[Band]:
    """A sparse matrix in bands of rows, each without the columns that are zero there.

    With `contiguous`, zero columns between others are kept.
    """
    bands: list[Band] = []
    for begin in range(0, len(matrix), _BAND):
        rows = slice(begin, min(begin + _BAND, len(matrix)))
        used = matrix[rows].ne(0).any(0).nonzero()[:, 0]
        here = torch.arange(int(used[0]), int(used[-1]) + 1) if contiguous else used
        bands.append((rows, here, matrix[rows][:, here].contiguous()))
    return bands


# --- pyramid and head ------------------------------------------------------------------------------------------------


class UperNet:
    """Pyramid and UPerHead with folded weights; see the head of this file."""

    def __init__(self, model: Any) -> None:
        head = model.decode_head
        fine, middle, coarse = (Dense(*_folded(lateral.conv, lateral.bn)) for lateral in head.lateral_convs)
        self.first = Doubling(*_folded(model.fpn1[0], model.fpn1[1]))
        self.fine = Doubling.then(model.fpn1[3], fine)
        self.middle = Doubling.then(model.fpn2[0], middle)
        self.coarse = coarse
        self.pools = [(pool, Dense(*_folded(module.conv, module.bn))) for pool, module in head.psp_modules]
        self.top = EnlargingConv3x3(head.bottleneck, 1 + len(self.pools))
        self.outputs = [Conv3x3(module) for module in head.fpn_convs]
        self.fuse = EnlargingConv3x3(head.fpn_bottleneck, 4)
        self.classifier = Dense(head.classifier.weight.detach(), head.classifier.bias.detach())

    def __call__(self, tokens: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """Outputs of four layers `(B, 1+N, C)` → logits `(B, num_labels, 4h, 4w)`."""
        a, b, c, d = (x[:, 1:].unflatten(1, grid) for x in tokens)
        coarsest = F.max_pool2d(d.permute(0, 3, 1, 2), 2)  # channels first, in the same memory
        pooled = [torch.relu_(dense(_last(pool(coarsest)))) for pool, dense in self.pools]
        top = torch.relu_(self.top([_last(coarsest), *pooled]))
        laterals = [
            self.fine(self.first(a, F.gelu), torch.relu_),
            self.middle(b, torch.relu_),
            torch.relu_(self.coarse(c)),
        ]
        above = top
        for lateral in reversed(laterals):  # from coarse to fine
            lateral += _last(
                F.interpolate(above.permute(0, 3, 1, 2), size=lateral.shape[1:3], mode="bilinear", align_corners=False)
            )
            above = lateral
        for i, conv in enumerate(self.outputs):  # one after the other: the first is large
            laterals[i] = torch.relu_(conv(laterals[i]))
        x = torch.relu_(self.fuse([*laterals, top]))
        return self.classifier(x).permute(0, 3, 1, 2).contiguous()


def _last(x: Tensor) -> Tensor:
    """`(B, C, h, w)` → `(B, h, w, C)`."""
    return x.permute(0, 2, 3, 1)

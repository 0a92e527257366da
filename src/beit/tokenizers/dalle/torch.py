"""The discrete VAE of DALL-E, BEiT's first tokenizer, of any size: encodes, decodes and trains.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", section 2.1 and appendix A; sizes and names as in OpenAI's
published model (github.com/openai/DALL-E, MIT). BEiT uses only the encoder: a token is the argmax of the logits.

    image (B, 3, H, W) → encoder → logits (B, V, h, w) → codes → decoder → mean and log-scale (B, 2·3, H, W)
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit.core.errors import ConfigError
from beit.tokenizers.dalle.config import (
    PIXEL_EPS,
    check_grid,
    check_images,
    check_range,
    check_tokens,
    map_pixels,
    read_folder,
    read_openai,
    unmap_pixels,
    write_folder,
)
from beit.tokenizers.dalle.config import DalleConfig as DalleConfig


class Block(nn.Module):
    """x + gain · path(x), where path = 4 × (ReLU, convolution) with a quarter of the channels inside, and gain = 1 / blocks²."""

    def __init__(self, n_in: int, n_out: int, kernels: tuple[int, ...], gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.id_path = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        widths = [n_in, *[n_out // 4] * 3, n_out]
        path: OrderedDict[str, nn.Module] = OrderedDict()
        for i, kernel in enumerate(kernels, start=1):
            path[f"relu_{i}"] = nn.ReLU()
            path[f"conv_{i}"] = nn.Conv2d(widths[i - 1], widths[i], kernel, padding=kernel // 2)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)


class _Stack(nn.Module):
    """Input convolution, groups of blocks with `resample` between groups, output convolution."""

    resample: Callable[[Tensor], Tensor]

    def __init__(
        self, first: nn.Conv2d, c: DalleConfig, widths: list[int], kernels: tuple[int, ...], n_out: int
    ) -> None:
        super().__init__()
        gain = 1 / (c.groups * c.blocks_per_group) ** 2
        parts: OrderedDict[str, nn.Module] = OrderedDict(input=first)
        for i, (before, width) in enumerate(zip([first.out_channels, *widths], widths, strict=False), start=1):
            group: OrderedDict[str, nn.Module] = OrderedDict()
            for j in range(1, c.blocks_per_group + 1):
                group[f"block_{j}"] = Block(before if j == 1 else width, width, kernels, gain)
            parts[f"group_{i}"] = nn.Sequential(group)
        parts["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=nn.Conv2d(widths[-1], n_out, 1)))
        self.blocks = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.after_input(self.blocks[0](x))

    def after_input(self, x: Tensor) -> Tensor:
        _, *groups, output = self.blocks
        for i, group in enumerate(groups):
            x = group(self.resample(x) if i else x)
        return output(x)


class DalleEncoder(_Stack):
    """Mapped images (B, channels, H, W) → logits (B, vocab_size, h, w)."""

    resample = staticmethod(partial(F.max_pool2d, kernel_size=2))

    def __init__(self, c: DalleConfig) -> None:
        super().__init__(nn.Conv2d(c.channels, c.n_hid, 7, padding=3), c, c.widths, (3, 3, 3, 1), c.vocab_size)


class DalleDecoder(_Stack):
    """Codes (B, vocab_size, h, w), one-hot or relaxed → (B, 2·channels, H, W), means and log-scales of logits."""

    resample = staticmethod(partial(F.interpolate, scale_factor=2, mode="nearest"))

    def __init__(self, c: DalleConfig) -> None:
        super().__init__(nn.Conv2d(c.vocab_size, c.n_init, 1), c, c.widths[::-1], (1, 3, 3, 3), 2 * c.channels)

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """`forward` of one-hot codes, from tokens (B, h, w): the 1×1 convolution of a one-hot code is a row of its weight."""
        weight, bias = self.blocks.get_parameter("input.weight"), self.blocks.get_parameter("input.bias")
        x = F.embedding(tokens, weight[:, :, 0, 0].t()) + bias
        return self.after_input(x.permute(0, 3, 1, 2))


@dataclass(frozen=True)
class DalleLoss:
    """What training minimises: the weighted sum of three terms.

    The usage term keeps small codebooks from collapsing, better than the paper's KL of each position. Measured on 28-pixel
    images, 256 codes, 600 steps: with position weight 0.01, 125 codes stay in use (perplexity 65); with usage weight 0.1, 250
    (perplexity 196), at the same reconstruction error.
    """

    reconstruction: Literal["mse", "logit_laplace"] = "mse"
    """Squared error as a fraction of the batch's variance (1 is no better than a single colour), or the paper's negative
    log-likelihood, in nats per value."""
    reconstruction_weight: float = 1.0
    usage_weight: float = 0.1
    """KL from the batch's mean code distribution to the uniform one, in nats: high when few codes encode the whole batch."""
    position_weight: float = 0.0
    """KL from each position's code distribution to the uniform one, in nats (the paper's β): high when the encoder is certain."""
    straight_through: bool = False
    """Give the decoder one-hot codes, with the gradient of the relaxed ones."""


@dataclass
class DalleOutput:
    """The result of a training step: scalars, of which only `loss` is weighted, and what they were computed from."""

    loss: Tensor
    reconstruction_loss: Tensor
    usage_kl: Tensor  # 0 (codes equally used) … log(vocab_size) (one code)
    position_kl: Tensor  # 0 (uniform posteriors) … log(vocab_size) (certain ones)
    logits: Tensor  # (B, vocab_size, h, w)
    reconstruction: Tensor  # (B, channels, H, W) in [0, 1], no gradient


class DalleTokenizer(nn.Module):
    """The dVAE: `tokens` and `decode` (see `beit.tokenizers.Tokenizer`), and `forward` to train it.

    Images are float tensors (B, channels, H, W) in [0, 1], H and W multiples of `config.factor`; the mapping to
    [0.1, 0.9] happens inside. New weights are drawn like OpenAI's: normal with std = fan_in^-½, biases 0. Only the first
    layer differs: it centres the pixels. After 400 steps on 28-pixel images with 128 codes, this gives an error of 0.126 and
    a perplexity of 109, instead of 0.159 and 83.
    """

    def __init__(self, config: DalleConfig | None = None) -> None:
        super().__init__()
        self.config = config or DalleConfig()
        self.encoder = DalleEncoder(self.config)
        self.decoder = DalleDecoder(self.config)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                nn.init.zeros_(module.bias)
        with torch.no_grad():  # conv(mapped pixels) becomes conv(2x - 1), except at the border
            weight = self.encoder.blocks.get_parameter("input.weight").div_(0.5 - PIXEL_EPS)
            self.encoder.blocks.get_parameter("input.bias").copy_(-0.5 * weight.sum(dim=(1, 2, 3)))
        self.to(
            memory_format=torch.channels_last
        )  # measured on a CPU: 1.5 times the tokens per second; training as fast

    @property
    def vocab_size(self) -> int:
        """Number of codes."""
        return self.config.vocab_size

    def grid(self, image_size: int | tuple[int, int]) -> tuple[int, int]:
        """Token grid (h, w) of `image_size` pixels, a side or (H, W). InputError where `factor` does not divide it."""
        return self.config.grid(image_size)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of the codes (B, vocab_size, h, w). Raises InputError for images of another type, shape, size or range."""
        check_images(self.config, images.shape, images.dtype, images.is_floating_point())
        if images.numel():
            check_range(*(float(x) for x in torch.aminmax(images)))
        dtype = next(self.parameters()).dtype
        return self.encoder(map_pixels(images).to(dtype=dtype, memory_format=torch.channels_last))

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """Tokens (B, h·w) int64, row by row: the most likely code at each position. Raises InputError like `logits`."""
        return self.logits(images).argmax(dim=1).flatten(1)

    @torch.no_grad()
    def decode(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Images (B, channels, H, W) in [0, 1] from tokens (B, h·w) or (B, h, w).

        Args:
            tokens: integers in 0 … vocab_size - 1.
            grid: (h, w) of flat tokens; a square unless given.

        Raises:
            InputError: tokens are out of range, or their number does not fit the grid.
        """
        h, w = check_grid(tokens.shape, grid)
        least_and_greatest = (int(tokens.min()), int(tokens.max())) if tokens.numel() else ()
        check_tokens(self.config, not tokens.is_floating_point(), *least_and_greatest)
        mean = self.decoder.from_tokens(tokens.reshape(-1, h, w).long())[:, : self.config.channels]
        return unmap_pixels(torch.sigmoid(mean.float()))

    def forward(self, images: Tensor, temperature: float = 1.0, loss: DalleLoss | None = None) -> DalleOutput:
        """One training step: Gumbel-softmax codes, reconstruction and the terms of `loss`.

        Args:
            images: (B, channels, H, W) in [0, 1].
            temperature: of the relaxation, above 0; the paper lowers it from 1 to 1/16.
            loss: the weights of the terms.
        """
        loss = loss or DalleLoss()
        logits = self.logits(images).float()
        codes = F.gumbel_softmax(logits, tau=temperature, hard=loss.straight_through, dim=1)
        mean, log_scale = self.decoder(codes).float().chunk(2, dim=1)
        target = map_pixels(images).float()
        if loss.reconstruction == "mse":
            reconstruction = F.mse_loss(torch.sigmoid(mean), target) / target.var().clamp(min=1e-4)
        elif loss.reconstruction == "logit_laplace":
            # The paper's equation 2: the Laplace density of logit(x), times its Jacobian 1 / (x (1 - x)).
            distance = (torch.logit(target) - mean).abs() * torch.exp(-log_scale)
            reconstruction = (math.log(2) + log_scale + torch.log(target * (1 - target)) + distance).mean()
        else:
            raise ConfigError(f"Got reconstruction={loss.reconstruction!r}; wanted 'mse' or 'logit_laplace'.")
        log_p = logits.log_softmax(dim=1)
        p = log_p.exp()
        usage = p.mean(dim=(0, 2, 3))
        most = math.log(self.vocab_size)
        usage_kl = most + torch.xlogy(usage, usage.clamp(min=1e-12)).sum()
        position_kl = most + (p * log_p).sum(dim=1).mean()
        total = loss.reconstruction_weight * reconstruction
        total = total + loss.usage_weight * usage_kl + loss.position_weight * position_kl
        picture = unmap_pixels(torch.sigmoid(mean.detach()))
        return DalleOutput(total, reconstruction, usage_kl, position_kl, logits, picture)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors (float32, the names of `state_dict`) to `folder`."""
        tensors = {name: tensor.detach().cpu().float().numpy() for name, tensor in self.state_dict().items()}
        write_folder(folder, self.config, tensors)

    @classmethod
    def from_pretrained(cls, id_or_folder: str | os.PathLike[str], **where: Any) -> DalleTokenizer:
        """Load what `save_pretrained` wrote, from a folder or a Hub id, in evaluation mode.

        Raises:
            CheckpointError: a file is missing or damaged, or weights and config.json do not agree.
        """
        return _assemble(*read_folder(id_or_folder, **where))

    @classmethod
    def from_openai(cls, encoder_pkl: str | os.PathLike[str], decoder_pkl: str | os.PathLike[str]) -> DalleTokenizer:
        """Load OpenAI's two pickles without running code from them (see `openai_pickle`), in evaluation mode.

        Sizes follow from the tensors. After `save_pretrained` the pickles are no longer needed.

        Raises:
            CheckpointError: a file is missing, damaged, unsafe, or not this architecture; or the two do not fit.
        """
        return _assemble(*read_openai(encoder_pkl, decoder_pkl))


def _assemble(config: DalleConfig, tensors: Mapping[str, np.ndarray]) -> DalleTokenizer:
    """A tokenizer with these tensors, in evaluation mode."""
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced below
        model = DalleTokenizer(config)
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, assign=True)
    return model.to(memory_format=torch.channels_last).eval()

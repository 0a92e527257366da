"""The discrete VAE of DALL-E in JAX: images → tokens → images. torch.py trains it; the folders are the same.

The two networks are functions of a table of parameters with the names of model.safetensors, which are those of the torch module
too. Inside, channels come last: kernels are (k, k, in, out).

    image (B, 3, H, W) → encoder → logits (B, h, w, V) → tokens (B, h·w) → decoder → image (B, 3, H, W)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from beit.tokenizers.dalle.config import (
    DalleConfig,
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

Params = Mapping[str, Any]


def _convolution(params: Params, name: str, x: Array) -> Array:
    """(B, H, W, in) → (B, H, W, out)."""
    kernel = params[f"{name}.weight"]
    x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return x + params[f"{name}.bias"]


def _block(params: Params, name: str, x: Array, gain: float) -> Array:
    """x + gain · path(x), path = 4 × (ReLU, convolution)."""
    path = x
    for i in (1, 2, 3, 4):
        path = _convolution(params, f"{name}.res_path.conv_{i}", jax.nn.relu(path))
    if f"{name}.id_path.weight" in params:  # the width changes
        x = _convolution(params, f"{name}.id_path", x)
    return x + gain * path


def _groups(params: Params, c: DalleConfig, part: str, x: Array, resample: Callable[[Array], Array]) -> Array:
    """Groups of blocks with `resample` between groups, then the output convolution."""
    gain = 1 / (c.groups * c.blocks_per_group) ** 2
    for i in range(1, c.groups + 1):
        x = resample(x) if i > 1 else x
        for j in range(1, c.blocks_per_group + 1):
            x = _block(params, f"{part}.group_{i}.block_{j}", x, gain)
    return _convolution(params, f"{part}.output.conv", jax.nn.relu(x))


def _halve(x: Array) -> Array:
    """The greatest of each 2×2 pixels."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


def _double(x: Array) -> Array:
    """Each pixel becomes 2×2."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def encode(params: Params, c: DalleConfig, images: Array) -> Array:
    """Images (B, channels, H, W) in [0, 1] → code logits (B, h, w, vocab_size), both in the parameters' dtype."""
    x = map_pixels(images).transpose(0, 2, 3, 1).astype(params["encoder.blocks.input.weight"].dtype)
    return _groups(params, c, "encoder.blocks", _convolution(params, "encoder.blocks.input", x), _halve)


def decode(params: Params, c: DalleConfig, tokens: Array) -> Array:
    """Tokens (B, h, w) → images (B, channels, H, W) float32 in [0, 1]."""
    # The 1×1 convolution of a one-hot code is a row of its kernel.
    x = params["decoder.blocks.input.weight"][0, 0][tokens] + params["decoder.blocks.input.bias"]
    mean = _groups(params, c, "decoder.blocks", x, _double)[
        ..., : c.channels
    ]  # the other channels are log-scales, for training
    return unmap_pixels(jax.nn.sigmoid(mean.astype(jnp.float32))).transpose(0, 3, 1, 2)


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclass(frozen=True, eq=False)
class FlaxDalleTokenizer:
    """The twin of `DalleTokenizer`, without training: `tokens` and `decode` (see `beit.tokenizers.Tokenizer`).

    Images are float arrays (B, channels, H, W) in [0, 1], H and W multiples of `config.factor`; numpy or jax. Each
    shape is compiled once. A tokenizer is a pytree: pass it to a jitted step as an argument. A step that only refers to it
    has its weights compiled in as constants. Under jit the values are unknown, so only types, shapes and sizes are checked.

    On a GPU or TPU, `jax.default_matmul_precision("highest")` gives the tokens of full float32; JAX's default is faster,
    and a few tokens differ where two codes are about equally likely.

    Attributes:
        config: sizes.
        params: name in model.safetensors → array; kernels as (k, k, in, out).
    """

    config: DalleConfig
    params: dict[str, Any]

    @property
    def vocab_size(self) -> int:
        """Number of codes."""
        return self.config.vocab_size

    def grid(self, image_size: int | tuple[int, int]) -> tuple[int, int]:
        """Token grid (h, w) of `image_size` pixels, a side or (H, W). InputError where `factor` does not divide it."""
        return self.config.grid(image_size)

    def tokens(self, images: Any) -> Array:
        """Tokens (B, h·w) int32, row by row: the most likely code at each position.

        Raises:
            InputError: images of another type, shape, size or range.
        """
        images = images if isinstance(images, Array) else np.asarray(images)
        check_images(self.config, images.shape, images.dtype, jnp.issubdtype(images.dtype, jnp.floating))
        if not isinstance(images, jax.core.Tracer) and images.size:
            check_range(float(images.min()), float(images.max()))
        return _tokens(self, images)

    def decode(self, tokens: Any, grid: tuple[int, int] | None = None) -> Array:
        """Images (B, channels, H, W) float32 in [0, 1] from tokens (B, h·w) or (B, h, w).

        Args:
            tokens: integers in 0 … vocab_size - 1.
            grid: (h, w) of flat tokens; a square unless given.

        Raises:
            InputError: tokens are out of range, or their number does not fit the grid.
        """
        tokens = tokens if isinstance(tokens, Array) else np.asarray(tokens)
        h, w = check_grid(tokens.shape, grid)
        look = not isinstance(tokens, jax.core.Tracer) and tokens.size
        least_and_greatest = (int(tokens.min()), int(tokens.max())) if look else ()
        check_tokens(self.config, jnp.issubdtype(tokens.dtype, jnp.integer), *least_and_greatest)
        return _decode(self, tokens.reshape(-1, h, w))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors (float32) to `folder`, as `DalleTokenizer` does."""
        arrays = {name: np.asarray(array, np.float32) for name, array in self.params.items()}
        turned = {name: a.transpose(3, 2, 0, 1) if a.ndim == 4 else a for name, a in arrays.items()}
        write_folder(folder, self.config, {name: np.ascontiguousarray(turned[name]) for name in self.config.shapes()})

    @classmethod
    def from_pretrained(cls, id_or_folder: str | os.PathLike[str], **where: Any) -> FlaxDalleTokenizer:
        """Load what `save_pretrained` of this class or of `DalleTokenizer` wrote, from a folder or a Hub id.

        Raises:
            CheckpointError: a file is missing or damaged, or weights and config.json do not agree.
        """
        return _assemble(*read_folder(id_or_folder, **where))

    @classmethod
    def from_openai(
        cls, encoder_pkl: str | os.PathLike[str], decoder_pkl: str | os.PathLike[str]
    ) -> FlaxDalleTokenizer:
        """Load OpenAI's two pickles without running code from them (see `openai_pickle`).

        Raises:
            CheckpointError: a file is missing, damaged, unsafe, or not this architecture; or the two do not fit.
        """
        return _assemble(*read_openai(encoder_pkl, decoder_pkl))


@jax.jit
def _tokens(tokenizer: FlaxDalleTokenizer, images: Array) -> Array:
    logits = encode(tokenizer.params, tokenizer.config, images)
    return logits.argmax(-1).reshape(len(images), -1).astype(jnp.int32)


@jax.jit
def _decode(tokenizer: FlaxDalleTokenizer, tokens: Array) -> Array:
    return decode(tokenizer.params, tokenizer.config, tokens)


def _assemble(config: DalleConfig, tensors: Mapping[str, np.ndarray]) -> FlaxDalleTokenizer:
    """A tokenizer with these tensors, whose kernels are transposed from (out, in, k, k) to (k, k, in, out)."""
    turned = {name: a.transpose(2, 3, 1, 0) if a.ndim == 4 else a for name, a in tensors.items()}
    return FlaxDalleTokenizer(config, {name: jnp.asarray(a) for name, a in turned.items()})

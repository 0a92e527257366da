"""What the DALL-E dVAE is in every framework: its sizes, its files and checks of its inputs. Loads neither torch nor jax.

The networks are in torch.py, which also trains, and flax.py.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beit.checkpoints import hub
from beit.checkpoints.read_weights import read_tensors
from beit.checkpoints.write_weights import write_tensors
from beit.core.errors import CheckpointError, ConfigError, InputError
from beit.core.files import read_json, write_json
from beit.tokenizers.dalle.openai_pickle import read_module_tensors

PIXEL_EPS = 0.1  # keeps pixels away from 0 and 1, where the logit in the reconstruction loss is infinite


@dataclass(frozen=True)
class DalleConfig:
    """What the weights are. The defaults are OpenAI's published model (tokens of 8x8 pixels, 8,192 codes, 98 M parameters)."""

    groups: int = 4
    """Groups of blocks. Between groups the resolution is halved, so the side of a token is 2^(groups - 1) pixels."""
    blocks_per_group: int = 2
    """Residual blocks in a group."""
    n_hid: int = 256
    """Channels of the group at full resolution, a multiple of 4. Each following group has twice as many."""
    n_init: int = 128
    """Width of a code's embedding, the decoder's first layer."""
    vocab_size: int = 8192
    """Number of codes."""
    channels: int = 3
    """Channels of the images: 3, or 1 for greyscale."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            most = 16 if name in ("groups", "blocks_per_group") else 1 << 20
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise ConfigError(f"Got {name}={value!r}; wanted an integer from 1 to {most}.")
        if self.n_hid % 4:
            raise ConfigError(f"Got n_hid={self.n_hid}; wanted a multiple of 4.")

    @property
    def factor(self) -> int:
        """Side of a token in pixels."""
        return 2 ** (self.groups - 1)

    @property
    def widths(self) -> list[int]:
        """Channels of the groups, from full resolution down."""
        return [self.n_hid * 2**i for i in range(self.groups)]

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"model_type": "dalle_dvae", **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DalleConfig:
        """The inverse of `to_dict`. Raises ConfigError for another model type or an unknown field."""
        given = dict(values)
        if (kind := given.pop("model_type", None)) != "dalle_dvae":
            raise ConfigError(
                f"Got model_type {kind!r}; wanted 'dalle_dvae'. Is this the folder of a DALL-E tokenizer?"
            )
        if unknown := given.keys() - {field.name for field in dataclasses.fields(cls)}:
            raise ConfigError(f"Got unknown fields {sorted(unknown)}; a later version of beit wrote the folder.")
        return cls(**given)

    def grid(self, image_size: int | tuple[int, int]) -> tuple[int, int]:
        """Token grid (h, w) of `image_size` pixels, a side or (H, W). InputError where `factor` does not divide it."""
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        factor = self.factor
        if height % factor or width % factor or height < 1 or width < 1:
            good = tuple(max(1, round(n / factor)) * factor for n in (height, width))
            raise InputError(
                f"Got images of {height}×{width} pixels; this tokenizer wants multiples of {factor}. "
                f"Resize or crop them, to {good[0]}×{good[1]} for instance."
            )
        return height // factor, width // factor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors of model.safetensors, which are those of the torch module."""
        found: dict[str, tuple[int, ...]] = {}

        def convolution(name: str, n_in: int, n_out: int, kernel: int) -> None:
            found[f"{name}.weight"] = (n_out, n_in, kernel, kernel)
            found[f"{name}.bias"] = (n_out,)

        for part, first, widths, kernels, n_out in (
            ("encoder.blocks", (self.channels, self.n_hid, 7), self.widths, (3, 3, 3, 1), self.vocab_size),
            ("decoder.blocks", (self.vocab_size, self.n_init, 1), self.widths[::-1], (1, 3, 3, 3), 2 * self.channels),
        ):
            convolution(f"{part}.input", *first)
            before = first[1]
            for i, width in enumerate(widths, start=1):
                for j in range(1, self.blocks_per_group + 1):
                    block = f"{part}.group_{i}.block_{j}"
                    if before != width:
                        convolution(f"{block}.id_path", before, width, 1)
                    inner = [before, *[width // 4] * 3, width]
                    for k, kernel in enumerate(kernels):
                        convolution(f"{block}.res_path.conv_{k + 1}", inner[k], inner[k + 1], kernel)
                    before = width
            convolution(f"{part}.output.conv", before, n_out, 1)
        return found


# --- pixels and tokens ---------------------------------------------------------------------------------------------


def map_pixels(images: Any) -> Any:
    """[0, 1] → [0.1, 0.9], the range of the encoder and the loss; a tensor or array of any framework."""
    return (1 - 2 * PIXEL_EPS) * images + PIXEL_EPS


def unmap_pixels(images: Any) -> Any:
    """The inverse of `map_pixels`, clipped to [0, 1]."""
    return ((images - PIXEL_EPS) / (1 - 2 * PIXEL_EPS)).clip(0, 1)


def check_images(config: DalleConfig, shape: tuple[int, ...], dtype: Any, floating: bool) -> None:
    """Raises InputError for images of another type, shape or size."""
    if len(shape) != 4 or shape[1] != config.channels or not floating:
        raise InputError(
            f"Got images of shape {tuple(shape)}, {dtype}; wanted floats of shape (B, {config.channels}, H, W) in "
            "[0, 1]. From uint8: divide by 255, channels second."
        )
    config.grid((shape[2], shape[3]))


def check_range(low: float, high: float) -> None:
    """Raises InputError when the least or greatest pixel is not in [0, 1]."""
    # Normalised images would give tokens that look valid and mean nothing. Written so that NaN fails, too.
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise InputError(
            f"Got pixels from {low:.3g} to {high:.3g}; wanted [0, 1]. Give the images as they are before "
            "normalisation; the tokenizer maps the pixels itself."
        )


def check_grid(shape: tuple[int, ...], grid: tuple[int, int] | None) -> tuple[int, int]:
    """The grid (h, w) of tokens of shape (B, h·w) or (B, h, w), a square unless given. Raises InputError where none fits."""
    if len(shape) == 3 and grid is None:
        grid = (shape[1], shape[2])
    n = math.prod(shape[1:]) if len(shape) in (2, 3) else -1
    h, w = grid or (math.isqrt(max(n, 0)),) * 2
    if h * w != n or n < 1:
        raise InputError(
            f"Got tokens of shape {tuple(shape)} for a grid of {h}×{w}; wanted (B, h·w). "
            "Give grid=(h, w) where it is not square."
        )
    return h, w


def check_tokens(config: DalleConfig, integers: bool, low: int = 0, high: int = 0) -> None:
    """Raises InputError for tokens that are not integers, or whose least or greatest is not a code."""
    if not integers or not 0 <= low <= high < config.vocab_size:
        raise InputError(
            f"Got tokens that are not integers from 0 to {config.vocab_size - 1}. Are they of another tokenizer?"
        )


# --- files ---------------------------------------------------------------------------------------------------------


def write_folder(folder: str | os.PathLike[str], config: DalleConfig, tensors: Mapping[str, np.ndarray]) -> None:
    """Write config.json and model.safetensors: tensors with the names and shapes of `DalleConfig.shapes`."""
    write_tensors(Path(folder) / "model.safetensors", dict(tensors))
    write_json(Path(folder) / "config.json", config.to_dict())


def read_folder(id_or_folder: str | os.PathLike[str], **where: Any) -> tuple[DalleConfig, dict[str, np.ndarray]]:
    """Read what `write_folder` wrote, from a folder or a Hub id.

    Raises:
        CheckpointError: a file is missing or damaged, or weights and config.json do not agree.
    """
    path = hub.resolve_file(id_or_folder, "config.json", **where)
    values = read_json(path)
    try:
        config = DalleConfig.from_dict(values if isinstance(values, dict) else {})
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    tensors = read_tensors(hub.resolve_file(id_or_folder, "model.safetensors", **where))
    return config, _fitting(config, tensors, str(id_or_folder))


def read_openai(
    encoder_pkl: str | os.PathLike[str], decoder_pkl: str | os.PathLike[str]
) -> tuple[DalleConfig, dict[str, np.ndarray]]:
    """Read OpenAI's two pickles without running code from them (see `openai_pickle`). Sizes follow from the tensors.

    Raises:
        CheckpointError: a file is missing, damaged, unsafe, or not this architecture; or the two do not fit.
    """
    parts = {"encoder": read_module_tensors(Path(encoder_pkl)), "decoder": read_module_tensors(Path(decoder_pkl))}
    source = f"{encoder_pkl} and {decoder_pkl}"
    # This is the whole translation of names: OpenAI's `blocks.input.w` is our `encoder.blocks.input.weight`, `.b` is `.bias`.
    tensors = {
        f"{part}.{re.sub(r'[.]w$', '.weight', re.sub(r'[.]b$', '.bias', name))}": tensor
        for part, found in parts.items()
        for name, tensor in found.items()
    }
    config = _infer_config(tensors, source)
    return config, _fitting(config, tensors, source)


def _infer_config(tensors: Mapping[str, np.ndarray], source: str) -> DalleConfig:
    """Sizes, from names and shapes. `_fitting` then checks every tensor against them."""
    blocks = [name.split(".")[2] for name in tensors if re.fullmatch(r"encoder\..*\.res_path\.conv_1\.weight", name)]
    groups = len(set(blocks))
    try:
        n_hid, channels, kernel, _ = tensors["encoder.blocks.input.weight"].shape
        n_init, vocab_size, decoder_kernel, _ = tensors["decoder.blocks.input.weight"].shape
        if (kernel, decoder_kernel) == (1, 7):
            raise CheckpointError(f"{source}: encoder and decoder are swapped. Give the encoder's file first.")
        return DalleConfig(groups, len(blocks) // max(groups, 1), n_hid, n_init, vocab_size, channels)
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"{source}: wanted the two halves of DALL-E's dVAE. {error}") from error


def _fitting(config: DalleConfig, tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Float32 copies of the tensors of `config`. Raises CheckpointError when some are missing, left over or of other shapes."""
    wanted = config.shapes()
    wrong = [f"{name} missing" for name in wanted if name not in tensors]
    wrong += [f"{name} left over" for name in tensors if name not in wanted]
    both = [(name, tensors[name].shape, shape) for name, shape in wanted.items() if name in tensors]
    wrong += [f"{name} is {got}, wanted {shape}" for name, got, shape in both if got != shape]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise CheckpointError(f"{source}: the tensors do not fit {config}: {'; '.join(wrong[:4])}{more}.")
    return {name: np.array(tensors[name], dtype=np.float32) for name in wanted}

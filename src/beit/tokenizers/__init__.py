"""Tokenizers: images → visual tokens and back. `from beit.tokenizers import load_tokenizer`.

All tokenizers take images in [0, 1]; each does its own preprocessing. Importing this package loads neither torch nor jax.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from beit.core.errors import CheckpointError, ConfigError, InputError, require

if TYPE_CHECKING:
    from beit.tokenizers.dalle.config import DalleConfig as DalleConfig
    from beit.tokenizers.dalle.flax import FlaxDalleTokenizer as FlaxDalleTokenizer
    from beit.tokenizers.dalle.openai_pickle import read_module_tensors as read_module_tensors
    from beit.tokenizers.dalle.torch import DalleLoss as DalleLoss
    from beit.tokenizers.dalle.torch import DalleOutput as DalleOutput
    from beit.tokenizers.dalle.torch import DalleTokenizer as DalleTokenizer

_LAZY = {
    "DalleConfig": "beit.tokenizers.dalle.config",
    "DalleLoss": "beit.tokenizers.dalle.torch",
    "DalleOutput": "beit.tokenizers.dalle.torch",
    "DalleTokenizer": "beit.tokenizers.dalle.torch",
    "FlaxDalleTokenizer": "beit.tokenizers.dalle.flax",
    "read_module_tensors": "beit.tokenizers.dalle.openai_pickle",
}
_FRAMEWORKS = {"torch": "torch", "flax": "jax"}  # framework, and the extra of that name → the package that it needs

__all__ = ["CodebookUsage", "Tokenizer", "codebook_usage", "load_tokenizer", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


@runtime_checkable
class Tokenizer(Protocol):
    """What pre-training needs of a tokenizer. Images are float tensors or arrays (B, 3, H, W) in [0, 1]."""

    @property
    def vocab_size(self) -> int:
        """Number of codes; tokens are 0 … vocab_size - 1."""
        ...

    def grid(self, image_size: int | tuple[int, int]) -> tuple[int, int]:
        """The token grid (h, w) of an image of `image_size` pixels (one side of a square, or (H, W))."""
        ...

    def tokens(self, images: Any) -> Any:
        """Tokens (B, h·w) of images, row by row; int64 in torch, int32 in jax."""
        ...

    def decode(self, tokens: Any, grid: tuple[int, int] | None = None) -> Any:
        """Images (B, 3, H, W) in [0, 1] from tokens (B, h·w) of a `grid` (h, w), which is a square unless given."""
        ...

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors to `folder`."""
        ...


def load_tokenizer(
    id_or_folder: str | os.PathLike[str], framework: Literal["torch", "flax"] = "torch", **where: Any
) -> Any:
    """Load any tokenizer: a saved folder, a Hub id, or a folder with OpenAI's `encoder.pkl` and `decoder.pkl`.

    Args:
        id_or_folder: what to load. config.json names the class; a folder without one must hold the two pickles.
        framework: "torch" takes and gives tensors, "flax" jax arrays; the files are the same.
        where: `revision`, `token`, `cache_dir`, `local_files_only`, … as for `beit.checkpoints.hub.resolve_file`.

    Returns:
        The tokenizer (see `Tokenizer`): in evaluation mode on the CPU, or on jax's default device.

    Raises:
        CheckpointError: there is no such tokenizer, or it is damaged, unsafe or of an unknown kind.
        ConfigError: no such framework.
        MissingExtraError: the framework is not installed.
    """
    from beit.checkpoints import hub
    from beit.core.files import read_json

    if framework not in _FRAMEWORKS:
        raise ConfigError(f"Got framework={framework!r}; wanted one of {', '.join(_FRAMEWORKS)}.")
    require(_FRAMEWORKS[framework], framework, "tokenizers")
    folder = Path(id_or_folder)
    if (folder / "encoder.pkl").is_file() and not (folder / "config.json").is_file():
        return _dalle(framework).from_openai(folder / "encoder.pkl", folder / "decoder.pkl")
    config = read_json(hub.resolve_file(id_or_folder, "config.json", **where))
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in _MODEL_TYPES:
        raise CheckpointError(
            f"{id_or_folder} has model_type {kind!r} in config.json; wanted a tokenizer: {', '.join(_MODEL_TYPES)}."
        )
    return _MODEL_TYPES[kind](framework).from_pretrained(id_or_folder, **where)


def _dalle(framework: str) -> type[DalleTokenizer] | type[FlaxDalleTokenizer]:
    if framework == "flax":
        from beit.tokenizers.dalle.flax import FlaxDalleTokenizer

        return FlaxDalleTokenizer
    from beit.tokenizers.dalle.torch import DalleTokenizer

    return DalleTokenizer


# model_type in config.json → the class, by the framework. Only the class that is asked for is imported.
_MODEL_TYPES: dict[str, Callable[[str], type[Any]]] = {"dalle_dvae": _dalle}


@dataclass(frozen=True)
class CodebookUsage:
    """How much of a codebook is in use. In a healthy one, the perplexity is at least a third of the vocabulary."""

    codes_used: int
    """Codes that occur at least once."""
    fraction: float
    """codes_used / vocab_size, in 0 … 1."""
    perplexity: float
    """exp(entropy) of the token frequencies: how many equally frequent codes would say as much; 1 … vocab_size."""


def codebook_usage(tokens: Any, vocab_size: int) -> CodebookUsage:
    """How many codes occur in `tokens`, and how evenly. A small perplexity means that the codebook has collapsed.

    Args:
        tokens: integer array or tensor of any shape, at least one element, values in 0 … vocab_size - 1. Take several
            thousand, because fewer tokens than codes cannot use all codes.
        vocab_size: number of codes.

    Raises:
        InputError: no tokens, not integers, or out of range.
    """
    array = np.asarray(tokens.detach().cpu() if hasattr(tokens, "detach") else tokens)
    if array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"Got tokens of shape {array.shape} and type {array.dtype}; wanted one or more integers.")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"Got tokens from {low} to {high}; wanted 0 to {vocab_size - 1}. Give the vocab_size of their tokenizer."
        )
    counts = np.bincount(array.ravel(), minlength=vocab_size)
    share = counts[counts > 0] / array.size
    return CodebookUsage(
        codes_used=len(share),
        fraction=len(share) / vocab_size,
        perplexity=float(np.exp(-(share * np.log(share)).sum())),
    )

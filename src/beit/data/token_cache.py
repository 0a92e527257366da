"""Visual tokens that were computed once, for K crops of each image, and are read in pre-training. Numpy only.

    cache.json            what the tokens were computed from: images, crops, tokenizer
    tokens-00000.npy      (images of this shard, K, N) uint16 or uint32, memory-mapped when read
    keys-00000.npy        (images of this shard,) int64, the `SampleSeed.key` of each image, row by row

DALL-E's encoder costs more than the forward pass of the model that learns from it (52 against 35 GFLOP for BEiT-B). With a
cache this is paid once per crop instead of once per step.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from beit.core.errors import CheckpointError, ConfigError, DataError, InputError
from beit.core.files import atomic_path, read_json
from beit.data.sources.images import Images
from beit.data.sources.stream import Stream

CACHE_FILE = "cache.json"
# The settings of a run from which, with the seed, its crops follow. `CropSettings` has the same names.
CROP_SETTINGS = ("crop_scale", "jitter", "flip")


class CropSettings(Protocol):
    """The settings of a run that must agree with a cache; see `beit.train.settings.PretrainSettings`."""

    @property
    def crop_scale(self) -> tuple[float, float]:
        """Fraction of an image's area that a crop keeps."""

    @property
    def jitter(self) -> float:
        """Amount of colour jitter."""

    @property
    def flip(self) -> float:
        """Probability of a horizontal flip."""

    @property
    def crops(self) -> int | None:
        """Number of crops per image; None for new ones in each pass."""


class TokenCache:
    """A folder that `beit tokenize` wrote.

    Args:
        folder: holds cache.json and the shards.

    Attributes:
        crops: K, the number of crops per image.
        seed: from which the crops follow.
        vocab_size: number of different tokens.
        grid: rows and columns of a crop's tokens; N is their product.
        view_size: (height, width) in pixels of what the tokenizer saw.

    Raises:
        DataError: there is no such folder, or it is unfinished or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / CACHE_FILE).is_file():
            raise DataError(f"{self.folder} is no token cache, or an unfinished one. Write it with beit tokenize.")
        try:
            about = read_json(self.folder / CACHE_FILE)
            self.about: dict[str, Any] = about
            self.crops, self.seed, self.vocab_size = int(about["crops"]), int(about["seed"]), int(about["vocab_size"])
            self.grid = (int(about["grid"][0]), int(about["grid"][1]))
            self.view_size = (int(about["view_size"][0]), int(about["view_size"][1]))
            keys = [np.load(self.folder / f"keys-{n:05}.npy", allow_pickle=False) for n in range(about["shards"])]
            self.rows = [len(part) for part in keys]
            shape = (self.crops, self.grid[0] * self.grid[1])
            for number, rows in enumerate(self.rows):
                found = self._open(number).shape
                if found != (rows, *shape):
                    raise DataError(f"{self.path(number)} holds tokens {found}; wanted {(rows, *shape)}.")
        except (CheckpointError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{self.folder} is damaged ({error}). Write it anew with beit tokenize.") from error
        every = np.concatenate(keys)
        self.order = np.argsort(every, kind="stable")
        self.keys = every[self.order]
        self.starts = np.cumsum([0, *self.rows])
        self._shards: dict[int, np.ndarray] = {}

    def path(self, shard: int) -> Path:
        """The file of a shard's tokens."""
        return self.folder / f"tokens-{shard:05}.npy"

    def _open(self, shard: int) -> np.ndarray:
        return np.load(self.path(shard), mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self.keys)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}  # each process maps the files itself

    def tokens(self, key: int, crop: int) -> np.ndarray:
        """The tokens `(N,)` int64 of one crop.

        Args:
            key: the image's `SampleSeed.key`.
            crop: 0 … `crops` - 1.

        Raises:
            InputError: the image is not in the cache.
        """
        found = int(np.searchsorted(self.keys, key))  # 8 bytes per image and a binary search, instead of a dict of ints
        if found == len(self.keys) or self.keys[found] != key:
            raise InputError(f"An image (key {key}) has no tokens in {self.folder}. Write it anew with beit tokenize.")
        row = int(self.order[found])
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        if shard not in self._shards:
            self._shards[shard] = self._open(shard)
        return self._shards[shard][row - self.starts[shard], crop].astype(np.int64)

    def check_grid(self, grid: tuple[int, int]) -> None:
        """Raise ConfigError if a model's patch grid differs from that of the tokens."""
        if grid != self.grid:
            raise ConfigError(
                f"{self.folder} has {self.grid[0]}x{self.grid[1]} tokens per image; the model has {grid[0]}x{grid[1]} patches. "
                "Write a cache for this model: beit tokenize --model …"
            )

    def check(self, settings: CropSettings, images: Images | Stream, tokenizer: Any | None) -> None:
        """Check that a run would compute the same tokens itself.

        Args:
            settings: of the run.
            images: of the run.
            tokenizer: of the run; None if it names none, and takes the cache's word.

        Raises:
            ConfigError: crops, images or tokenizer are others; the message says which.
        """
        wrong = [
            f"{name}: {self.about[name]} in the cache, {now} now"
            for name in CROP_SETTINGS
            if not _same(self.about[name], now := getattr(settings, name))
        ]
        if settings.crops is not None and settings.crops != self.crops:
            wrong.append(f"crops: {self.crops} in the cache, {settings.crops} now")
        if self.about["images"] != images.fingerprint():
            wrong.append("the images, or their order, differ")
        if tokenizer is not None and tokenizer_fingerprint(tokenizer) != self.about["tokenizer"]:
            wrong.append("the tokenizer differs")
        if wrong:
            raise ConfigError("\n  ".join([f"The tokens in {self.folder} do not fit this run:", *wrong]))


def _same(a: Any, b: Any) -> bool:
    return (list(a) if isinstance(a, (list, tuple)) else a) == (list(b) if isinstance(b, (list, tuple)) else b)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash that is the same for tokenizers with the same weights. `tokenizer` is a torch module."""
    digest = hashlib.sha1(usedforsecurity=False)
    for name, tensor in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).tobytes())
    return digest.hexdigest()


def finished_shards(folder: Path) -> set[int]:
    """Numbers of the shards that are complete: the keys of a shard are written after its tokens."""
    names = [re.fullmatch(r"keys-(\d+)\.npy", path.name) for path in folder.glob("keys-*.npy")]
    return {int(name.group(1)) for name in names if name}


def write_shard(folder: Path, number: int, keys: np.ndarray, tokens: np.ndarray, vocab_size: int) -> None:
    """Write a shard.

    Args:
        folder: of the cache.
        number: of the shard.
        keys: `(n,)`, one per image.
        tokens: `(n, K, N)`.
        vocab_size: number of different tokens, which decides the dtype on disk.

    Raises:
        CheckpointError: it cannot be written.
    """
    kind = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    for name, array in (("tokens", tokens.astype(kind)), ("keys", keys.astype(np.int64))):
        with atomic_path(folder / f"{name}-{number:05}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, array)

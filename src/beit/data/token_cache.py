"""Visual tokens computed once and read in pre-training: K crops an image, as shards of .npy files. Numpy only.

    cache.json            what the tokens are of: images, crops, tokenizer
    tokens-00000.npy      (images of this shard, K, N) uint16 or uint32, memory-mapped when read
    keys-00000.npy        (images of this shard,) int64, the `SampleSeed.key` of each image; rows are in the order of the keys

DALL-E's encoder costs more than the forward pass of the model that it teaches (52 against 35 GFLOP for BEiT-B), so for K
crops that come again this saves more than half of a step.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from beit.core.errors import CheckpointError, ConfigError, DataError, InputError
from beit.core.files import atomic_path, read_json
from beit.data.sources.images import Images
from beit.data.sources.stream import Stream

CACHE_FILE = "cache.json"
# The settings of a run that decide which crops there are.
CROP_SETTINGS = ("crop_scale", "jitter", "flip")


class TokenCache:
    """A folder that `beit tokenize` wrote.

    Args:
        folder: with cache.json and shards.

    Raises:
        DataError: no such folder, an unfinished one, or a damaged one.
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
        """Tokens `(N,)` int64 of a crop.

        Args:
            key: the image's `SampleSeed.key`.
            crop: 0 … `crops`-1.

        Raises:
            InputError: the image is not in the cache.
        """
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            raise InputError(f"An image (key {key}) has no tokens in {self.folder}. Write it anew with beit tokenize.")
        row = int(self.order[place])
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        if shard not in self._shards:
            self._shards[shard] = self._open(shard)
        return self._shards[shard][row - self.starts[shard], crop].astype(np.int64)

    def check_grid(self, grid: tuple[int, int]) -> None:
        """Raises ConfigError when a model's patch grid is another than that of the tokens."""
        if grid != self.grid:
            raise ConfigError(
                f"{self.folder} has {self.grid[0]}x{self.grid[1]} tokens an image; the model has {grid[0]}x{grid[1]} patches. "
                "Write a cache for this model: beit tokenize --model …"
            )

    def check(self, settings: Any, images: Images | Stream, tokenizer: Any | None) -> None:
        """Raises ConfigError when the tokens are of other crops, other images or another tokenizer; says which differ."""
        wrong = [
            f"{name}: {self.about[name]} in the cache, {now} now"
            for name in CROP_SETTINGS
            if not _same(self.about[name], now := getattr(settings, name))
        ]
        if settings.crops is not None and settings.crops != self.crops:
            wrong.append(f"crops: {self.crops} in the cache, {settings.crops} now")
        if self.about["images"] != images.fingerprint():
            wrong.append("the images, or their order, are others")
        if tokenizer is not None and tokenizer_fingerprint(tokenizer) != self.about["tokenizer"]:
            wrong.append("the tokenizer is another")
        if wrong:
            raise ConfigError("\n  ".join([f"The tokens in {self.folder} do not fit this run:", *wrong]))


def _same(a: Any, b: Any) -> bool:
    return (list(a) if isinstance(a, (list, tuple)) else a) == (list(b) if isinstance(b, (list, tuple)) else b)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """The same for a tokenizer with the same weights."""
    digest = hashlib.sha1(usedforsecurity=False)
    for name, tensor in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).tobytes())
    return digest.hexdigest()


def finished_shards(folder: Path) -> set[int]:
    """Shards that are whole: their keys are written last."""
    names = [re.fullmatch(r"keys-(\d+)\.npy", path.name) for path in folder.glob("keys-*.npy")]
    return {int(name.group(1)) for name in names if name}


def write_shard(folder: Path, number: int, keys: np.ndarray, tokens: np.ndarray, vocab_size: int) -> None:
    """Write a shard: `keys (n,)`, `tokens (n, K, N)`. Raises CheckpointError when it cannot be written."""
    kind = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    for name, array in (("tokens", tokens.astype(kind)), ("keys", keys.astype(np.int64))):
        with atomic_path(folder / f"{name}-{number:05}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, array)

"""Write a token cache: the visual tokens of several crops of each image, computed once (`beit tokenize`).

The crops are those that `beit pretrain --crops K` takes with the same seed, so a run sees the same with the cache and
without. Shards of the cache that are there already are left as they are, and several processes (torchrun) share the rest.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beit.core import geometry
from beit.core.errors import ConfigError
from beit.core.files import check_folder, read_json, write_json
from beit.core.progress import progress_bar
from beit.data.sources import open_images
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import ArrayImages, Images
from beit.data.sources.in_memory import hold_in_memory
from beit.data.sources.stream import Stream, count_of
from beit.data.token_cache import (
    CACHE_FILE,
    CROP_SETTINGS,
    TokenCache,
    finished_shards,
    tokenizer_fingerprint,
    write_shard,
)
from beit.data.transforms.pretrain import Crops
from beit.data.workers.protocol import Pool
from beit.tokenizers import load_tokenizer
from beit.train.checkpoint import clear_unfinished
from beit.train.framework import tokenizing
from beit.train.pieces import CropWork, FolderPiece, Piece, ShardPiece, array_crops
from beit.train.run import locked
from beit.train.settings import TokenizeSettings
from beit.train.start import open_start, smallest_view
from beit.train.targets.tokens import token_view_size

logger = logging.getLogger("beit")

_PIECE = 4096  # images of a folder in a shard of the cache
_UNFINISHED = ".unfinished.json"


def tokenize(settings: TokenizeSettings, images: Images | Stream | None = None) -> TokenCache:
    """Write a token cache, or what is missing of it, into `settings.output`.

    Args:
        settings: what to do.
        images: used instead of those that the settings name.

    Raises:
        ConfigError: the tokenizer gives no grid of the model's patches; or the folder holds tokens of something else.
        DataError: the images cannot be used.
        CheckpointError: there is no such tokenizer, or the folder cannot be written.
    """
    framework = tokenizing()
    processes = framework.processes(settings)
    tokenizer = load_tokenizer(settings.tokenizer)
    config = open_start(settings).config
    size = token_view_size(tokenizer, config.grid)
    if images is None:
        images = open_images(settings.images, smallest_side=max(geometry.pair(config.patch_size)))
    about = {
        "images": images.fingerprint(),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "vocab_size": int(tokenizer.vocab_size),
        "grid": config.grid,
        "view_size": size,
        "crops": settings.crops,
        "seed": settings.seed,
        **{name: getattr(settings, name) for name in CROP_SETTINGS},
    }
    about = {
        name: list(value) if isinstance(value, tuple) else value for name, value in about.items()
    }  # as JSON has them
    _check_folder(settings.output, about)
    bad = BadImages(count_of(images))
    images = hold_in_memory(images, bad, smallest_view(config, size))
    count = len(images.shards.names) if isinstance(images, Stream) else -(-len(images) // _PIECE)
    with locked(settings.output) if processes.main else contextlib.nullcontext():
        if processes.main:
            clear_unfinished(settings.output)
            write_json(settings.output / _UNFINISHED, about)  # until cache.json says that all shards are there
        processes.wait()  # until nothing is cleared any more
        done = finished_shards(settings.output)
        with progress_bar(
            purpose="progress", shown=processes.main, total=count_of(images), desc="tokenize", unit="image"
        ) as bar:
            tokens_of = framework.on_device(tokenizer, processes)
            writer = _Writer(settings, images, size, tokens_of, framework.pool, bad, bar)
            for number in range(processes.rank, count, processes.world):
                if number not in done:
                    keys, tokens = writer.shard(number, config.num_patches)
                    write_shard(settings.output, number, keys, tokens, tokenizer.vocab_size)
        processes.wait()
        if processes.main:
            write_json(settings.output / CACHE_FILE, {**about, "shards": count})
            (settings.output / _UNFINISHED).unlink(missing_ok=True)
        processes.wait()
    if bad and processes.main:
        logger.warning("%d images were skipped:\n%s", len(bad), bad)
    return TokenCache(settings.output)


def _check_folder(output: Path, about: dict[str, Any]) -> None:
    """Raises ConfigError when the folder holds tokens of something else."""
    check_folder(output, "the tokens")
    for name in (CACHE_FILE, _UNFINISHED):
        if (output / name).exists():
            before = read_json(output / name)
            before = before if isinstance(before, dict) else {}
            wrong = [
                f"{key}: {before.get(key)} there, {now} now" for key, now in about.items() if before.get(key) != now
            ]
            if wrong:
                text = "\n  ".join([f"{output} holds tokens of something else:", *wrong])
                raise ConfigError(text + "\nChoose another output folder, or the settings with which it was begun.")


@dataclass
class _Writer:
    """Computes the tokens of one shard of the cache after the other."""

    settings: TokenizeSettings
    images: Images | Stream
    size: tuple[int, int]
    tokens_of: Callable[[Any], np.ndarray]
    pool: Pool
    bad: BadImages
    bar: Any

    def shard(self, number: int, patches: int) -> tuple[np.ndarray, np.ndarray]:
        """(keys `(n,)`, tokens `(n, K, N)`) of the images of a shard that could be read.

        Args:
            number: of the shard.
            patches: N.
        """
        keys, batches = self._batches(number)
        tokens = np.zeros((len(keys), self.settings.crops, patches), np.int64)
        kept = np.zeros(len(keys), bool)
        for batch in batches:
            rows = np.asarray(batch["rows"])
            if not len(rows):  # all images of this batch are damaged
                continue
            tokens[rows, np.asarray(batch["crop"])] = self.tokens_of(batch["pixels"])
            self.bar.update(int((~kept[np.unique(rows)]).sum()))
            kept[rows] = True
        return keys[kept], tokens[kept]

    def _batches(self, number: int) -> tuple[np.ndarray, Iterator[dict[str, Any]]]:
        """(keys of a shard's images, batches of their crops as `CropWork` makes them)."""
        settings, images = self.settings, self.images
        crops = Crops(settings.crop_scale, settings.jitter, settings.flip)
        if isinstance(images, ArrayImages):
            keys = np.arange(number * _PIECE, min((number + 1) * _PIECE, len(images)))
            return keys, array_crops(images, keys, crops, self.size, settings.seed, settings.crops, settings.batch_size)
        piece: Piece
        if isinstance(images, Stream):
            piece = ShardPiece(images, number, self.bad)
        else:
            piece = FolderPiece(images, number * _PIECE, _PIECE)
        at_once = max(settings.batch_size // settings.crops, 1)
        return piece.keys, self._made(CropWork(piece, crops, self.size, settings.seed, settings.crops, at_once))

    def _made(self, work: CropWork) -> Iterator[dict[str, Any]]:
        """The batches of `work`, made by workers; what is wrong with images is noted."""
        workers = min(self.settings.workers, len(work.piece.keys))
        with contextlib.closing(self.pool(work, workers)) as batches:
            for made in batches:
                if made.error is not None:
                    raise made.error
                for reason in made.skipped:
                    self.bad.add(reason)
                assert made.batch is not None
                yield made.batch

"""Write a token cache: the visual tokens of K crops of each image, piece by piece (`beit tokenize`).

The crops are those that `beit pretrain --crops K` with the same seed takes, so that a run with the cache and one without see
the same. A piece is a range of a folder, or one shard of a stream; pieces that are there already are left, and several
processes (torchrun) share them.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from beit.core import geometry
from beit.core.errors import ConfigError, DataError, require
from beit.core.files import read_json, write_json
from beit.data.decode import decode_image
from beit.data.sources import open_images
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import ArrayImages, Images
from beit.data.sources.in_memory import hold_in_memory
from beit.data.sources.shards import EncodedSample, TruncatedShard, sample_key
from beit.data.sources.stream import Stream, count_of
from beit.data.token_cache import (
    CACHE_FILE,
    CROP_SETTINGS,
    TokenCache,
    finished_shards,
    tokenizer_fingerprint,
    write_shard,
)
from beit.data.transforms.crops import batch_view, view
from beit.data.transforms.pixels import planes
from beit.data.transforms.pretrain import Crops
from beit.data.transforms.sample_seed import SampleSeed
from beit.data.workers.protocol import ignore_signals
from beit.data.workers.torch import start_method
from beit.tokenizers import load_tokenizer
from beit.train.pretrain import smallest_view, start_config
from beit.train.settings import TokenizeSettings
from beit.train.targets import token_view_size

logger = logging.getLogger("beit")

_PIECE = 4096  # images of a folder in a piece
_UNFINISHED = ".unfinished.json"


def tokenize(settings: TokenizeSettings, images: Images | Stream | None = None) -> TokenCache:
    """Write a token cache, or what is missing of it, into `settings.output`.

    Args:
        settings: what to do.
        images: used instead of those that the settings name.

    Raises:
        ConfigError: the tokenizer gives no such grid; or the folder holds other tokens.
        DataError: the images cannot be used.
        CheckpointError: there is no such tokenizer, or the folder cannot be written.
    """
    accelerate, tqdm = require("accelerate", "train", "several processes"), require("tqdm", "train", "progress").tqdm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of kernels and drivers; nothing here that a user can act on
        state = accelerate.PartialState()
    tokenizer = load_tokenizer(settings.tokenizer)
    config = start_config(settings.model, settings.image_size, settings.patch_size)
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
    about = {name: list(value) if isinstance(value, tuple) else value for name, value in about.items()}
    _check_folder(settings.output, about)
    bad = BadImages(count_of(images))
    images = hold_in_memory(images, bad, smallest_view(config, size))
    count = len(images.shards.names) if isinstance(images, Stream) else -(-len(images) // _PIECE)
    if state.is_main_process:
        write_json(settings.output / _UNFINISHED, about)
    done = finished_shards(settings.output)
    shown = None if state.is_main_process else True  # None: a bar where there is a terminal
    with tqdm(total=count_of(images), desc="tokenize", unit="image", disable=shown, file=sys.stderr) as bar:
        writer = _Writer(settings, tokenizer.to(state.device), state.device, size, config.num_patches, bad, bar)
        for number in range(state.process_index, count, state.num_processes):
            if number not in done:
                writer.write(number, images)
    state.wait_for_everyone()
    if state.is_main_process:
        write_json(settings.output / CACHE_FILE, {**about, "shards": count})
        (settings.output / _UNFINISHED).unlink(missing_ok=True)
    state.wait_for_everyone()
    if bad and state.is_main_process:
        logger.warning("%d images were skipped:\n%s", len(bad), bad)
    return TokenCache(settings.output)


def _check_folder(output: Path, about: dict[str, Any]) -> None:
    """Raises ConfigError when the folder holds tokens of something else."""
    if output.is_file():
        raise DataError(f"{output} is a file; give a folder for the tokens.")
    for name in (CACHE_FILE, _UNFINISHED):
        if (output / name).exists():
            before = read_json(output / name)
            wrong = [
                f"{key}: {before.get(key)} there, {now} now" for key, now in about.items() if before.get(key) != now
            ]
            if wrong:
                text = "\n  ".join([f"{output} holds tokens of something else:", *wrong])
                raise ConfigError(text + "\nChoose another output folder, or the settings that it was begun with.")


# --- images of one shard of the cache --------------------------------------------------------------------------------


class _Piece(Protocol):
    """Images whose tokens make up one shard of the cache.

    Attributes:
        keys: the `SampleSeed.key` of each, int64.
    """

    keys: np.ndarray

    def read(self, row: int) -> tuple[Image.Image | None, list[str]]:
        """(the image, or None; what was wrong with it, or with those before it in its place)."""
        ...


class _OfFolder:
    """Images `first` … of a folder."""

    def __init__(self, images: Images, first: int) -> None:
        self.images, self.keys = images, np.arange(first, min(first + _PIECE, len(images)))

    def read(self, row: int) -> tuple[Image.Image | None, list[str]]:
        # In pre-training the place of a damaged image is taken by the next one; so it is here.
        reasons: list[str] = []
        for attempt in range(len(self.images)):
            try:
                return self.images.read((int(self.keys[row]) + attempt) % len(self.images)), reasons
            except DataError as error:
                reasons.append(str(error))
        return None, reasons


class _OfShard:
    """All images of one shard of a stream; they are held, encoded, while it is worked on."""

    def __init__(self, stream: Stream, number: int, bad: BadImages) -> None:
        self.smallest_side = stream.smallest_side
        self.raws: list[EncodedSample] = []
        for found in stream.shards.read(number):
            if isinstance(found, TruncatedShard):
                bad.add(found.reason)
            else:
                self.raws.append(found)
        shard = stream.shards.names[number]
        self.keys = np.array([sample_key(shard, raw.key) for raw in self.raws], np.int64)

    def read(self, row: int) -> tuple[Image.Image | None, list[str]]:
        try:
            return decode_image(self.raws[row].data, self.raws[row].name, self.smallest_side), []
        except DataError as error:
            return None, [str(error)]


# --- their tokens ----------------------------------------------------------------------------------------------------


@dataclass
class _Writer:
    settings: TokenizeSettings
    tokenizer: Any
    device: torch.device
    size: tuple[int, int]
    tokens: int
    bad: BadImages
    bar: Any

    def write(self, number: int, images: Images | Stream) -> None:
        """One shard of the cache."""
        crops = Crops(self.settings.crop_scale, self.settings.jitter, self.settings.flip)
        if isinstance(images, ArrayImages):
            keys = np.arange(number * _PIECE, min((number + 1) * _PIECE, len(images)))
            found = self._of_array(images, keys, crops)
        else:
            piece: _Piece = (
                _OfShard(images, number, self.bad) if isinstance(images, Stream) else _OfFolder(images, number * _PIECE)
            )
            keys, found = piece.keys, self._of_piece(piece, crops)
        tokens = np.zeros((len(keys), self.settings.crops, self.tokens), np.int64)
        kept = np.zeros(len(keys), bool)
        for rows, crop, pixels in found:
            shown = torch.from_numpy(pixels).to(self.device)
            tokens[rows, crop] = self.tokenizer.tokens(shown).flatten(1).cpu().numpy()
            self.bar.update(int((~kept[rows]).sum()))
            kept[rows] = True
        write_shard(self.settings.output, number, keys[kept], tokens[kept], self.tokenizer.vocab_size)

    def _of_array(
        self, images: ArrayImages, keys: np.ndarray, crops: Crops
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(rows, number of the crop, views), as `_of_piece`."""
        for rows in np.array_split(np.arange(len(keys)), -(-len(keys) // self.settings.batch_size)):
            pixels = planes(images.array[keys[rows]])
            for crop in range(self.settings.crops):
                rngs = [SampleSeed(self.settings.seed, crop, int(key)).rng() for key in keys[rows]]
                coloured, boxes, flips = crops.batch(pixels, rngs)
                yield rows, np.full(len(rows), crop), batch_view(coloured, boxes, flips, self.size)

    def _of_piece(self, piece: _Piece, crops: Crops) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(rows `(B,)`, number of the crop `(B,)`, views `(B, 3, h, w)`) of all good images."""
        settings = self.settings
        if not len(piece.keys):
            return
        workers = min(settings.workers, len(piece.keys))
        loader: DataLoader[Any] = DataLoader(
            _CropsOf(piece, crops, self.size, settings.seed, settings.crops),
            batch_size=max(settings.batch_size // settings.crops, 1),
            num_workers=workers,
            multiprocessing_context=start_method(workers),
            collate_fn=list,
            worker_init_fn=ignore_signals,
        )
        for samples in loader:
            for _, _, reasons in samples:
                for reason in reasons:
                    self.bad.add(reason)
            good = [(row, pixels) for row, pixels, _ in samples if pixels is not None]
            if good:
                rows = np.repeat([row for row, _ in good], settings.crops)
                yield (
                    rows,
                    np.tile(np.arange(settings.crops), len(good)),
                    np.concatenate([pixels for _, pixels in good]),
                )


@dataclass
class _CropsOf(Dataset[Any]):
    """(row, all crops of its image `(K, 3, h, w)` or None, what was wrong): each image is decoded once."""

    piece: _Piece
    crops: Crops
    size: tuple[int, int]
    seed: int
    count: int

    def __len__(self) -> int:
        return len(self.piece.keys)

    def __getitem__(self, row: int) -> tuple[int, np.ndarray | None, list[str]]:
        image, reasons = self.piece.read(row)
        if image is None:
            return row, None, reasons
        draw = SampleSeed(self.seed, 0, int(self.piece.keys[row]))
        views = []
        for crop in range(self.count):
            coloured, box, flip = self.crops.one(image, replace(draw, pass_index=crop).rng())
            views.append(view(coloured, box, self.size, Image.Resampling.LANCZOS, flip))
        return row, np.stack(views), reasons

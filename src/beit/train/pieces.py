"""Crops of a piece of all images, in the order of a token cache. Loads no framework.

A piece is a range of images of a folder or an array, or one shard of a stream. Its tokens make up one shard of the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from beit.core.errors import DataError
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import ArrayImages, Images
from beit.data.sources.shards import EncodedSample, TruncatedShard, sample_key
from beit.data.sources.stream import Stream
from beit.data.transforms.crops import batch_view, view
from beit.data.transforms.pixels import planes
from beit.data.transforms.pretrain import Crops
from beit.data.transforms.sample_seed import SampleSeed
from beit.data.workers.protocol import WorkerBatch


class Piece(Protocol):
    """Images that are read one by one.

    Attributes:
        keys: the `SampleSeed.key` of each, `(n,)` int64.
    """

    keys: np.ndarray

    def read(self, row: int) -> tuple[Image.Image | None, list[str]]:
        """(the image of this row, or None; what was wrong with it, and with others that were tried in its place)."""
        ...


class FolderPiece:
    """Images `first`, `first` + 1, … of a folder, at most `count`."""

    def __init__(self, images: Images, first: int, count: int) -> None:
        self.images, self.keys = images, np.arange(first, min(first + count, len(images)))

    def read(self, row: int) -> tuple[Image.Image | None, list[str]]:
        """As `Piece.read`."""
        # Pre-training takes the next image in the place of a damaged one, and these tokens are for pre-training.
        reasons: list[str] = []
        for attempt in range(len(self.images)):
            try:
                return self.images.read((int(self.keys[row]) + attempt) % len(self.images)), reasons
            except DataError as error:
                reasons.append(str(error))
        return None, reasons


class ShardPiece:
    """All images of one shard of a stream. They are held in memory, encoded, for as long as the piece is."""

    def __init__(self, stream: Stream, number: int, bad: BadImages) -> None:
        self.stream = stream
        self.samples: list[EncodedSample] = []
        for found in stream.shards.read(number):
            if isinstance(found, TruncatedShard):
                bad.add(found.reason)
            else:
                self.samples.append(found)
        shard = stream.shards.names[number]
        self.keys = np.array([sample_key(shard, sample.key) for sample in self.samples], np.int64)

    def read(self, row: int) -> tuple[Image.Image | None, list[str]]:
        """As `Piece.read`."""
        try:
            return self.stream.read(self.samples[row]), []
        except DataError as error:
            return None, [str(error)]


@dataclass(frozen=True)
class CropWork:
    """The crops of a piece as batches that workers make (`beit.data.workers.protocol.WorkerTask`). Each image is decoded once.

    Attributes:
        piece: the images.
        crops: how they are cropped.
        size: (height, width) of a crop.
        seed: of the crops.
        count: crops per image.
        images: images per batch.
    """

    piece: Piece
    crops: Crops
    size: tuple[int, int]
    seed: int
    count: int
    images: int

    def batches(self, worker: int, workers: int) -> Iterator[WorkerBatch]:
        """Batches of `rows (B,)`, `crop (B,)` and `pixels (B, 3, h, w)`; those of damaged images are left out."""
        rows = len(self.piece.keys)
        for first in range(worker * self.images, rows, workers * self.images):
            yield self._batch(range(first, min(first + self.images, rows)))

    def _batch(self, rows: range) -> WorkerBatch:
        reasons: list[str] = []
        kept: list[int] = []
        pixels = [np.empty((0, 3, *self.size), np.float32)]
        for row in rows:
            image, wrong = self.piece.read(row)
            reasons += wrong
            if image is not None:
                kept.append(row)
                pixels.append(self._crops_of(image, row))
        crop = np.tile(np.arange(self.count), len(kept))
        batch: dict[str, np.ndarray] = {
            "rows": np.repeat(kept, self.count).astype(np.int64),
            "crop": crop,
            "pixels": np.concatenate(pixels),
        }
        return WorkerBatch(batch, reasons)

    def _crops_of(self, image: Image.Image, row: int) -> np.ndarray:
        # The draws are those of pre-training: by seed, pass and image. Crop k stands for pass k.
        seed = SampleSeed(self.seed, 0, int(self.piece.keys[row]))
        views = []
        for crop in range(self.count):
            coloured, box, flip = self.crops.one(image, replace(seed, pass_index=crop).rng())
            views.append(view(coloured, box, self.size, Image.Resampling.LANCZOS, flip))
        return np.stack(views)


def array_crops(
    images: ArrayImages, keys: np.ndarray, crops: Crops, size: tuple[int, int], seed: int, count: int, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """The same batches of images in memory, which are cropped a batch at a time.

    Args:
        images: all of them.
        keys: numbers of those that are wanted, `(n,)`.
        crops: how they are cropped.
        size: (height, width) of a crop.
        seed: of the crops.
        count: crops per image.
        batch_size: the most crops in a batch.
    """
    for rows in np.array_split(np.arange(len(keys)), -(-len(keys) // batch_size)):
        pixels = planes(images.array[keys[rows]])
        for crop in range(count):
            rngs = [SampleSeed(seed, crop, int(key)).rng() for key in keys[rows]]
            coloured, boxes, flips = crops.batch(pixels, rngs)
            yield {
                "rows": rows,
                "crop": np.full(len(rows), crop),
                "pixels": batch_view(coloured, boxes, flips, size),
            }

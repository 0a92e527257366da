"""A stream's images by number: for measuring, which may read them several times, and in order."""

from __future__ import annotations

import copy
import logging
import os
import tempfile
import weakref
from typing import Any

import numpy as np
from PIL import Image

from beit.core.errors import DataError
from beit.data.decode import decode_image
from beit.data.sources.shards import TruncatedShard
from beit.data.sources.stream import Stream

logger = logging.getLogger("beit")


class _Spool:
    """A temporary file, which is closed with the last image source that holds this."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self.file.close)


class SpooledImages:
    """The images of a labelled stream, read once and kept, still encoded, in a temporary file without a name. As `Images`.

    Args:
        stream: labelled; all its shards are read, in order.

    Raises:
        DataError: a shard cannot be reached, the stream is empty, or the file cannot be written (a full disk).
        InputError: a label is none of the classes.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.classes = list(stream.classes)
        self._spool = _Spool()
        self._names: list[str] = []
        self._places: list[tuple[int, int]] = []  # (first byte, number of bytes)
        self._damages: list[str] = []  # "" for a sound image
        labels: list[int] = []
        try:
            for number in range(len(stream.shards.names)):
                for sample in stream.shards.read(number):
                    labels.append(self._keep(sample))
            self._spool.file.flush()
        except OSError as error:
            raise DataError(
                f"The images of the stream cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}. Let TMPDIR name a "
                "folder with more room."
            ) from error
        if not labels:
            raise DataError("The stream has no images to measure on.")
        self.labels: np.ndarray | None = np.array(labels, np.int64)
        size = sum(size for _, size in self._places)
        logger.info("%d images of a stream were read, %.1f MB, to be measured on", len(labels), size / 1e6)

    def _keep(self, sample: Any) -> int:
        """Append a sample, or the place of a damage. Returns its label, 0 where it has none."""
        start, label, damage, data = self._spool.file.tell(), 0, "", b""
        if isinstance(sample, TruncatedShard):
            damage = sample.reason
        else:
            data, damage = (
                sample.data,
                f"{sample.name}: damaged and left out ({sample.damage})." if sample.damage else "",
            )
            try:
                label = self.stream.target(sample)
            except DataError as error:  # without a label it cannot be measured on
                damage = damage or str(error)
        self._spool.file.write(data)
        self._names.append(sample.reason if isinstance(sample, TruncatedShard) else sample.name)
        self._places.append((start, len(data)))
        self._damages.append(damage)
        return label

    def sound(self) -> np.ndarray:
        """Which images have a label and bytes: bool `(n,)`. The others have label 0, and `read` says why they are left out."""
        return np.array([not damage for damage in self._damages])

    def __len__(self) -> int:
        return len(self._places)

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB, upright. Raises DataError when it cannot be read."""
        if self._damages[index]:
            raise DataError(self._damages[index])
        start, size = self._places[index]
        data = os.pread(self._spool.file.fileno(), size, start)
        return decode_image(data, self._names[index], self.stream.smallest_side)

    def target(self, index: int) -> int:
        """The class number."""
        return 0 if self.labels is None else int(self.labels[index])

    def name(self, index: int) -> str:
        """The shard and the sample."""
        return self._names[index]

    def subset(self, indices: np.ndarray) -> SpooledImages:
        """Only the images with these numbers, in this order; they stay in the same file."""
        found = copy.copy(self)
        found._names = [self._names[index] for index in indices]
        found._places = [self._places[index] for index in indices]
        found._damages = [self._damages[index] for index in indices]
        found.labels = None if self.labels is None else self.labels[indices]
        return found

    def fingerprint(self) -> str:
        """That of the stream."""
        return self.stream.fingerprint()

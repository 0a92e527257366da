"""The shards of a data set of the Hub, or of a local folder of Parquet files, streamed by the `datasets` library."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from beit.core.errors import BeitError, DataError, require
from beit.core.text import printable
from beit.data.sources.shards import LARGEST_IMAGE, EncodedSample, TruncatedShard

_ROWS = 16  # read at a time: more would only take memory, since images of a batch are decoded later


class HubShards:
    """One split of a data set: its column of images and, if there is one, its column of class labels. As `Shards`.

    Args:
        name: OWNER/NAME on the Hub, or a local folder that `datasets.load_dataset` understands.
        split: the split to read.

    Raises:
        DataError: there is no such data set or split, it cannot be reached, or it has no column of images.
        MissingExtraError: `datasets` is not installed.
    """

    def __init__(self, name: str, split: str = "train") -> None:
        self.name, self.split = name, split
        datasets = require("datasets", "train", f"reading hub:{name}")
        try:
            data = datasets.load_dataset(name, split=split, streaming=True)
            # Some formats state no features; then the library reads the first row to find them.
            features = data.features or data._resolve_features().features
        except BeitError:
            raise
        except Exception as error:  # the library raises whatever its layers below do
            raise DataError(f"hub:{name}, split {split}, cannot be opened: {_first_line(error)}") from error
        self.image = _column(features, datasets.Image, f"hub:{name}", "image")
        if self.image is None:
            kinds = ", ".join(f"{column} ({type(kind).__name__})" for column, kind in features.items())
            raise DataError(f"hub:{name} has no column of images. It has: {kinds}.")
        self.label = _column(features, datasets.ClassLabel, f"hub:{name}", "label")
        self.classes: list[str] = [] if self.label is None else list(features[self.label].names)
        # Not decoded by the library: a damaged image must not end the stream, and turning, 8 bits and sizes are checked
        # in `decode.py`, as for any other source.
        data = data.select_columns([self.image] + ([self.label] if self.label is not None else []))
        self.data = data.cast_column(self.image, datasets.Image(decode=False))
        self.count = int(getattr(self.data, "num_shards", 0) or self.data.n_shards)
        known = (data.info.splits or {}).get(split)
        self.total: int | None = getattr(known, "num_examples", None) or None
        base = re.split(r"[\\/]", name.rstrip("/\\"))[-1]
        self.names = [f"{base}-{split}-{number:05}" for number in range(self.count)]

    def read(self, number: int, first: int = 0) -> Iterator[EncodedSample | TruncatedShard]:
        """The rows of shard `number` from row `first` on. Raises DataError when they cannot be reached."""
        from datasets.distributed import split_dataset_by_node

        part = split_dataset_by_node(self.data, rank=number, world_size=self.count)
        row = 0
        try:
            # `iter`, not a plain loop: in a DataLoader worker, a loop would split the shards among the workers again.
            for rows in part.iter(_ROWS):
                images = rows[self.image]
                labels = [None] * len(images) if self.label is None else rows[self.label]
                for image, label in zip(images, labels, strict=True):
                    if row >= first:
                        known = label is not None and label >= 0  # a test split without labels has -1
                        where = f"hub:{self.name}, {self.names[number]}, row {row}"
                        data, damage = _encoded(image)
                        yield EncodedSample(str(row), where, data, label if known else None, damage)
                    row += 1
        except BeitError:
            raise
        except Exception as error:
            raise DataError(
                f"hub:{self.name}, split {self.split}, could not be read to its end: {_first_line(error)} Go on with --resume."
            ) from error


def _column(features: Any, kind: type, source: str, usual: str) -> str | None:
    """The name of the column of a kind, or None. If there are several, it must have the usual name."""
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) > 1 and usual not in found:
        raise DataError(
            f"{source} has several columns of the kind {kind.__name__} and none is called {usual}: {', '.join(found)}. "
            f"Rename the one to use to {usual}."
        )
    return (usual if usual in found else found[0]) if found else None


def _encoded(image: Any) -> tuple[bytes, str]:
    """(the file of an image that was not decoded, what is wrong with it): its bytes are in the row, or at its path.

    Who writes a data set writes its paths: one to a device or pipe would have no end.
    """
    if not image or not isinstance(image, dict):
        return b"", "the row has no image"
    if image.get("bytes") is not None:
        return bytes(image["bytes"]), ""
    path = image.get("path")
    if not path:
        return b"", "the row has neither bytes of an image nor its path"
    import fsspec

    try:
        if "://" not in path and not stat.S_ISREG(os.stat(path).st_mode):
            return b"", f"{printable(path)} is not a file"
        with fsspec.open(path, "rb") as file:
            data = bytes(file.read(LARGEST_IMAGE + 1))
    except Exception as error:  # the libraries below raise whatever they like
        return b"", f"{printable(path)} cannot be read: {printable(_first_line(error))}"
    return (
        (b"", f"{printable(path)} has more than {LARGEST_IMAGE:,} bytes") if len(data) > LARGEST_IMAGE else (data, "")
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__).rstrip(".") + "."

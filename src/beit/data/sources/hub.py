"""The shards of a data set of the Hub, or of a local folder, streamed by the `datasets` library.

Which column has the images: the one of the type Image; else one of structs with `bytes`, or of bytes. Which has the labels: the
one of the type ClassLabel; else one of texts or whole numbers that is called label, labels, class or category. Of several, the
one with the usual name.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Any

from beit.core.errors import BeitError, DataError, require
from beit.core.text import printable
from beit.data.sources.shards import LARGEST_IMAGE, EncodedSample, TruncatedShard

_ROWS = 16  # read at a time: more would only take memory, since images of a batch are decoded later
_LABELS = ("label", "labels", "class", "category")
_MOST_CLASSES = 100_000  # values of a column; one with more is no column of labels
_LONGEST_CLASS = 1000  # letters

logger = logging.getLogger("beit")


class HubShards:
    """One split of a data set: its column of images and, if there is one, its column of class labels. As `Shards`.

    Args:
        name: OWNER/NAME on the Hub, or a local folder that `datasets.load_dataset` understands: of Parquet files, of class
            folders, or with a metadata.csv.
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
        source = f"hub:{name}"
        self.columns = ", ".join(f"{column} ({type(kind).__name__})" for column, kind in features.items())
        self.image = _column(features, lambda kind: isinstance(kind, datasets.Image), source, "Image", "image")
        self.image = self.image or _column(features, _has_bytes, source, "bytes", "image")
        if self.image is None:
            raise DataError(f"{source} has no column of images. It has: {self.columns}.")
        self.label = _column(
            features, lambda kind: isinstance(kind, datasets.ClassLabel), source, "ClassLabel", "label"
        )
        self._named: list[str] | None = None if self.label is None else list(features[self.label].names)
        if self.label is None:
            plain = [column for column in _LABELS if column in features and _is_plain(features[column])]
            self.label = plain[0] if plain else None
            if plain:
                logger.info("%s: labels are taken from the column %s, which is plain values.", source, self.label)
        # Not decoded by the library: a damaged image must not end the stream, and turning, 8 bits and sizes are checked
        # in `decode.py`, as for any other source.
        data = data.select_columns([self.image] + ([self.label] if self.label is not None else []))
        self.data = data.cast_column(self.image, datasets.Image(decode=False))
        self.count = int(getattr(self.data, "num_shards", 0) or self.data.n_shards)
        known = (data.info.splits or {}).get(split)
        self.total: int | None = getattr(known, "num_examples", None) or None
        base = re.split(r"[\\/]", name.rstrip("/\\"))[-1]
        self.names = [f"{base}-{split}-{number:05}" for number in range(self.count)]

    @functools.cached_property
    def classes(self) -> list[str]:
        """Names of the classes; those of a column of plain values are the values that occur, sorted, for which it is read.

        Raises:
            DataError: there is no column of labels; or it has values that are none, or too many of them, or cannot be read.
        """
        if self.label is None:
            raise DataError(
                f"hub:{self.name} has no column of labels. It has: {self.columns}. Wanted one of the type ClassLabel, or texts or whole "
                f"numbers called {', '.join(_LABELS)}. Rename the column of the labels."
            )
        if self._named is not None:
            return self._named
        if not os.path.isdir(self.name):
            return []  # on the Hub it would take long to read; `Stream` asks for --classes then
        found: set[str] = set()
        try:
            for rows in self.data.select_columns([self.label]).iter(4096):
                found |= {str(value) for value in rows[self.label] if value is not None and value != ""}
                if len(found) > _MOST_CLASSES:
                    raise DataError(
                        f"hub:{self.name}: the column {self.label} has more than {_MOST_CLASSES:,} values, and is no label. Rename "
                        "the column of labels to label."
                    )
                if max(map(len, found), default=0) > _LONGEST_CLASS:
                    raise DataError(
                        f"hub:{self.name}: the column {self.label} has texts of more than {_LONGEST_CLASS:,} letters, and is no label. "
                        "Rename the column of labels to label."
                    )
        except BeitError:
            raise
        except Exception as error:
            raise DataError(f"hub:{self.name}: the column {self.label} cannot be read: {_first_line(error)}") from error
        return sorted(found, key=lambda value: (not value.isdecimal(), len(value) if value.isdecimal() else 0, value))

    def _label(self, value: Any) -> int | str | None:
        """The label of a row: a number of ClassLabel, -1 for none; or a plain value, whose text is the name of the class."""
        if value is None or value == "":
            return None
        if self._named is None:
            return str(value)
        return int(value) if value >= 0 else None

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
                        where = f"hub:{self.name}, {self.names[number]}, row {row}"
                        data, damage = _encoded(image)
                        yield EncodedSample(str(row), where, data, self._label(label), damage)
                    row += 1
        except BeitError:
            raise
        except Exception as error:
            raise DataError(
                f"hub:{self.name}, split {self.split}, could not be read to its end: {_first_line(error)} Go on with --resume."
            ) from error


def _column(features: Any, fits: Callable[[Any], bool], source: str, kind: str, usual: str) -> str | None:
    """The name of the column of a kind, or None. If there are several, it must have the usual name."""
    found = [name for name, feature in features.items() if fits(feature)]
    if len(found) > 1 and usual not in found:
        raise DataError(
            f"{source} has several columns of the kind {kind} and none is called {usual}: {', '.join(found)}. "
            f"Rename the one to use to {usual}."
        )
    return (usual if usual in found else found[0]) if found else None


def _has_bytes(feature: Any) -> bool:
    """Whether a column has files: bytes, or structs with them."""
    return getattr(feature, "dtype", None) in ("binary", "large_binary") or (
        isinstance(feature, dict) and "bytes" in feature and _has_bytes(feature["bytes"])
    )


def _is_plain(feature: Any) -> bool:
    """Whether a column has texts or whole numbers."""
    kind = str(getattr(feature, "dtype", ""))
    return kind in ("string", "large_string") or kind.startswith(("int", "uint"))


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

"""Files of features: what `beit embed` writes and `beit similar` reads.

A Parquet file has the columns `image` (text) and `features` (a list of C numbers), and says under the key `beit` of its metadata
how the features were made (`Origin`). A .npy file `(n, C)` has a .txt file of the same name beside it, with one path per line, and
says nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beit.core.errors import DataError, require
from beit.core.files import atomic_path
from beit.core.text import as_utf8, printable
from beit.core.typed import fits

SUFFIXES = (".npy", ".parquet")
_KEY = b"beit"
_ROWS = 4096  # of a row group: a reader holds one of them beside its result


@dataclass(frozen=True)
class Origin:
    """How features were made.

    Attributes:
        model: folder (absolute) or Hub id of the model.
        layer: whose patches were averaged; None for the pooled output.
        directory: where relative paths of images begin.
        sample: features of `sample_image`, by which the model, its layer and its image processor are recognised again.
    """

    model: str
    layer: int | None
    directory: str
    sample: list[float]

    def where(self) -> str:
        """`the pooled output`, or `layer 8`."""
        return "the pooled output" if self.layer is None else f"layer {self.layer}"


@dataclass(frozen=True)
class FeatureIndex:
    """Features of images, as they are compared.

    Attributes:
        names: paths of the n images, as they were given to `beit embed`.
        features: float32 `(n, C)`; each row has length 1.
        skipped: rows of the file without features, as of images that could not be read.
        origin: how they were made; None where the file does not say it.
    """

    names: list[str]
    features: np.ndarray
    skipped: int = 0
    origin: Origin | None = None

    def path(self, number: int) -> str:
        """Where image `number` is: relative paths begin where `beit embed` was called, if the file says where that was."""
        name = self.names[number]
        return name if self.origin is None else os.path.join(self.origin.directory, name)


def sample_image() -> np.ndarray:
    """uint8 `(64, 64, 3)`, always the same: waves of several lengths and directions, with edges."""
    y, x = np.mgrid[:64, :64] / 64
    planes = [
        np.sin(2 * np.pi * (3 * x + y)),
        np.sin(2 * np.pi * (x * x + 5 * y)),
        np.sign(np.sin(2 * np.pi * 7 * (x - y))),
    ]
    return (127.5 * (1 + np.stack(planes, 2))).round().astype(np.uint8)


def write_features(path: Path, features: np.ndarray, names: Sequence[str], origin: Origin) -> None:
    """Write features `(n, C)` with the names of their images: to PATH.npy and PATH.txt, or to PATH.parquet with their origin.

    Raises:
        CheckpointError: a file could not be written.
        MissingExtraError: pyarrow is not installed.
    """
    if path.suffix == ".npy":
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, features)
        with atomic_path(path.with_suffix(".txt")) as temporary:
            lines = "".join(name.replace("\n", "\\n") + "\n" for name in names)  # line n is row n
            temporary.write_text(lines, encoding="utf-8", errors="surrogateescape")
        return
    arrow = require("pyarrow", "train", "parquet files")
    parquet = require("pyarrow.parquet", "train", "parquet files")
    column = arrow.FixedSizeListArray.from_arrays(arrow.array(features.reshape(-1)), features.shape[1])
    table = arrow.table({"image": [as_utf8(name) for name in names], "features": column})
    table = table.replace_schema_metadata({_KEY: json.dumps(asdict(origin))})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary, row_group_size=_ROWS)


def read_features(path: Path) -> FeatureIndex:
    """The features in a file, brought to length 1.

    Rows without features (null) are counted and left out. Beside the result, a part of the file is held at a time.

    Raises:
        DataError: there is no such file, it is damaged or of another kind, it has no images, rows of different widths, or rows
            that are NaN, infinite or all zero.
        MissingExtraError: pyarrow is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"{printable(path)} is no file of features: its name must end in .parquet or .npy, as beit embed writes them."
        )
    if not path.is_file():
        raise DataError(
            f"{printable(path)}: no such file. Make it: beit embed --images FOLDER --model MODEL --output {printable(path)}"
        )
    return _read_array(path) if path.suffix == ".npy" else _read_table(path)


def _read_array(path: Path) -> FeatureIndex:
    listed = path.with_suffix(".txt")
    try:
        names = listed.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
    except OSError as error:
        raise DataError(
            f"{printable(listed)} cannot be read: {error.strerror}. It lists the images of {printable(path)}."
        ) from error
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(path)} is no array that numpy can read ({printable(error)}).") from error
    if stored.ndim != 2 or stored.dtype.kind != "f":
        raise DataError(
            f"{printable(path)} is an array {stored.shape} of {stored.dtype}; wanted floats (images, features)."
        )
    if len(stored) != len(names):
        raise DataError(
            f"{printable(path)} has {len(stored)} rows, {printable(listed)} {len(names)} lines; wanted one for each."
        )
    features = np.array(stored, np.float32)
    _bring_to_length_1(features, names, 0, path)
    return FeatureIndex(_some(names, path), features)


def _read_table(path: Path) -> FeatureIndex:
    arrow = require("pyarrow", "train", "parquet files")
    compute = require("pyarrow.compute", "train", "parquet files")
    parquet = require("pyarrow.parquet", "train", "parquet files")
    try:
        # Without these two, the whole column would be read before its first part is decoded.
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            schema = file.schema_arrow
            _check_columns(path, schema, arrow)
            names: list[str] = []
            features: np.ndarray | None = None
            skipped = 0
            for batch in file.iter_batches(_ROWS, columns=["image", "features"]):
                there = batch.column("features").is_valid()
                skipped += len(batch) - there.true_count
                batch = batch.filter(there)
                if not len(batch):
                    continue
                column = batch.column("features")
                widths = np.unique(compute.list_value_length(column).to_numpy(zero_copy_only=False))
                width = int(widths[0]) if features is None else features.shape[1]
                if len(widths) > 1 or widths[0] != width or not width:
                    raise DataError(
                        f"{printable(path)} has rows of {', '.join(map(str, sorted({*widths.tolist(), width})))} numbers; wanted as many in "
                        "each, as one layer of one model gives them."
                    )
                if features is None:
                    features = np.empty((file.metadata.num_rows, width), np.float32)
                part = features[len(names) : len(names) + len(batch)]
                part[:] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(batch), width)
                new = [str(name) for name in batch.column("image").to_pylist()]
                _bring_to_length_1(part, new, len(names) + skipped, path)
                names += new
    except arrow.ArrowException as error:
        raise DataError(f"{printable(path)} is damaged, or no Parquet file ({printable(error)}).") from error
    if features is None:
        features = np.empty((0, 0), np.float32)
    return FeatureIndex(_some(names, path), features[: len(names)], skipped, _origin(path, schema.metadata))


def _check_columns(path: Path, schema: Any, arrow: Any) -> None:
    kinds = arrow.types
    for name, wanted in (("image", "text"), ("features", "lists of floats")):
        place = schema.get_field_index(name)
        if place < 0:
            found = ", ".join(printable(column) for column in schema.names[:10])
            raise DataError(
                f"{printable(path)} has no column {name!r}; it has {found or 'none'}. Wanted a file of beit embed --output {path.name}."
            )
        kind = schema.field(place).type
        if name == "image":
            fits = kinds.is_string(kind) or kinds.is_large_string(kind)
        else:
            lists = kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
            fits = lists and kinds.is_floating(kind.value_type)
        if not fits:
            raise DataError(f"{printable(path)}: the column {name!r} holds {kind}; wanted {wanted}.")


def _some(names: list[str], path: Path) -> list[str]:
    if not names:
        raise DataError(f"{printable(path)} has no images with features.")
    return names


def _bring_to_length_1(features: np.ndarray, names: Sequence[str], start: int, path: Path) -> None:
    """In place. `start` is the number of the first row, for messages."""
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(features, axis=1)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        row = int(wrong[0])
        what = "zeros alone, which point nowhere" if lengths[row] == 0 else "NaN, infinity or far too large numbers"
        raise DataError(
            f"{printable(path)}: row {start + row} ({printable(names[row])}) has {what}. The model is damaged, or something else wrote "
            "the file; embed the images again."
        )
    features /= lengths[:, None]


def _origin(path: Path, metadata: dict[bytes, bytes] | None) -> Origin | None:
    text = (metadata or {}).get(_KEY)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    kinds: dict[str, Any] = {"model": str, "layer": int | None, "directory": str, "sample": list[float]}
    if not isinstance(values, dict) or not all(
        name in values and fits(values[name], kind) for name, kind in kinds.items()
    ):
        raise DataError(f"{printable(path)}: what it says about its model is damaged; embed the images again.")
    return Origin(**{name: values[name] for name in kinds})

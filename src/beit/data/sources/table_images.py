"""Images that a table names, with their labels."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from beit.core.errors import ConfigError, DataError
from beit.core.settings import Settings
from beit.core.text import printable
from beit.data.decode import SUFFIXES, read_image
from beit.data.fingerprint import fingerprint_of
from beit.data.sources.table_labels import MULTI, REGRESSION, SINGLE, label_columns, labels_of, path_column
from beit.data.sources.tables import Columns, read_table

SPLIT = "split"
_PROBLEMS = {"single": SINGLE, "multi": MULTI, "regression": REGRESSION}


@dataclass(kw_only=True)
class TableSettings(Settings):
    """How a table of images is read."""

    image_folder: Path | None = None
    """Folder in which the paths of a table begin; the table's own if not given."""
    path_column: str | None = None
    """Column of a table with the images' paths. If not given, one with a usual name, such as path, image or filename."""
    label_columns: tuple[str, ...] | None = None
    """Column of a table with the labels; or several columns, of 0 and 1 or of numbers. If not given, one with a usual name, such as
    label, class or target; or all others, where they hold 0 and 1."""
    split: str | None = None
    """Take only the rows of a table whose column split has this value, such as train or test."""
    problem: Literal["auto", "single", "multi", "regression"] = "auto"
    """What the labels of a table are: one class an image; several labels an image (separated by | or ;, as lists, or as columns of 0
    and 1); or numbers. auto: several where there are separators, lists or such columns, numbers where they have fractions."""

    @property
    def problem_type(self) -> str | None:
        """The `problem_type` of a config; None to find out."""
        return _PROBLEMS.get(self.problem)

    def given(self) -> list[str]:
        """The names of the settings that are not as they are without a table."""
        plain = TableSettings()
        names = [item.name for item in dataclasses.fields(TableSettings)]
        return [name for name in names if getattr(self, name) != getattr(plain, name)]

    def check_table(self) -> None:
        """Check these settings. Raises ConfigError."""
        if self.problem != "auto" and self.problem not in _PROBLEMS:
            raise ConfigError(f"problem is {self.problem!r}; choose auto, {', '.join(_PROBLEMS)}.")
        if self.label_columns is not None and not self.label_columns:
            raise ConfigError("label_columns names no column; name one or more, or leave it out.")


class TableImages:
    """The images that a table names, in its order; see `read_table` and `labels_of`.

    Args:
        table: the file.
        settings: which columns count, and where paths begin.
        labelled: whether labels are read.
        classes: names of the classes or numbers in their order, where a trained model or a list sets them.
        problem: what the labels are, where a trained model sets it; else as the settings say.
        smallest_side: images with a shorter side, in pixels, are refused when read.

    Attributes:
        labels: see `beit.data.sources.table_labels.TableLabels`; None unless `labelled`.
        parts: the value of the column `split` of each image in lower case; None where there is no such column.

    Raises:
        DataError: the table cannot be read, lacks a column, a label or a value of `split`; or an image is not there.
        MissingExtraError: see `read_table`.
    """

    def __init__(
        self,
        table: str | os.PathLike[str],
        settings: TableSettings | None = None,
        labelled: bool = False,
        classes: Sequence[str] | None = None,
        problem: str | None = None,
        smallest_side: int = 1,
    ) -> None:
        settings = settings or TableSettings()
        self.table = Path(table)
        self.folder = settings.image_folder or self.table.parent
        self.smallest_side = smallest_side
        columns = read_table(self.table)
        name = path_column(columns, settings.path_column)
        columns = _rows_of(columns, settings.split, self.table)
        self._names = _names(columns[name], self.folder, self.table, name)
        self.paths = _paths(self._names, self.folder, self.table)
        split = columns.get(SPLIT)
        self.parts = None if split is None or settings.split else [str(value).strip().lower() for value in split]
        self.labels: np.ndarray | None = None
        self.classes: list[str] = []
        if labelled:
            wanted = label_columns(columns, settings.label_columns, name, (SPLIT,))
            try:
                found = labels_of(columns, wanted, classes, problem or settings.problem_type, self._shown)
            except DataError as error:
                raise DataError(f"{printable(self.table)}: {error}") from error
            self.labels, self.classes = found

    def _shown(self, row: int) -> str:
        return printable(self._names[row])

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB, upright. Raises DataError when it is damaged, too small or too large."""
        return read_image(self.paths[index], self.smallest_side)

    def target(self, index: int) -> Any:
        """The label of image `index`, a row of `labels`; 0 without labels."""
        return 0 if self.labels is None else self.labels[index]

    def name(self, index: int) -> str:
        """The path of the file."""
        return self.paths[index]

    def fingerprint(self) -> str:
        """The same for the same paths in the table, labels and classes; files are not opened."""
        labels = b"" if self.labels is None else np.ascontiguousarray(self.labels).tobytes()
        return fingerprint_of(os.fsencode("\n".join(self._names)), labels, os.fsencode("\n".join(self.classes)))

    def subset(self, indices: np.ndarray) -> TableImages:
        """Only the images with these numbers, in this order."""
        part = copy.copy(self)
        part.paths, part._names = [self.paths[i] for i in indices], [self._names[i] for i in indices]
        part.parts = None if self.parts is None else [self.parts[i] for i in indices]
        part.labels = None if self.labels is None else self.labels[indices]
        return part

    def in_part(self, names: Sequence[str]) -> TableImages | None:
        """Only the images whose `split` is one of these names; None where there is none."""
        rows = [row for row, part in enumerate(self.parts or ()) if part in names]
        return self.subset(np.array(rows)) if rows else None


def _rows_of(columns: Columns, split: str | None, table: Path) -> Columns:
    if split is None:
        return columns
    if SPLIT not in columns:
        raise DataError(f"{printable(table)} has no column {SPLIT}, so no rows of {printable(split)!r} can be chosen.")
    rows = [row for row, value in enumerate(columns[SPLIT]) if str(value).strip().lower() == split.lower()]
    if not rows:
        there = sorted({str(value) for value in columns[SPLIT]})
        raise DataError(
            f"{printable(table)} has no row with {SPLIT} {printable(split)!r}; there are {', '.join(there[:6])}."
        )
    return {name: [values[row] for row in rows] for name, values in columns.items()}


def _names(values: list[Any], folder: Path, table: Path, column: str) -> list[str]:
    """The paths of the images as the table has them.

    Names without a suffix, such as numbers of images, get the one that the first image has in the folder.

    Raises:
        DataError: a row has no path.
    """
    empty = [row for row, value in enumerate(values) if value is None or not str(value).strip()]
    if empty:
        raise DataError(
            f"{printable(table)}: {len(empty)} rows have no {column}, row {empty[0] + 1} first (below the header)."
        )
    names = [str(value).strip() for value in values]
    suffix = _suffix(folder, names[0])
    return [name + suffix for name in names] if suffix else names


def _paths(names: list[str], folder: Path, table: Path) -> list[str]:
    """Where the images are. Raises DataError when one is not there."""
    paths = [os.path.join(folder, name) for name in names]
    absent = [path for path in paths if not os.path.isfile(path)]
    if absent:
        raise DataError(
            f"{printable(table)} names {len(absent)} images that are not there, of {len(paths)}; the first is {printable(absent[0])}. "
            "Paths begin in the table's folder, unless --image-folder says another."
        )
    return paths


def _suffix(folder: Path, name: str) -> str:
    path = os.path.join(folder, name)
    if os.path.isfile(path) or name.lower().endswith(SUFFIXES):
        return ""
    return next((suffix for suffix in SUFFIXES if os.path.isfile(path + suffix)), "")

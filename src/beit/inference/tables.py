"""Rows of plain values as files for other programs: CSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from beit.core.errors import ConfigError, require
from beit.core.files import atomic_path, check_folder
from beit.core.text import as_utf8

TABLES = (".csv", ".jsonl", ".parquet")
_ROWS = 10_000  # of a Parquet file that are written at a time

Row = Mapping[str, str | int | float | None]


def check_table(path: Path, may_exist: bool = False) -> None:
    """Check, before the work, that a table can be written.

    Args:
        path: of the file.
        may_exist: it is not refused where it exists.

    Raises:
        ConfigError: another suffix than those of `TABLES`, or the file exists.
        DataError: its folder cannot be written.
        MissingExtraError: pyarrow is not installed.
    """
    if path.suffix not in TABLES:
        raise ConfigError(f"output is {path}; its name must end in {', '.join(TABLES)}.")
    if path.exists() and not may_exist:
        raise ConfigError(f"{path} exists already. Give a new name, or remove it; nothing was written.")
    if path.suffix == ".parquet":
        require("pyarrow.parquet", "train", "parquet files")
    check_folder(path.parent, "the file")


def write_rows(path: Path, columns: Mapping[str, type], rows: Iterable[Row]) -> None:
    """Write rows; the file appears when it is whole. A value that is None, or is not there, is empty in CSV and null in Parquet, and
    left out in JSON lines.

    Args:
        path: its suffix is one of `TABLES`.
        columns: names of the columns, and the types of their values: str, int or float.
        rows: {column: value}.

    Raises:
        CheckpointError: the file could not be written.
        MissingExtraError: pyarrow is not installed.
    """
    rows = ({name: as_utf8(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows)
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            _write_parquet(temporary, columns, rows)
            return
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                writer = csv.DictWriter(file, list(columns))
                writer.writeheader()
                writer.writerows(rows)
                return
            for row in rows:
                said = {name: row[name] for name in columns if row.get(name) is not None}
                file.write(json.dumps(said, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, columns: Mapping[str, type], rows: Iterable[Row]) -> None:
    arrow = require("pyarrow", "train", "parquet files")
    parquet = require("pyarrow.parquet", "train", "parquet files")
    kinds: Mapping[type, Any] = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(path, schema) as writer:
        held: list[Row] = []
        for row in rows:
            held.append(row)
            if len(held) == _ROWS:
                writer.write_table(arrow.Table.from_pylist(held, schema=schema))
                held = []
        writer.write_table(arrow.Table.from_pylist(held, schema=schema))

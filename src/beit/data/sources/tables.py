"""Tables of images: CSV, TSV, JSON, JSON lines or Parquet → columns. Which column means what is in `table_labels.py`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from beit.core.errors import DataError, require
from beit.core.text import printable

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
Columns = dict[str, list[Any]]


def is_table(source: str | Path) -> bool:
    """Whether a name is a table's, by its suffix."""
    return str(source).lower().endswith(TABLES)


def read_table(path: str | Path) -> Columns:
    """The columns of a table, by name; all of one length, at least one row.

    Args:
        path: `.csv` (separated by commas, semicolons or tabs, whichever its first line has most of) or `.tsv`, with the names of the
            columns in the first line; `.jsonl`, one object per line; `.json`, a list of objects; or `.parquet`. Text is UTF-8.

    Raises:
        DataError: the file cannot be read, a row has more or fewer values than there are columns, a name of a column is empty or
            there twice, or there is no row.
        MissingExtraError: a Parquet file, and pyarrow is not installed.
    """
    path = Path(path)
    try:
        columns = _reader(path)(path)
    except (OSError, UnicodeDecodeError, csv.Error, RecursionError) as error:
        raise DataError(f"{printable(path)} cannot be read: {error}. Wanted a table in UTF-8.") from error
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(
            f"{printable(path)} has no rows. Wanted one row per image, below a line with the names of the columns."
        )
    return columns


def _reader(path: Path) -> Callable[[Path], Columns]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _separated
    return {".json": _json, ".parquet": _parquet}.get(suffix, _json_lines)


def _separated(path: Path) -> Columns:
    with open(path, encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
        lines = csv.reader(file, delimiter=separator, strict=True)
        names = [name.strip() for name in next(lines, [])]
        _check_names(path, names)
        rows: list[list[str]] = []
        for row in lines:
            if not row:  # an empty line
                continue
            if len(row) != len(names):
                raise DataError(
                    f"{printable(path)}, line {lines.line_num}: {len(row)} values for {len(names)} columns. Quote a value that has "
                    f"{separator!r} in it."
                )
            rows.append(row)
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _check_names(path: Path, names: list[str]) -> None:
    wrong = next((name for name in names if not name or names.count(name) > 1), None)
    if wrong is not None:
        what = f"two columns {printable(wrong)!r}" if wrong else "a column without a name"
        raise DataError(f"{printable(path)} has {what}. Wanted the names of the columns in the first line, each once.")


def _json_lines(path: Path) -> Columns:
    def objects() -> Iterator[tuple[str, Any]]:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"line {number}", _parsed(path, line, f", line {number}")

    return _columns(path, objects())


def _json(path: Path) -> Columns:
    found = _parsed(path, path.read_text(encoding="utf-8-sig"), "")
    if not isinstance(found, list):
        raise DataError(f"{printable(path)} holds a {type(found).__name__}; wanted a list of objects, one per image.")
    return _columns(path, ((f"entry {number}", entry) for number, entry in enumerate(found, 1)))


def _parsed(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{printable(path)}{where} is no JSON: {error}.") from error


def _columns(path: Path, entries: Iterator[tuple[str, Any]]) -> Columns:
    """The columns of objects; None where an object lacks one."""
    columns: Columns = {}
    for count, (where, entry) in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(
                f'{printable(path)}, {where}: a {type(entry).__name__}; wanted an object, such as {{"image": …}}.'
            )
        for name in entry:
            if name not in columns:
                columns[name] = [None] * count
        for name, values in columns.items():
            values.append(entry.get(name))
    return columns


def _parquet(path: Path) -> Columns:
    parquet = require("pyarrow.parquet", "train", "parquet files")
    arrow = require("pyarrow", "train", "parquet files")
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, ValueError) as error:
        raise DataError(f"{printable(path)} is no Parquet file: {error}.") from error
    names = list(table.column_names)
    _check_names(path, names)
    return {name: table.column(name).to_pylist() for name in names}

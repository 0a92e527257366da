"""What a model says of many images, as files: tables for other programs, and folders of sorted images."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from beit.core.errors import CheckpointError, ConfigError, require
from beit.core.files import atomic_path, read_json
from beit.core.text import as_utf8
from beit.inference.classification import Prediction
from beit.inference.tables import TABLES

_ROWS = 1000  # of a Parquet file that are written at a time
UNSURE = "unsure"


Threshold = float | Mapping[str, float]


def chosen(prediction: Prediction, threshold: Threshold, several: bool) -> list[str]:
    """The classes that are given for an image.

    Args:
        prediction: of a classifier.
        threshold: least probability; or that of each class by its name, where those that are not named have one half.
        several: whether an image may have several classes; else the most probable one is given, if it reaches the threshold.
    """
    labels = prediction.get("labels", [])[: None if several else 1]

    def least(name: str) -> float:
        return threshold if isinstance(threshold, float | int) else threshold.get(name, 0.5)

    return [label["label"] for label in labels if label.get("probability", 0.0) >= least(label["label"])]


def best_thresholds(model: str) -> dict[str, float]:
    """The threshold with the highest F1 of each label, as the evaluation in a model's folder has it.

    A label that no image had when it was measured is left out.

    Raises:
        ConfigError: the model is no folder with such an evaluation.
    """
    path = Path(model).expanduser() / "evaluation.json"
    try:
        rows = read_json(path)["labels"]
        return {str(row["name"]): float(row["threshold"]) for row in rows if row["threshold"] is not None}
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"--threshold best takes the thresholds in {path}, which has none: it is written by fine-tuning on images with several "
            f"labels, or by beit evaluate --output {model}. Give a number from 0 to 1."
        ) from error


class Table(Protocol):
    """A file that is being written."""

    def add(self, prediction: Prediction, classes: Sequence[str]) -> None:
        """Add the row of an image; `classes` are those that `chosen` gives."""
        ...


@contextlib.contextmanager
def table(path: Path, top: int) -> Iterator[Table]:
    """Write a table of predictions; it appears under its name when the `with` ends without an error.

    A row has the image, the class (several are separated by `; `), its probability, why the image could not be read, and the
    `top` most probable classes with their probabilities: in CSV as columns class_1, probability_1, …; in Parquet as two lists;
    in JSON lines as `labels`, as `beit predict --json` prints them.

    Args:
        path: its suffix is one of `TABLES`.
        top: how many classes an image has in CSV.

    Raises:
        ConfigError: another suffix.
        MissingExtraError: pyarrow is not installed.
    """
    kinds: Mapping[str, Any] = {".csv": _Csv, ".jsonl": _Lines, ".parquet": _Parquet}
    if path.suffix not in kinds:
        raise ConfigError(f"output is {path}; its name must end in {', '.join(TABLES)}.")
    with atomic_path(path) as temporary:
        found = kinds[path.suffix](temporary, top)
        try:
            yield found
        finally:
            found.close()


def _probability(prediction: Prediction, classes: Sequence[str]) -> float | None:
    """Of the first class that is given."""
    known = {label["label"]: label.get("probability") for label in prediction.get("labels", [])}
    return known.get(classes[0]) if classes else None


class _Csv:
    def __init__(self, path: Path, top: int) -> None:
        self.file = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115  (closed in close)
        self.top = top
        self.writer = csv.writer(self.file)
        ranked = [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("class", "probability")]
        self.writer.writerow(["image", "class", "probability", "error", *ranked])

    def add(self, prediction: Prediction, classes: Sequence[str]) -> None:
        """As `Table.add`."""
        row: list[Any] = [as_utf8(prediction["image"]), "; ".join(classes), _probability(prediction, classes)]
        row.append(as_utf8(prediction.get("error", "")))
        for label in prediction.get("labels", [])[: self.top]:
            row += [label["label"], label.get("probability", label.get("value"))]
        row += [""] * (4 + 2 * self.top - len(row))
        self.writer.writerow(["" if cell is None else cell for cell in row])

    def close(self) -> None:
        self.file.close()


class _Lines:
    def __init__(self, path: Path, top: int) -> None:
        self.file = open(path, "w", encoding="utf-8")  # noqa: SIM115  (closed in close)

    def add(self, prediction: Prediction, classes: Sequence[str]) -> None:
        """As `Table.add`."""
        row: dict[str, Any] = {"image": as_utf8(prediction["image"]), "classes": list(classes)}
        if "error" in prediction:
            row["error"] = as_utf8(prediction["error"])
        else:
            row["labels"] = prediction.get("labels", [])
        self.file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self.file.close()


class _Parquet:
    def __init__(self, path: Path, top: int) -> None:
        self.arrow = require("pyarrow", "train", "parquet files")
        parquet = require("pyarrow.parquet", "train", "parquet files")
        text, number = self.arrow.string(), self.arrow.float64()
        self.schema = self.arrow.schema(
            [
                ("image", text), ("class", text), ("probability", number), ("error", text),
                ("classes", self.arrow.list_(text)), ("probabilities", self.arrow.list_(number)),
            ]
        )  # fmt: skip
        self.writer = parquet.ParquetWriter(path, self.schema)
        self.rows: list[dict[str, Any]] = []

    def add(self, prediction: Prediction, classes: Sequence[str]) -> None:
        """As `Table.add`."""
        labels = prediction.get("labels", [])
        self.rows.append(
            {
                "image": as_utf8(prediction["image"]),
                "class": "; ".join(classes) or None,
                "probability": _probability(prediction, classes),
                "error": as_utf8(prediction["error"]) if "error" in prediction else None,
                "classes": [label["label"] for label in labels],
                "probabilities": [label.get("probability", label.get("value")) for label in labels],
            }
        )
        if len(self.rows) == _ROWS:
            self._write()

    def _write(self) -> None:
        if self.rows:
            self.writer.write_table(self.arrow.Table.from_pylist(self.rows, schema=self.schema))
            self.rows = []

    def close(self) -> None:
        self._write()
        self.writer.close()


class Sorted:
    """Puts images into one folder per class, under their own names.

    Args:
        folder: where these folders are made.
        classes: names of the classes. What is no name of a folder is replaced in them.
        link: make symbolic links instead of copies.
    """

    def __init__(self, folder: Path, classes: Sequence[str], link: bool = False) -> None:
        self.folder, self.link = folder, link
        self._names: dict[str, str] = {}
        taken = {UNSURE}  # in small letters: some systems do not tell A from a
        for number, name in enumerate(classes):
            safe = re.sub(r"[^\w .,()+-]", "_", name).strip(". ")[:100] or "_"
            self._names[name] = safe if safe.lower() not in taken else f"{safe} {number}"
            taken.add(self._names[name].lower())

    def add(self, image: str, classes: Sequence[str]) -> None:
        """Put an image into the folder of each of its classes, or into that of the unsure ones.

        Raises:
            OSError: it cannot be read or written.
        """
        for name in [self._names[name] for name in classes] or [UNSURE]:
            place = self.folder / name
            place.mkdir(parents=True, exist_ok=True)
            target = self._free(place / os.path.basename(image))
            if self.link:
                target.symlink_to(os.path.abspath(image))
            else:
                with atomic_path(target) as temporary:
                    shutil.copy2(image, temporary)

    @staticmethod
    def _free(path: Path) -> Path:
        """A path that nothing is at: images of several folders may have one name."""
        found, number = path, 2
        while os.path.lexists(found):
            found = path.with_name(f"{path.stem}-{number}{path.suffix}")
            number += 1
        return found

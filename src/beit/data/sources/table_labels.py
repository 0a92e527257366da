"""What the columns of a table say about its images: one class each, several labels each, or numbers."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from beit.core.errors import DataError
from beit.core.suggest import did_you_mean, similar
from beit.core.text import printable
from beit.data.sources.tables import Columns

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
PATHS = (
    "path",
    "image",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image_path",
    "img",
    "image_id",
    "id",
)
LABELS = ("label", "labels", "class", "class_name", "category", "target", "y", "tags")
SEPARATORS = "|;"
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")

logger = logging.getLogger("beit")


class TableLabels(NamedTuple):
    """Labels of n images.

    Attributes:
        labels: int64 `(n,)`, the class of each; bool `(n, classes)`, which labels each has; or float64 `(n, numbers)`.
        classes: names of the classes, or of the numbers.
    """

    labels: np.ndarray
    classes: list[str]


def problem_of(labels: np.ndarray) -> str:
    """The `problem_type` that labels of this shape and type are for; see `TableLabels`."""
    if labels.ndim == 1:
        return SINGLE
    return MULTI if labels.dtype == bool else REGRESSION


def path_column(columns: Columns, wanted: str | None) -> str:
    """The column with the paths of the images: the one that is wanted, or the first with a usual name.

    Raises:
        DataError: there is none.
    """
    if wanted is not None:
        return _known(columns, wanted, "path_column")
    lower = {name.lower(): name for name in reversed(columns)}
    for name in PATHS:
        if name in lower:
            return lower[name]
    raise DataError(
        f"No column is known to hold the images' paths; there are {_few(list(columns))}. Name it: --path-column NAME."
    )


def label_columns(columns: Columns, wanted: Sequence[str] | None, paths: str, others: Sequence[str] = ()) -> list[str]:
    """The columns with the labels: those that are wanted; one with a usual name; or all others, where there is one or all hold 0 and 1.

    Raises:
        DataError: none is known.
    """
    if wanted is not None:
        twice = [name for name, count in Counter(wanted).items() if count > 1]
        if twice or paths in wanted:
            raise DataError(
                f"--label-columns has {printable((twice or [paths])[0])}, which is named twice or holds the paths."
            )
        return [_known(columns, name, "label_columns") for name in wanted]
    lower = {name.lower(): name for name in reversed(columns) if name != paths}
    for name in LABELS:
        if name in lower:
            return [lower[name]]
    rest = [name for name in columns if name != paths and name not in others]
    if len(rest) == 1 or (rest and all(_yes_or_no(value) is not None for name in rest for value in columns[name])):
        return rest
    raise DataError(
        f"No column is known to hold the labels; beside {printable(paths)} there are {_few(rest) or 'none'}. Name it: --label-columns "
        "NAME, or several names for columns of 0 and 1, or of numbers."
    )


def _known(columns: Columns, name: str, setting: str) -> str:
    if name not in columns:
        raise DataError(
            f"{setting} is {printable(name)!r}, but the columns are {_few(list(columns))}.{did_you_mean(similar(name, columns))}"
        )
    return name


def labels_of(
    columns: Columns,
    names: Sequence[str],
    classes: Sequence[str] | None = None,
    problem: str | None = None,
    image: Callable[[int], str] = str,
) -> TableLabels:
    """The labels in columns.

    Args:
        columns: of the table.
        names: of the columns with labels.
        classes: names of the classes or numbers in their order, where a trained model or a list sets them.
        problem: what the labels are; None to find out: several columns of 0 and 1, lists, or texts with `|` or `;` in them are
            several labels an image; numbers with a fraction are a regression; all else is one class an image.
        image: (row) → what to call it in a message.

    Raises:
        DataError: a label is missing, is none of the classes, or cannot be what `problem` says.
    """
    values = {name: columns[name] for name in names}
    problem = problem or _guess(values)
    if problem == REGRESSION:
        return _numbers(values, classes, image)
    if problem == MULTI:
        return (
            _columns_of_labels(values, classes, image) if len(names) > 1 else _lists(values[names[0]], classes, image)
        )
    if len(names) > 1:
        raise DataError(
            f"One class an image stands in one column; got {_few(list(names))}. Name one with --label-columns."
        )
    return _classes(values[names[0]], classes, image)


def _guess(values: dict[str, list[Any]]) -> str:
    if len(values) > 1:
        yes_or_no = all(_yes_or_no(value) is not None for column in values.values() for value in column)
        return MULTI if yes_or_no else REGRESSION
    column = next(iter(values.values()))
    if any(isinstance(value, list) for value in column):
        return MULTI
    numbers = [_number(value) for value in column if not _missing(value)]
    if numbers and all(number is not None for number in numbers):
        return REGRESSION if any(not float(number or 0).is_integer() for number in numbers) else SINGLE
    several = any(isinstance(value, str) and any(sign in value for sign in SEPARATORS) for value in column)
    return MULTI if several else SINGLE


# --- one class an image ----------------------------------------------------------------------------------------------


def _classes(column: list[Any], classes: Sequence[str] | None, image: Callable[[int], str]) -> TableLabels:
    missing = [row for row, value in enumerate(column) if _missing(value)]
    if missing:
        raise DataError(
            f"{len(missing)} rows have no label, for example that of {image(missing[0])}. Give one, or take them out."
        )
    texts = [_text(value) for value in column]
    known = _known_classes(texts, classes)
    number = {name: i for i, name in enumerate(known)}
    return TableLabels(np.array([number[text] for text in texts], np.int64), _named(known, classes))


def _known_classes(texts: list[str], classes: Sequence[str] | None) -> list[str]:
    """What the labels in a table are called, in the order of the classes: their names, or their numbers.

    Raises:
        DataError: a label is none of them.
    """
    found = set(texts)
    if classes is None:
        # Whole numbers in their own order, so that classes 0 … n keep their numbers; other names by the alphabet.
        return sorted(found, key=int) if all(text.isdecimal() and text.isascii() for text in found) else sorted(found)
    if len(set(classes)) < len(classes):
        raise DataError("The model has several classes of one name; a table cannot tell them apart.")
    unknown = sorted(found - set(classes))
    if not unknown:
        return list(classes)
    numbers = [str(number) for number in range(len(classes))]
    if found <= set(numbers):
        logger.warning(
            "The labels in the table are taken for class numbers: 0 is %s, and so on.", printable(classes[0])
        )
        return numbers
    raise DataError(f"The table has labels that are no known class: {_few(unknown)}. Known are {_few(list(classes))}.")


def _named(known: list[str], classes: Sequence[str] | None) -> list[str]:
    return known if classes is None else list(classes)


# --- several labels an image -----------------------------------------------------------------------------------------


def _lists(column: list[Any], classes: Sequence[str] | None, image: Callable[[int], str]) -> TableLabels:
    given = [_split(value) for value in column]
    known = _known_classes([text for texts in given for text in texts], classes)
    number = {name: i for i, name in enumerate(known)}
    labels = np.zeros((len(given), len(known)), bool)
    for row, texts in enumerate(given):
        labels[row, [number[text] for text in texts]] = True
    return _several(labels, _named(known, classes))


def _split(value: Any) -> list[str]:
    if isinstance(value, list):
        return [_text(item) for item in value if not _missing(item)]
    if _missing(value):
        return []
    text = _text(value)
    separator = next((sign for sign in SEPARATORS if sign in text), "|")
    return [part.strip() for part in text.split(separator) if part.strip()]


def _columns_of_labels(
    values: dict[str, list[Any]], classes: Sequence[str] | None, image: Callable[[int], str]
) -> TableLabels:
    names = _in_order(list(values), classes)
    labels = np.zeros((len(next(iter(values.values()))), len(names)), bool)
    for number, name in enumerate(names):
        for row, value in enumerate(values[name]):
            answer = _yes_or_no(value)
            if answer is None:
                raise DataError(
                    f"Column {printable(name)} has {printable(repr(value), 40)} for {image(row)}; wanted 1 where the image has the "
                    "label and 0 where it does not. Leave out rows or columns in which that is not known."
                )
            labels[row, number] = answer
    return _several(labels, _named(names, classes))


def _several(labels: np.ndarray, classes: list[str]) -> TableLabels:
    if not labels.any():
        raise DataError("No image in the table has a label.")
    return TableLabels(labels, classes)


def _yes_or_no(value: Any) -> bool | None:
    text = str(value).strip().lower()
    return True if text in _YES else False if text in _NO else None


# --- numbers ---------------------------------------------------------------------------------------------------------


def _numbers(values: dict[str, list[Any]], names: Sequence[str] | None, image: Callable[[int], str]) -> TableLabels:
    order = _in_order(list(values), names)
    labels = np.zeros((len(next(iter(values.values()))), len(order)), np.float64)
    for number, name in enumerate(order):
        for row, value in enumerate(values[name]):
            found = None if _missing(value) else _number(value)
            if found is None:
                raise DataError(
                    f"Column {printable(name)} has {printable(repr(value), 40)} for {image(row)}; wanted a finite number."
                )
            labels[row, number] = found
    return TableLabels(labels, _named(order, names))


def _in_order(columns: list[str], names: Sequence[str] | None) -> list[str]:
    """The columns in the order of the model's names. Raises DataError where they are others."""
    if names is None or list(names) == columns or (len(names) == 1 == len(columns)):
        return columns
    if set(names) != set(columns):
        raise DataError(
            f"The labels are in columns {_few(columns)}; the model knows {_few(list(names))}. Wanted the same."
        )
    return list(names)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def _text(value: Any) -> str:
    """A label as text; 3.0 is 3."""
    if isinstance(value, dict | list | bytes):
        raise DataError(f"A label is {printable(repr(value), 60)}; wanted a text or a number.")
    text = str(value).strip()
    head, _, tail = text.partition(".")
    return head if tail and not tail.strip("0") and head.isdecimal() else text


def _few(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(printable(name, 60) for name in names[:most]) + ", …" * (len(names) > most)

"""Folders of a data set that comes in parts: train/, val/ and test/, each with the classes as subfolders."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation", "dev", "eval")
TEST = ("test", "testing")
PARTS = frozenset((*TRAIN, *VALIDATION, *TEST))


class Splits(NamedTuple):
    """The folders of a data set's parts.

    Attributes:
        train: to learn from.
        validation: to measure on while training; the test folder where there is no other; None where there is neither.
        test: kept for the end, where there is a validation folder too; else None.
    """

    train: Path
    validation: Path | None
    test: Path | None


def splits_of(folder: str | Path) -> Splits | None:
    """The parts of a data set, where all subfolders of a folder are such and one is for training; else None.

    The names count in any case: `train`, `val`, `valid`, `validation`, `dev`, `eval`, `test` and the like. Hidden folders do not
    count.
    """
    try:
        names = {path.name.lower(): path for path in sorted(Path(folder).iterdir()) if _visible(path)}
    except OSError:  # no folder, or none of ours: whoever opens it says so
        return None
    train = _first(names, TRAIN)
    if train is None or not names.keys() <= PARTS:
        return None
    validation, test = _first(names, VALIDATION), _first(names, TEST)
    return Splits(train, validation or test, test if validation is not None else None)


def _visible(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _first(names: dict[str, Path], wanted: tuple[str, ...]) -> Path | None:
    return next((names[name] for name in wanted if name in names), None)

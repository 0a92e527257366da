"""Names of classes from a text file."""

from __future__ import annotations

from pathlib import Path

from beit.core.errors import DataError


def read_classes(path: Path) -> list[str]:
    """The names of the classes in a text file, one per line; empty lines are ignored.

    Raises:
        DataError: the file cannot be read, has fewer than two names, or has one twice.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Give a text file with one class name per line.") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or twice:
        got = f"{twice[0]!r} twice" if twice else f"{len(names)} names"
        raise DataError(f"{path} has {got}; wanted the names of at least two classes, one per line, each once.")
    return names

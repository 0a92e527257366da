"""Label maps in colour: a table of colours → classes, read from a file, and pixels → class numbers by it."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beit.core.errors import DataError, InputError
from beit.core.text import printable

# How people call pixels without a label.
_VOID = frozenset("void unlabelled unlabeled ignore ignored border void/border boundary void/boundary".split())
_UNKNOWN, _NO_LABEL = -2, -1
_FORMS = (
    "Wanted a class and its colour per line (128 64 128 road; or road,128,64,128; or CSV with the columns name, r, g, b), or JSON "
    'such as {"road": [128, 64, 128], "car": "#00008e"}'
)
_SHOWN = 5  # colours in a message

_Row = tuple[str, tuple[int, int, int]]


@dataclass(frozen=True)
class ColourTable:
    """Which class each colour means. Its repr is part of a run's fingerprint: keep the names of the fields.

    Attributes:
        file: where the table comes from, for messages.
        names: of the classes, in the order of the table.
        colours: (packed colour r·65536 + g·256 + b, class number) pairs; the number is -1 for no label.
        unknown_is_void: whether a colour that the table does not have means no label; else it is an error.
    """

    file: str
    names: tuple[str, ...]
    colours: tuple[tuple[int, int], ...]
    unknown_is_void: bool = False

    def __repr__(self) -> str:
        return f"ColourTable({self.names}, {self.colours}, {self.unknown_is_void})"  # the same table in another place

    @classmethod
    def read(cls, path: str | os.PathLike[str], unknown_is_void: bool = False) -> ColourTable:
        """A table from a file: JSON, CSV, or lines such as `128 64 128 road` and `road:128,64,128::`.

        A class may have several colours. A class called void, unlabelled, ignore or border is no label.

        Raises:
            DataError: the file cannot be read, has another form, gives one colour to two classes, or has fewer than two classes.
        """
        rows = _rows(Path(path))
        numbers: dict[str, int] = {}
        colours: dict[int, int] = {}
        for name, (red, green, blue) in rows:
            number = _NO_LABEL if name.lower() in _VOID else numbers.setdefault(name, len(numbers))
            packed = red << 16 | green << 8 | blue
            if colours.setdefault(packed, number) != number:
                other = next((known for known, found in numbers.items() if found == colours[packed]), "no label")
                raise DataError(
                    f"{path}: the colour {_named(packed)} means both {printable(other)} and {printable(name)}. Wanted each colour "
                    "once."
                )
        if len(numbers) < 2:
            raise DataError(f"{path} has {len(numbers)} classes; wanted at least two. {_FORMS}.")
        return cls(os.fspath(path), tuple(numbers), tuple(colours.items()), unknown_is_void)

    @property
    def void(self) -> list[str]:
        """The colours that mean no label, for people."""
        return [_named(packed) for packed, number in self.colours if number == _NO_LABEL]

    def numbers(self, image: Image.Image, name: str, ignore_index: int) -> tuple[np.ndarray, int]:
        """A map in colour → (class numbers int64 `(H, W)`, how many pixels have an unknown colour and count as no label).

        Args:
            image: in any mode of 8 bits; of a palette image, the palette's colours count. Alpha is ignored.
            name: what to call it in a message.
            ignore_index: the number for "no label".

        Raises:
            InputError: it has another mode; or unknown colours, unless they mean no label.
        """
        if image.mode.startswith(("I", "F")):
            raise InputError(
                f"{name} has mode {image.mode}, numbers and no colours; leave out --colors for such label maps."
            )
        mode = image.mode
        if mode not in ("RGB", "RGBA"):
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        # Pillow keeps four bytes per pixel, red first: read as one number, red is its lowest byte.
        pixels = np.frombuffer(image.convert("RGBA").tobytes(), "<u4") & 0xFFFFFF
        found = _lookup(self.colours)[pixels].reshape(image.height, image.width)
        strange = found == _UNKNOWN
        unknown = int(np.count_nonzero(strange))
        if unknown and not self.unknown_is_void:
            raise InputError(self._message(pixels.reshape(found.shape), strange, name, mode))
        return np.where(found < 0, ignore_index, found).astype(np.int64), unknown

    def _message(self, pixels: np.ndarray, strange: np.ndarray, name: str, mode: str) -> str:
        colours, first, counts = np.unique(pixels[strange], return_index=True, return_counts=True)
        rows, columns = np.nonzero(strange)
        kinds = []
        for i in np.argsort(-counts, kind="stable")[:_SHOWN]:
            red, green, blue = (int(colours[i]) >> shift & 255 for shift in (0, 8, 16))
            place = f"column {columns[first[i]]}, row {rows[first[i]]}"
            kinds.append(f"{_named(red << 16 | green << 8 | blue)} {counts[i]:,} times, first in {place}")
        more = f"; and {len(colours) - _SHOWN:,} other colours" if len(colours) > _SHOWN else ""
        hint = " Colours that are blended at edges come from resizing with interpolation or from JPEG." if more else ""
        if mode == "L":
            hint = " It is a grey image: if it holds class numbers, leave out --colors."
        return (
            f"{name}: {len(rows):,} of {strange.size:,} pixels have colours that {self.file} does not have: {'; '.join(kinds)}{more}."
            f"{hint} Add them to the table, or let them count as no label with --unknown-colors void."
        )


@functools.lru_cache(maxsize=4)
def _lookup(colours: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Number of each of the 2^24 colours, int16; red in the lowest byte."""
    table = np.full(1 << 24, _UNKNOWN, np.int16)
    for packed, number in colours:
        table[(packed & 255) << 16 | packed & 0xFF00 | packed >> 16] = number
    table.setflags(write=False)
    return table


def _named(packed: int) -> str:
    """`(128, 64, 128)`."""
    return f"({packed >> 16}, {packed >> 8 & 255}, {packed & 255})"


# --- files -----------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> list[_Row]:
    """(name, colour) in the order of the file. Raises DataError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}). {_FORMS}.") from error
    if path.suffix.lower() == ".json" or text.lstrip().startswith(("{", "[")):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not valid JSON: {error}.") from error
        return _json_rows(content, path)
    lines = [
        (number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip() and line.strip()[0] != "#"
    ]
    return _columns(lines, path) or [_line(number, line, path) for number, line in lines]


def _json_rows(content: Any, path: Path) -> list[_Row]:
    """Rows of {name: colour}, {name: [colour, colour]} or a list of {"name": …, "color": …}."""
    if isinstance(content, dict):
        inner = [content[key] for key in ("classes", "labels", "categories") if isinstance(content.get(key), list)]
        if inner:
            return _json_rows(inner[0], path)
        entries: list[tuple[Any, ...]] = list(content.items())
    elif isinstance(content, list) and all(isinstance(entry, dict) for entry in content):
        keys = (("name", "title", "label", "class"), ("color", "colour", "rgb"))
        entries = [
            tuple(next((entry[key] for key in some if key in entry), None) for some in keys) for entry in content
        ]
    else:
        raise DataError(f"{path} holds neither an object nor a list of objects. {_FORMS}.")
    rows: list[_Row] = []
    for name, colour in entries:
        several = isinstance(colour, list) and colour and isinstance(colour[0], list)
        for one in colour if several else [colour]:
            rows.append((_name(name, path), _colour(one, f"{path}: {printable(name)}")))
    return rows


def _columns(lines: list[tuple[int, str]], path: Path) -> list[_Row]:
    """Rows of a CSV file with a header that names the columns; none for a file without one."""
    if not lines:
        return []
    delimiter = max(",;\t", key=lines[0][1].count)
    header = [cell.strip().strip('"').lower() for cell in lines[0][1].split(delimiter)]
    where = []
    for some in (("r", "red"), ("g", "green"), ("b", "blue"), ("name", "class", "label", "title", "class_name")):
        found = [header.index(word) for word in some if word in header]
        if not found:
            return []
        where.append(found[0])
    rows: list[_Row] = []
    for (number, _), cells in zip(
        lines[1:], csv.reader((line for _, line in lines[1:]), delimiter=delimiter), strict=False
    ):
        if len(cells) <= max(where):
            raise DataError(f"{path}, line {number}: {len(cells)} columns; the header has {len(header)}.")
        rows.append((_name(cells[where[3]], path), _colour([cells[i] for i in where[:3]], f"{path}, line {number}")))
    return rows


_GAP = r"[\s,;]+"
_FIRST = re.compile(rf"\s*(\d+){_GAP}(\d+){_GAP}(\d+){_GAP}(\S.*?)\s*")
_LAST = re.compile(rf"\s*(\S.*?)[\s,;:]+(\d+){_GAP}(\d+){_GAP}(\d+)[\s:]*")


def _line(number: int, line: str, path: Path) -> _Row:
    """`128 64 128 road`, `road,128,64,128` and `road:128,64,128::`."""
    first, last = _FIRST.fullmatch(line), _LAST.fullmatch(line)
    if first is not None and not first[4].isdecimal():
        name, colour = first[4], first.groups()[:3]
    elif last is not None:
        name, colour = last[1], last.groups()[1:]
    else:
        raise DataError(f"{path}, line {number}: {printable(line.strip(), 60)!r} is no class with a colour. {_FORMS}.")
    return _name(name, path), _colour(list(colour), f"{path}, line {number}")


def _name(name: Any, path: Path) -> str:
    if not isinstance(name, str) or not name.strip(' "'):
        raise DataError(f"{path} has a colour without the name of a class. {_FORMS}.")
    return name.strip(' "')


def _colour(value: Any, place: str) -> tuple[int, int, int]:
    """Three numbers 0..255 from a list of them, or from `#rrggbb`."""
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value.strip()):
        value = list(bytes.fromhex(value.strip()[1:]))
    numbers = value if isinstance(value, list) else []
    if all(isinstance(part, str) and part.strip().isdecimal() for part in numbers):
        numbers = [int(part) for part in numbers]
    if len(numbers) != 3 or not all(type(part) is int and 0 <= part <= 255 for part in numbers):
        raise DataError(f"{place}: the colour {printable(value, 60)} is not three numbers from 0 to 255, nor #rrggbb.")
    return numbers[0], numbers[1], numbers[2]

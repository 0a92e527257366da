"""YOLO's labels, a text file of polygons per image, and the folders of ultralytics → images with shapes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from beit.core.errors import DataError
from beit.core.text import printable
from beit.data.label_maps import LabelRules
from beit.data.outlines import OutlineWriter
from beit.data.sources.outlined import OutlinedImages, Unusable, say_counts, with_background
from beit.data.sources.paths import list_images

logger = logging.getLogger("beit")

_NAMED = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt")  # where they are looked for
_ABOVE = 3  # folders above the labels in which they are looked for
_OUTSIDE = 2.0  # a fraction of the image beyond which a coordinate must be a number of pixels


def labels_beside(images: Path) -> Path | None:
    """The folder of YOLO's labels that belongs to `images/train` or `train/images`: the last `images` of the path is `labels`."""
    parts = list(images.parts)
    if "images" not in parts:
        return None
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    folder = Path(*parts)
    return folder if holds_labels(folder) else None


def holds_labels(folder: Path) -> bool:
    """Whether a folder, or a subfolder, has text files of labels and no images of label maps."""
    texts = (path for path in folder.rglob("*.txt") if path.name not in _NAMED)
    return folder.is_dir() and next(texts, None) is not None and not len(list_images(folder))


def yolo_images(
    images: Path, labels: Path, names_file: Path | None, rules: LabelRules, background: bool
) -> OutlinedImages:
    """The images of a folder, each with a text file of polygons: `class x1 y1 x2 y2 …` per line, in fractions of its sides.

    Shapes are painted in the order of the file, later ones over earlier ones. An image without a file has no shapes. Lines that
    cannot be used are counted and named in the log.

    Args:
        images: their folder.
        labels: folder of the text files, with the same names and subfolders.
        names_file: data.yaml or classes.txt; if None, one is looked for in `labels` and the folders above, and without one the
            numbers are the names.
        rules: its ignore index stands for "no label".
        background: whether pixels in no shape are the class background; else they have no label.

    Raises:
        DataError: there is no such folder, no image has labels, the names cannot be read, or more than a tenth of the lines cannot
            be used.
        ConfigError: as `LabelRules.check_classes`.
    """
    if not images.is_dir():
        raise DataError(f"{images} is not a folder. Give a folder with images in it.")
    paths = sorted(list_images(images))
    stems = [os.path.splitext(os.path.relpath(path, images))[0] for path in paths]
    names_file = names_file or _names_beside(labels)
    names = None if names_file is None else _names(names_file)
    unusable = Unusable(labels)
    read = [_lines(labels / f"{stem}.txt", unusable, names, names_file) for stem in stems]
    if all(lines is None for lines in read):
        where = labels / f"{stems[0]}.txt" if stems else labels
        raise DataError(f"None of the {len(paths)} images in {images} has labels; wanted {where} and so on.")
    unusable.say()
    if names is None:
        numbers = [number for lines in read for number, _ in lines or []]
        names = [str(number) for number in range(max(numbers, default=-1) + 1)]
        logger.warning(
            "%s: no data.yaml and no classes.txt; classes have their numbers as names. See --annotations.", labels
        )
    names, shift = with_background(names, background, labels)
    writer = OutlineWriter(fractions=True)
    for lines in read:
        for number, points in lines or []:
            writer.add_polygon(number + shift, points)
        writer.end_image()
    meant = "background" if background else "without a label"
    known = {f"{stem}.txt" for stem in stems}
    lost = sorted(
        os.path.relpath(path, labels)
        for path in labels.rglob("*.txt")
        if path.name not in _NAMED and os.path.relpath(path, labels) not in known
    )
    kinds = [
        (
            [stem for stem, lines in zip(stems, read, strict=True) if not lines],
            f"images without a shape, all of them {meant}",
        )
    ]
    say_counts(labels, [*kinds, (lost, f"files of labels without an image in {images}")])
    sizes = np.zeros((len(paths), 2), np.int64)
    return OutlinedImages(images, paths, writer.outlines(), sizes, names, rules, background, names_file or labels)


def _lines(
    file: Path, unusable: Unusable, names: list[str] | None, names_file: Path | None
) -> list[tuple[int, np.ndarray]] | None:
    """(class number, corners) of each line that can be used; None where there is no such file."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        unusable.total += 1
        unusable.add(str(file), f"cannot be read ({error})")
        return []
    found = []
    for position, line in enumerate(lines, 1):
        if not line.strip():
            continue
        unusable.total += 1
        name = f"{file}, line {position}"
        try:
            number, points = _polygon(line)
            if names is not None and number >= len(names):
                raise DataError(f"class {number}; {names_file} names {len(names)} classes, from 0 on")
        except DataError as error:
            unusable.add(name, str(error))
            continue
        found.append((number, points))
        if points.min() < -0.01 or points.max() > 1.01:
            unusable.add_outside(name)
    return found


def _polygon(line: str) -> tuple[int, np.ndarray]:
    """(class number, corners `(n, 2)`). Raises DataError with the reason alone."""
    try:
        numbers = np.array(line.split(), np.float64)
    except ValueError as error:
        raise DataError(f"{printable(line, 40)!r} is no list of numbers") from error
    if len(numbers) == 5:
        raise DataError("a box of four numbers, and no outline")
    if len(numbers) < 7 or len(numbers) % 2 == 0:
        raise DataError(f"{len(numbers)} numbers; wanted the class, then x and y of three corners or more")
    if not (numbers[0] == np.rint(numbers[0]) and 0 <= numbers[0] < 1e5):
        raise DataError(f"{printable(line.split()[0], 40)} is no class number")
    if not (np.abs(numbers[1:]) <= _OUTSIDE).all():  # also NaN
        raise DataError("coordinates beyond the image; wanted fractions of its width and height, from 0 to 1")
    return int(numbers[0]), numbers[1:].reshape(-1, 2)


def _names_beside(labels: Path) -> Path | None:
    """The file with names in the folder of the labels, or in one above."""
    folders = [labels, *labels.absolute().parents][: _ABOVE + 1]
    return next((folder / name for folder in folders for name in _NAMED if (folder / name).is_file()), None)


def _names(file: Path) -> list[str]:
    """The names of the classes in data.yaml (`names:`, a list or numbers with names) or in a text file, one per line."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read ({error}). Wanted data.yaml or classes.txt with the names of the classes."
        ) from error
    if file.suffix.lower() == ".txt":
        names: Any = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        import yaml

        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise DataError(f"{file} is not valid YAML: {printable(' '.join(str(error).split()), 200)}.") from error
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict):
            if set(names) != set(range(len(names))):
                raise DataError(
                    f"{file}: the numbers of its names are {printable(list(names), 60)}; wanted 0, 1, 2 and so on."
                )
            names = [names[number] for number in range(len(names))]
    names = [str(name) for name in names] if isinstance(names, list) else []
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        got = f"{printable(twice[0])} twice" if twice else "no names of classes"
        raise DataError(f"{file} has {got}; wanted names: [cat, dog] in YAML, or one name per line in a text file.")
    return names

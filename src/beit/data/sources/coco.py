"""COCO's annotations (instances.json) → images with shapes."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from beit.core.errors import DataError
from beit.core.text import printable
from beit.data.label_maps import LabelRules
from beit.data.outlines import VOID, OutlineWriter
from beit.data.rle import run_lengths
from beit.data.sources.outlined import OutlinedImages, Unusable, say_counts, with_background
from beit.data.sources.paths import list_images

_FARTHEST = 1e7  # pixels; beyond, a coordinate is a mistake


def coco_images(images: Path, file: Path, rules: LabelRules, background: bool) -> OutlinedImages:
    """The images of a folder that a COCO file annotates.

    Classes are the categories by their ids. Shapes are painted in the order of the file, later ones over earlier ones, and crowds
    first, as "no label". Images that are missing, and annotations that cannot be used, are counted and named in the log.

    Args:
        images: their folder. The file names them by their path below it, or by a file name that occurs once.
        file: with polygons, or run-length encoded masks, compressed or not.
        rules: its ignore index stands for "no label".
        background: whether pixels in no shape are the class background; else they have no label.

    Raises:
        DataError: there is no such folder; the file is damaged or none of COCO's; no image is found; or more than a tenth of the
            annotations cannot be used.
        ConfigError: as `LabelRules.check_classes`.
    """
    content = _read(file)
    ids, names = _categories(content["categories"], file)
    names, shift = with_background(names, background, file)
    numbers = {id_: number + shift for number, id_ in enumerate(ids)}
    paths, entries, missing, others = _found(images, content["images"], file)
    shapes: dict[Any, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    known = {entry["id"] for entry in content["images"]}
    unusable = Unusable(file)
    for position, annotation in enumerate(content["annotations"]):
        unusable.total += 1
        id_ = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(id_, int | str) or id_ not in known:
            unusable.add(f"annotation {position}", f"its image_id {printable(id_, 40)} is that of no image")
        else:
            shapes[id_].append((position, annotation))
    writer = OutlineWriter()
    sizes = np.zeros((len(paths), 2), np.int64)
    empty = []
    for at, entry in enumerate(entries):
        sizes[at] = _size(entry)
        mine = shapes.get(entry["id"], [])
        if not mine:
            empty.append(str(entry["file_name"]))
        for position, annotation in sorted(mine, key=lambda pair: (not _is_crowd(pair[1]), pair[0])):
            name = f"annotation {annotation.get('id', position)} of {entry['file_name']}"
            number = numbers.get(annotation.get("category_id")) if _is_id(annotation.get("category_id")) else None
            if number is None:
                unusable.add(name, f"its category_id {printable(annotation.get('category_id'), 40)} is no category")
                continue
            try:
                _add(
                    writer,
                    VOID if _is_crowd(annotation) else number,
                    annotation.get("segmentation"),
                    sizes,
                    at,
                    name,
                    unusable,
                )
            except DataError as error:
                unusable.add(name, str(error))
        writer.end_image()
    unusable.say()
    said = "images without an annotation, all of them " + ("background" if background else "without a label")
    kinds = [(missing, f"images are not in {images} and are left out"), (empty, said)]
    say_counts(file, [*kinds, (others, f"images in {images} are not in the file and are left out")])
    return OutlinedImages(images, paths, writer.outlines(), sizes, names, rules, background, file)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}. Wanted COCO's annotations, such as instances.json."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON: {error}. Download or export it again.") from error
    wanted = ("images", "annotations", "categories")
    absent = [key for key in wanted if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if absent:
        raise DataError(
            f"{file} has no list of {' and '.join(absent)}; wanted COCO's annotations with {', '.join(wanted)}."
        )
    if any(isinstance(entry, dict) and "segments_info" in entry for entry in content["annotations"][:1]):
        raise DataError(f"{file} has COCO's panoptic annotations, whose masks are in PNG files; wanted instances.json.")
    for number, entry in enumerate(content["images"]):
        if not (isinstance(entry, dict) and _is_id(entry.get("id")) and isinstance(entry.get("file_name"), str)):
            raise DataError(f"{file}: image {number} has no id or no file_name.")
    return dict(content)


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _is_crowd(annotation: dict[str, Any]) -> bool:
    return annotation.get("iscrowd") in (1, True)


def _categories(categories: list[Any], file: Path) -> tuple[list[Any], list[str]]:
    """(ids, names), sorted by id."""
    for number, entry in enumerate(categories):
        if not (isinstance(entry, dict) and type(entry.get("id")) is int and isinstance(entry.get("name"), str)):
            raise DataError(f"{file}: category {number} has no whole number as id, or no name.")
    ordered = sorted(categories, key=lambda entry: entry["id"])
    ids, names = [entry["id"] for entry in ordered], [entry["name"].strip() for entry in ordered]
    for what, values in (("id", ids), ("name", names)):
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise DataError(f"{file}: the {what} {printable(twice[0])} is that of two categories; wanted each once.")
    return ids, names


def _found(images: Path, entries: list[Any], file: Path) -> tuple[list[str], list[Any], list[str], list[str]]:
    """(paths in order, their entries, names of those that are missing, paths that no entry names)."""
    if not images.is_dir():
        raise DataError(f"{images} is not a folder. Give a folder with images in it.")
    by_path = {os.path.relpath(path, images): path for path in list_images(images)}
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in by_path.values():
        by_name[os.path.basename(path)].append(path)
    found: dict[str, Any] = {}
    missing: list[str] = []
    ids = set()
    for entry in entries:
        name = entry["file_name"]
        alike = by_name.get(os.path.basename(name), [])
        path = by_path.get(os.path.normpath(name), alike[0] if len(alike) == 1 else "")
        if entry["id"] in ids or path in found:
            raise DataError(f"{file}: the image {printable(name)}, or its id {printable(entry['id'])}, is there twice.")
        ids.add(entry["id"])
        if not path:
            missing.append(name)
        else:
            found[path] = entry
    if not found:
        example = f"such as {printable(missing[0])}" if missing else "of which there are none"
        raise DataError(f"None of the images of {file}, {example}, is in {images}. Give the folder that they are in.")
    paths = sorted(found)
    return paths, [found[path] for path in paths], missing, sorted(set(by_path.values()) - found.keys())


def _size(entry: dict[str, Any]) -> tuple[int, int]:
    """(height, width) as the file says; zeros where it does not."""
    size = entry.get("height"), entry.get("width")
    return (size[0], size[1]) if all(type(side) is int and 0 < side < _FARTHEST for side in size) else (0, 0)  # type: ignore[return-value]


def _add(
    writer: OutlineWriter, number: int, shape: Any, sizes: np.ndarray, at: int, name: str, unusable: Unusable
) -> None:
    """Add one annotation's polygons or mask. Raises DataError, with the reason alone, if it cannot be used."""
    if isinstance(shape, dict):
        size = shape.get("size")
        if not (
            isinstance(size, list)
            and len(size) == 2
            and all(type(side) is int and 0 < side < _FARTHEST for side in size)
        ):
            raise DataError(f"a mask of the size {printable(size, 40)}")
        if sizes[at].any() and tuple(size) != tuple(sizes[at].tolist()):
            raise DataError(f"a mask of {size[1]}x{size[0]} pixels in an image of {sizes[at][1]}x{sizes[at][0]}")
        runs = run_lengths(shape.get("counts"), (size[0], size[1]))
        sizes[at] = size
        writer.add_mask(number, runs)
        return
    if not isinstance(shape, list) or not shape:
        raise DataError("no polygon and no mask")
    rings = [shape] if isinstance(shape[0], int | float) else shape  # some tools leave out the outer brackets
    corners = [_corners(ring) for ring in rings]  # all before any is kept
    height, width = sizes[at].tolist()
    for points in corners:
        writer.add_polygon(number, points)
    if height and any(points.min() < -1 or (points.max(0) > (width + 1, height + 1)).any() for points in corners):
        unusable.add_outside(name)


def _corners(ring: Any) -> np.ndarray:
    try:
        numbers = np.asarray(ring, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError("a polygon that is no list of numbers") from error
    if numbers.ndim != 1 or numbers.size < 6 or numbers.size % 2:
        raise DataError(f"a polygon of {numbers.size} numbers; wanted x and y of three corners or more")
    if not (np.abs(numbers) < _FARTHEST).all():  # also NaN
        raise DataError("a polygon with coordinates that are not finite, or beyond ten million")
    return numbers.reshape(-1, 2)

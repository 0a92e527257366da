"""Which label map belongs to which image, by the names of the files in two folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from beit.core.errors import DataError
from beit.core.text import printable
from beit.data.decode import SUFFIXES
from beit.data.sources.paths import list_images

logger = logging.getLogger("beit")

_SEPARATORS = "_-."  # what stands before an ending such as _mask
_SHOWN = 6


def partners(images: Path, maps: Path, suffix: str | None = None) -> tuple[list[str], list[str]]:
    """The images of a folder, sorted by path, and the label map of each.

    Names match below the folders, but for the suffix of the format: `images/street/1.jpg`, `maps/street/1.png`. Without a
    `suffix`, where they do not match but all maps have the name of their image and one common ending (`1_mask.png`), that
    ending is taken, and logged. The same for an ending that all images have (`1_leftImg8bit.png`).

    Args:
        images: searched with all its subfolders; so is `maps`. They may be one folder, if `suffix` tells the maps.
        maps: folder of the maps.
        suffix: how the names of the maps end, such as `_L.png` or `_mask`; other files in their folder are left out.

    Raises:
        DataError: there is no such folder, a folder is empty, an image has no map or a map no image, two files of a folder have
            the same name but for the suffix of the format, or maps with several endings match.
    """
    map_stems = _by_stem(maps, "label maps", only=suffix)
    within = os.path.join(os.path.realpath(maps), "").startswith(os.path.join(os.path.realpath(images), ""))
    image_stems = _by_stem(images, "images", but=suffix if within else None)
    if suffix is not None:
        map_stems = {stem[: len(stem) - len(_ending(suffix))]: path for stem, path in map_stems.items()}
    if image_stems.keys() != map_stems.keys():
        image_stems, map_stems = _without_endings(image_stems, map_stems, maps, guess=suffix is None)
    _check(images, maps, image_stems, map_stems)
    stems = sorted(image_stems)
    return [image_stems[stem] for stem in stems], [map_stems[stem] for stem in stems]


def _ending(suffix: str) -> str:
    """A suffix without that of the format: `_L` of `_L.png`."""
    stem, dot, kind = suffix.rpartition(".")
    return stem if dot and f".{kind.lower()}" in SUFFIXES else suffix


def _by_stem(folder: Path, what: str, only: str | None = None, but: str | None = None) -> dict[str, str]:
    """Path below the folder without the suffix of its format → path; `only` those of this ending, or all `but` them."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Give a folder with {what} in it.")
    found: dict[str, str] = {}
    others = []
    for path in sorted(list_images(folder)):
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        for ending, wanted in ((only, True), (but, False)):
            if ending is not None and (path if _ending(ending) != ending else stem).endswith(ending) != wanted:
                others.append(path)
                break
        else:
            if stem in found:
                raise DataError(
                    f"{found[stem]} and {path} have the same name but for the suffix. Rename or remove one."
                )
            found[stem] = path
    if not found and others and only is not None:
        raise DataError(f"No image file in {folder} ends with {only}; there is {others[0]}. See --mask-suffix.")
    if not found:
        raise DataError(f"{folder} has no {what}, nor have its subfolders.")
    if others and only is not None:
        logger.warning("%s: %s files that do not end with %s are left out.", folder, f"{len(others):,}", only)
    return found


def _without_endings(
    image_stems: dict[str, str], map_stems: dict[str, str], maps: Path, guess: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Both with shorter stems that match, if endings tell which; else as they are. Raises DataError where several would do."""
    for image_ending in ["", *_common_endings(image_stems)]:
        shorter = {stem[: len(stem) - len(image_ending)]: path for stem, path in image_stems.items()}
        if shorter.keys() <= map_stems.keys():
            endings = [""]
        elif guess:
            endings = [end for end in _endings_after(min(shorter), map_stems) if _complete(shorter, map_stems, end)]
        else:
            endings = []
        if len(endings) > 1:
            raise DataError(
                f"Each image has several label maps in {maps}, whose names end with {', '.join(map(printable, endings[:_SHOWN]))}. "
                f"Say which to use, such as --mask-suffix {printable(endings[0])}."
            )
        if endings:
            said = [
                f"{who} without {printable(end)}"
                for who, end in (("maps", endings[0]), ("images", image_ending))
                if end
            ]
            if said:
                logger.warning("Names of images and label maps in %s are matched: %s.", maps, ", ".join(said))
            return shorter, {stem.removesuffix(endings[0]): path for stem, path in map_stems.items()}
    return image_stems, map_stems


def _common_endings(stems: Iterable[str]) -> Iterator[str]:
    """The endings from a separator on that all stems have, the shortest first, if there are several stems."""
    turned = sorted(stem[::-1] for stem in stems)
    if len(turned) < 2:
        return
    same = [a == b for a, b in zip(turned[0], turned[-1], strict=False)]  # what these two share, all share
    common = turned[0][: same.index(False) if False in same else len(same)][::-1]
    shortest = min(map(len, turned))
    for at in range(len(common) - 1, -1, -1):
        if common[at] == os.sep:
            return
        if common[at] in _SEPARATORS and len(common) - at < shortest:
            yield common[at:]


def _endings_after(stem: str, map_stems: Iterable[str]) -> list[str]:
    """How the maps that begin with `stem` end after it, where that is an ending: `_mask`, but not the 0 of 10 after 1."""
    ends = (found[len(stem) :] for found in map_stems if found.startswith(stem))
    return sorted(end for end in ends if end == "" or (end[0] in _SEPARATORS and os.sep not in end))


def _complete(image_stems: Iterable[str], map_stems: dict[str, str], ending: str) -> bool:
    """Whether each image has a map of this ending."""
    return all(stem + ending in map_stems for stem in image_stems)


def _check(images: Path, maps: Path, found: dict[str, str], partners: dict[str, str]) -> None:
    without_map = [(found[stem], f"no label map in {maps}") for stem in sorted(found.keys() - partners.keys())]
    without_image = [(partners[stem], f"no image in {images}") for stem in sorted(partners.keys() - found.keys())]
    if not without_map and not without_image:
        return
    # Six examples; of both kinds if there are many without a map.
    shown = without_map[:3] + without_image[:3] if len(without_map) > 3 else (without_map + without_image)[:_SHOWN]
    lines = "\n".join(f"  {path}: {why}" for path, why in shown)
    raise DataError(
        f"{len(without_map)} images have no label map and {len(without_image)} label maps no image:\n{lines}\nWanted the same "
        "names in both folders, but for the suffix: images/street/1.jpg, maps/street/1.png. Add or remove files until they "
        "agree; or, for maps such as 1_mask.png, say how their names end: --mask-suffix _mask.png."
    )

"""Images with a label map each: two folders that match by name, and the rules by which numbers in maps become classes."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from beit.core.errors import ConfigError, DataError, InputError, require
from beit.data.decode import opened, pillow_warnings, read_image
from beit.data.fingerprint import fingerprint_of
from beit.data.image_input import read_label_map
from beit.data.sources.paths import list_images

_LOSSY = (".jpg", ".jpeg")
_DEFAULT_IGNORE = 255
_MOST_CLASSES = 1000  # a scan that finds more has seen instance numbers, colours or depths
# What turns stored pixels upright, for each value of the EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class LabelRules:
    """What the numbers in label maps mean.

    Attributes:
        ignore_index: no label here; it may lie beyond the classes or among them.
        reduce_labels: maps count classes from 1 and 0 means no label (ADE20K).
    """

    ignore_index: int = _DEFAULT_IGNORE
    reduce_labels: bool = False

    def apply(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers of a map → class numbers and `ignore_index`; the same shape and type."""
        if not self.reduce_labels:
            return numbers
        nothing = (numbers == 0) | (numbers == self.ignore_index)
        return np.where(nothing, self.ignore_index, numbers - 1)

    def check_classes(self, classes: int) -> None:
        """Whether so many classes leave room for the ignore index.

        Raises:
            ConfigError: a class would be lost: where maps are reduced, or by the default, which was chosen for fewer classes.
        """
        if 0 <= self.ignore_index < classes and (self.reduce_labels or self.ignore_index == _DEFAULT_IGNORE):
            raise ConfigError(
                f"ignore_index {self.ignore_index} is the number of one of the {classes} classes too, which would be lost. "
                f"Choose another, such as --ignore-index {max(classes, 65535)}."
            )

    def check(self, labels: np.ndarray, classes: int, name: str) -> None:
        """Whether all are classes or ignored.

        Raises:
            InputError: the message names the numbers as they are in the map.
        """
        wrong = (labels < 0) | (labels >= classes)
        if not wrong.any():
            return
        strange = np.unique(labels[wrong & (labels != self.ignore_index)])
        if len(strange):
            shift = int(self.reduce_labels)
            numbers = ", ".join(str(number + shift) for number in strange[:8]) + ", …" * (len(strange) > 8)
            raise InputError(
                f"{name} has the values {numbers}. Wanted {shift} to {classes - 1 + shift}, one for each of the {classes} "
                f"classes, or {'0' if shift else self.ignore_index} for no label. Name all classes with --classes, name the "
                "value that means no label with --ignore-index, or use --reduce-labels for maps whose classes begin with 1."
            )


class LabelledFolders:
    """Images and label maps below two folders, matched by their paths without suffix: `street/1.jpg`, `street/1.png`.

    Maps belong to the pixels as they are stored: where the EXIF orientation turns an image, its map is turned alike, unless
    the map has an orientation of its own or fits only the upright image.

    Args:
        images: searched with all its subfolders, as by `FolderImages`.
        maps: grey or palette images without loss (PNG), one number a pixel.
        classes: names of the classes; None to leave them open, until `with_classes`.
        rules: what the numbers mean.
        smallest_side: images with a shorter side are refused when read.

    Raises:
        DataError: no such folder, nothing in it, an image without a map or the other way round, two of one name.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        maps: str | os.PathLike[str],
        classes: Sequence[str] | None = None,
        rules: LabelRules = LabelRules(),
        smallest_side: int = 1,
    ) -> None:
        self.folder, self.map_folder = Path(images), Path(maps)
        found, partners = _by_stem(self.folder, "images"), _by_stem(self.map_folder, "label maps")
        _check_partners(self.folder, self.map_folder, found, partners)
        lossy = [path for path in partners.values() if path.lower().endswith(_LOSSY)]
        if lossy:
            raise DataError(f"{lossy[0]} is a JPEG file, which changes class numbers. Save label maps as PNG.")
        stems = sorted(found)
        self.paths, self.maps = [found[stem] for stem in stems], [partners[stem] for stem in stems]
        self.labels: np.ndarray | None = None  # one a pixel, not one an image
        self.rules, self.smallest_side = rules, smallest_side
        self.classes = list(classes) if classes is not None else []
        rules.check_classes(len(self.classes))

    def __len__(self) -> int:
        return len(self.paths)

    def with_classes(self, classes: Sequence[str]) -> LabelledFolders:
        """The same with these classes. Raises ConfigError when the ignore index is one of them by mistake."""
        self.rules.check_classes(len(classes))
        other = copy.copy(self)
        other.classes = list(classes)
        return other

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB, upright. Raises DataError when it is damaged, too small or too large."""
        return read_image(self.paths[index], self.smallest_side)

    def target(self, index: int) -> np.ndarray:
        """Its class numbers, int64 `(H, W)`; the ignore index where there is none.

        Raises:
            DataError: a file cannot be read.
            InputError: the map is of another size or kind, or has numbers that are no class.
        """
        path = self.maps[index]
        with opened(self.paths[index]) as image:
            stored, turn = image.size, _turn(image)
        upright = stored if turn is None else Image.new("1", stored).transpose(turn).size
        with opened(path) as file:
            file.load()
            own = _turn(file)
            turned = turn if own is None and file.size == stored else own
            found = file if turned is None else file.transpose(turned)
            labels = self.rules.apply(read_label_map(_plain(found), (upright[1], upright[0]), path))
        if self.classes:
            self.rules.check(labels, len(self.classes), path)
        return labels

    def name(self, index: int) -> str:
        """The image's path."""
        return self.paths[index]

    def fingerprint(self) -> str:
        """Of the paths below the folders, classes and rules."""
        images = "\n".join(os.path.relpath(path, self.folder) for path in self.paths)
        maps = "\n".join(os.path.relpath(path, self.map_folder) for path in self.maps)
        parts = (images, maps, "\n".join(self.classes), repr(self.rules))
        return fingerprint_of(*(os.fsencode(part) for part in parts))

    def subset(self, indices: np.ndarray) -> LabelledFolders:
        """The images of these numbers, in this order."""
        part = copy.copy(self)
        part.paths, part.maps = [self.paths[i] for i in indices], [self.maps[i] for i in indices]
        return part


def _plain(image: Image.Image) -> Image.Image:
    """Without the file's metadata: it has been turned as it should."""
    plain = image.copy()
    plain.info.clear()
    plain.getexif().clear()
    return plain


def _turn(image: Image.Image) -> Image.Transpose | None:
    with contextlib.suppress(Exception):  # a damaged EXIF block says nothing
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def _by_stem(folder: Path, what: str) -> dict[str, str]:
    """Path below the folder without suffix → path."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Give a folder with {what} in it.")
    found: dict[str, str] = {}
    for path in sorted(list_images(folder)):
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        if stem in found:
            raise DataError(f"{found[stem]} and {path} have the same name but for the suffix. Rename or remove one.")
        found[stem] = path
    if not found:
        raise DataError(f"{folder} has no {what}, nor have its subfolders.")
    return found


def _check_partners(images: Path, maps: Path, found: dict[str, str], partners: dict[str, str]) -> None:
    lonely = [(found[stem], f"no label map in {maps}") for stem in sorted(found.keys() - partners.keys())]
    count = len(lonely)
    lonely += [(partners[stem], f"no image in {images}") for stem in sorted(partners.keys() - found.keys())]
    if not lonely:
        return
    shown = lonely[:3] + lonely[count : count + 3] if count > 3 else lonely[:6]
    lines = "\n".join(f"  {path}: {why}" for path, why in shown)
    raise DataError(
        f"{count} images have no label map and {len(lonely) - count} label maps no image:\n{lines}\nWanted the same names in "
        "both folders, but for the suffix: images/street/1.jpg, maps/street/1.png. Add or remove files until they agree."
    )


def read_classes(path: Path) -> list[str]:
    """Names of classes from a text file, one a line.

    Raises:
        DataError: it cannot be read, or does not hold at least two names, each once.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}). Give a text file with the name of one class a line."
        ) from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or twice:
        got = f"{twice[0]!r} twice" if twice else f"{len(names)} names"
        raise DataError(f"{path} has {got}; wanted the names of at least two classes, one a line, each once.")
    return names


def numbered_classes(images: LabelledFolders) -> list[str]:
    """Classes named by their numbers, as many as the largest number in any map says.

    Raises:
        DataError: no map can be read, none has a label, or there are more than a thousand classes.
        InputError: a map is no grey or palette image.
    """
    largest, where, damaged = -1, "", 0
    for path, labels in _look_at_all(images):
        damaged += labels is None
        number = -1 if labels is None else int(np.max(labels[labels != images.rules.ignore_index], initial=-1))
        if number > largest:
            largest, where = number, path
    if damaged == len(images.maps):
        raise DataError(f"None of the label maps in {images.map_folder} can be read.")
    if largest < 1:
        raise DataError(
            f"The label maps in {images.map_folder} have {'no label' if largest < 0 else 'class 0 alone'}; wanted at least two "
            f"classes. {images.rules.ignore_index} counts as no label: see --ignore-index."
        )
    if largest >= _MOST_CLASSES:
        raise DataError(
            f"{where} has the value {largest + images.rules.reduce_labels}: too large for a class number. If it means no "
            "label, say so with --ignore-index; if there are so many classes, name them with --classes."
        )
    return [str(number) for number in range(largest + 1)]


def check_maps(images: LabelledFolders) -> None:
    """Look at all label maps for numbers that are no class: before hours of training, not in the middle.

    Maps that cannot be read are left to the training, which passes over a few of them.

    Raises:
        InputError: as `LabelledFolders.target`.
    """
    for path, labels in _look_at_all(images):
        if labels is not None:
            images.rules.check(labels, len(images.classes), path)


def _look_at_all(images: LabelledFolders) -> list[tuple[str, np.ndarray | None]]:
    """(path, different numbers) of every label map, with progress; None for one that cannot be read (training will say so)."""
    tqdm = require("tqdm", "train", "a look at all label maps").tqdm
    with pillow_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow unpacks PNG files without the GIL
        found = pool.map(lambda path: _numbers(path, images.rules), images.maps)
        bar = tqdm(
            found, total=len(images.maps), desc="looking at label maps", unit="map", disable=None, file=sys.stderr
        )
        return list(zip(images.maps, bar, strict=True))


def _numbers(path: str, rules: LabelRules) -> np.ndarray | None:
    """The different class numbers of a map, the ignore index among them; None when it cannot be read."""
    try:
        with opened(path, in_thread=True) as file:
            if file.mode in ("L", "P"):
                numbers = np.flatnonzero(file.histogram()[:256])
            else:
                file.load()
                numbers = np.unique(read_label_map(_plain(file), (file.height, file.width), path))
    except DataError:
        return None
    return rules.apply(numbers)


def open_segmented(
    images: Path, maps: Path | None, classes: Sequence[str] | None, rules: LabelRules, test: bool
) -> Any:
    """The images and maps that settings name: two folders, or the embedded task (its test part if `test`).

    Raises:
        DataError: as `LabelledFolders`, or folders without maps.
    """
    if str(images).startswith("embedded:"):
        from beit.data.embedded.pasted import PastedGarments

        if str(images) != "embedded:pasted_garments":
            raise DataError(f"There are no embedded images {str(images)[9:]!r}; wanted embedded:pasted_garments.")
        return PastedGarments(test=test)
    if maps is None:
        raise DataError(
            f"Got no label maps for {images}. Give their folder: --maps, or --validation-maps for validation."
        )
    return LabelledFolders(images, maps, classes, rules)

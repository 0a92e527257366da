"""Images with a label map each: two folders that match by name."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from beit.core.errors import DataError
from beit.data.decode import opened, read_image
from beit.data.fingerprint import fingerprint_of
from beit.data.label_maps import LabelRules, read_label_map
from beit.data.sources.paths import list_images

_LOSSY = (".jpg", ".jpeg")
_PLAIN = LabelRules()  # numbers are classes, 255 means no label
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
        rules: LabelRules = _PLAIN,
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
            labels = self.rules.apply(read_label_map(without_metadata(found), (upright[1], upright[0]), path))
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


def without_metadata(image: Image.Image) -> Image.Image:
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

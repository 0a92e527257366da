"""Images by number: the files of a folder, or an array in memory. Pillow + numpy."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from beit.core.errors import DataError
from beit.core.text import printable
from beit.data.decode import SUFFIXES, read_image
from beit.data.fingerprint import fingerprint_of
from beit.data.sources.paths import list_images


class EmptyFolderError(DataError):
    """A folder, with its subfolders, has no images."""


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(printable(name) for name in names[:most])


class Images(Protocol):
    """Images by number, with or without labels.

    Attributes:
        labels: class number of each image `(n,)` int64; or which labels each has, bool `(n, classes)`; or numbers, float64
            `(n, numbers)`; or None.
        classes: names of the classes, or of the numbers; empty without labels.
    """

    labels: np.ndarray | None
    classes: list[str]

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB, upright. Raises DataError when it cannot be read."""
        ...

    def target(self, index: int) -> Any:
        """What a model shall predict for image `index`: its entry of `labels` (0 without), or its label map `(H, W)` int64.

        A caller that wants both asks for `read(index)` first.

        Raises:
            DataError: a label map cannot be read.
            InputError: a label map does not belong to this image, or has other classes.
        """
        ...

    def name(self, index: int) -> str:
        """What to call image `index` in a message."""
        ...

    def subset(self, indices: np.ndarray) -> Images:
        """Only the images with these numbers, in this order."""
        ...

    def fingerprint(self) -> str:
        """A short text that is the same for the same images, labels and classes in the same order."""
        ...


class ArrayImages:
    """Images of one size in memory.

    Args:
        array: uint8 `(n, H, W)` grey or `(n, H, W, 3)` RGB.
        labels: as those of `Images`, or None.
        classes: names of the classes; if None, their numbers are their names.

    Raises:
        DataError: the array has another shape or dtype, or no image; or there is not one label, or row of labels, per image.
    """

    def __init__(
        self, array: np.ndarray, labels: np.ndarray | None = None, classes: Sequence[str] | None = None
    ) -> None:
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3):
            raise DataError(
                f"Got an array {array.shape} of {array.dtype}; wanted uint8 (n, height, width) or (n, height, width, 3)."
            )
        if len(array) == 0:
            raise DataError("Got an array without images.")
        self.array = array if array.ndim == 4 else np.repeat(array[..., None], 3, axis=3)
        self.labels = None
        self.classes: list[str] = []
        if labels is not None:
            if labels.ndim not in (1, 2) or len(labels) != len(array):
                raise DataError(f"Got labels {labels.shape} for {len(array)} images; wanted one each, or one row each.")
            self.labels = labels.astype(np.int64) if labels.ndim == 1 else labels
            count = int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]
            self.classes = list(classes) if classes is not None else [str(i) for i in range(count)]

    def __len__(self) -> int:
        return len(self.array)

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB."""
        return Image.fromarray(self.array[index])

    def target(self, index: int) -> Any:
        """The entry of `labels`, 0 without."""
        return 0 if self.labels is None else self.labels[index]

    def name(self, index: int) -> str:
        """`image 12`."""
        return f"image {index}"

    def fingerprint(self) -> str:
        """The same for the same pixels, labels and classes."""
        labels = b"" if self.labels is None else self.labels.tobytes()
        return fingerprint_of(np.ascontiguousarray(self.array), labels, os.fsencode("\n".join(self.classes)))

    def subset(self, indices: np.ndarray) -> ArrayImages:
        """Only the images with these numbers, in this order."""
        labels = None if self.labels is None else self.labels[indices]
        return ArrayImages(self.array[indices], labels, self.classes)


class FolderImages:
    """The image files of a folder and its subfolders, sorted by path.

    Args:
        folder: where to look; hidden files are left out.
        labelled: the first-level subfolders are classes (`folder/cat/1.jpg`), and every image must be in one.
        classes: names of the classes in their order, where a trained model sets them; by default the sorted subfolders.
        smallest_side: images with a shorter side, in pixels, are refused when read.

    Raises:
        EmptyFolderError: there is no image in the folder.
        DataError: there is no such folder, an image is in no class, or a class is not in `classes`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        labelled: bool = False,
        classes: Sequence[str] | None = None,
        smallest_side: int = 1,
    ) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"{printable(self.folder)} is not a folder. Give a folder with images in it.")
        self.paths = list_images(self.folder)
        if not self.paths:
            raise EmptyFolderError(
                f"{printable(self.folder)} has no images, nor have its subfolders. Looked for {', '.join(SUFFIXES)}."
            )
        self.smallest_side = smallest_side
        self.labels: np.ndarray | None = None
        self.classes: list[str] = []
        if labelled:
            self._label(classes)

    def _label(self, classes: Sequence[str] | None) -> None:
        folders = list(self.paths.first_folders())
        outside = [start for name, start, _ in folders if not name]
        if outside:
            example = printable(os.fsdecode(self.paths.relative(outside[0])))
            raise DataError(
                f"{self.folder}: {len(outside)} images are in no class folder, for example {example}. Wanted one "
                "subfolder per class: folder/cat/1.jpg, folder/dog/2.jpg."
            )
        found = sorted(name for name, _, _ in folders)
        self.classes = list(classes) if classes is not None else found
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if twice:
            raise DataError(
                f"The model has several classes of one name ({_few(twice, 3)}); folders cannot tell them apart."
            )
        unknown = sorted(set(found) - set(self.classes))
        if unknown:
            raise DataError(
                f"{printable(self.folder)} has classes that the model does not know: {_few(unknown)}. The model knows "
                f"{_few(self.classes)}{', …' if len(self.classes) > 5 else ''}."
            )
        number = {name: i for i, name in enumerate(self.classes)}
        self.labels = np.empty(len(self.paths), dtype=np.int64)
        for name, start, end in folders:
            self.labels[start:end] = number[name]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB, upright. Raises DataError when it is damaged, too small or too large."""
        return read_image(self.paths[index], self.smallest_side)

    def target(self, index: int) -> int:
        """The class number, 0 without labels."""
        return 0 if self.labels is None else int(self.labels[index])

    def name(self, index: int) -> str:
        """The path of the file."""
        return self.paths[index]

    def fingerprint(self) -> str:
        """The same for the same paths below the folder, labels and classes; files are not opened."""
        labels = b"" if self.labels is None else self.labels.tobytes()
        paths = memoryview(self.paths.blob)[:-1]
        return fingerprint_of(paths, labels, os.fsencode("\n".join(self.classes)))

    def subset(self, indices: np.ndarray) -> FolderImages:
        """Only the images with these numbers, in this order."""
        part = copy.copy(self)
        part.paths = self.paths.take(indices)
        part.labels = None if self.labels is None else self.labels[indices]
        return part

"""Images by number: a folder of files, or an array. Pillow + numpy."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from beit.core.errors import DataError
from beit.data.decode import read_image
from beit.data.fingerprint import fingerprint_of
from beit.data.sources.paths import SUFFIXES, list_images


class Images(Protocol):
    """Images by number, with or without labels.

    Attributes:
        labels: class number of each image, or None.
        classes: names of the classes, empty without labels.
    """

    labels: np.ndarray | None
    classes: list[str]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB. Raises DataError when it cannot be read."""
        ...

    def target(self, index: int) -> Any:
        """What is to be learned from image `index`: its class number, 0 without labels; or its label map `(H, W)` int64.

        Raises DataError when a map cannot be read, and InputError when it is not one of this image and these classes.
        """
        ...

    def name(self, index: int) -> str:
        """What to call image `index` in a message."""
        ...

    def subset(self, indices: np.ndarray) -> Images:
        """The images of these numbers, in this order."""
        ...

    def fingerprint(self) -> str:
        """The same for the same images, labels and classes in the same order."""
        ...


class ArrayImages:
    """Images of one size in memory.

    Args:
        array: uint8 `(n, H, W)` grey or `(n, H, W, 3)` RGB.
        labels: `(n,)` whole numbers, or None.
        classes: names of the classes; numbers if None.

    Raises:
        DataError: another shape or type, no image at all, or labels that do not fit.
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
            if labels.shape != (len(array),):
                raise DataError(f"Got labels {labels.shape} for {len(array)} images; wanted one each.")
            self.labels = labels.astype(np.int64)
            self.classes = list(classes) if classes is not None else [str(i) for i in range(int(labels.max()) + 1)]

    def __len__(self) -> int:
        return len(self.array)

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB."""
        return Image.fromarray(self.array[index])

    def target(self, index: int) -> int:
        """The class number, 0 without labels."""
        return 0 if self.labels is None else int(self.labels[index])

    def name(self, index: int) -> str:
        """`image 12`."""
        return f"image {index}"

    def fingerprint(self) -> str:
        """Of the pixels, labels and classes."""
        labels = b"" if self.labels is None else self.labels.tobytes()
        return fingerprint_of(np.ascontiguousarray(self.array), labels, os.fsencode("\n".join(self.classes)))

    def subset(self, indices: np.ndarray) -> ArrayImages:
        """The images of these numbers, in this order."""
        labels = None if self.labels is None else self.labels[indices]
        return ArrayImages(self.array[indices], labels, self.classes)


class FolderImages:
    """Image files below a folder, in sorted order.

    Args:
        folder: searched with all its subfolders; hidden files are passed over.
        labelled: take the first-level subfolders as classes (`folder/cat/1.jpg`); every image must be in one.
        classes: names of the classes in their order, when the folder must have those of a trained model.
        smallest_side: images with a shorter side are refused when read.

    Raises:
        DataError: no such folder, no image in it, an image outside a class, or a class that is not in `classes`.
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
            raise DataError(f"{self.folder} is not a folder. Give a folder with images in it.")
        self.paths = list_images(self.folder)
        if not self.paths:
            raise DataError(f"{self.folder} has no images, nor have its subfolders. Looked for {', '.join(SUFFIXES)}.")
        self.smallest_side = smallest_side
        self.labels: np.ndarray | None = None
        self.classes: list[str] = []
        if labelled:
            self._label(classes)

    def _label(self, classes: Sequence[str] | None) -> None:
        folders = list(self.paths.first_folders())
        outside = [start for name, start, _ in folders if not name]
        if outside:
            example = os.fsdecode(self.paths.relative(outside[0]))
            raise DataError(
                f"{self.folder}: {len(outside)} images are in no class folder, for example {example}. Wanted one "
                "subfolder a class: folder/cat/1.jpg, folder/dog/2.jpg."
            )
        found = sorted(name for name, _, _ in folders)
        self.classes = list(classes) if classes is not None else found
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if twice:
            raise DataError(
                f"The model has several classes of one name ({', '.join(twice[:3])}); folders cannot tell them apart."
            )
        strange = sorted(set(found) - set(self.classes))
        if strange:
            raise DataError(
                f"{self.folder} has classes that the model does not know: {', '.join(strange[:5])}. The model knows "
                f"{', '.join(self.classes[:5])}{', …' if len(self.classes) > 5 else ''}."
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
        """The path."""
        return self.paths[index]

    def fingerprint(self) -> str:
        """Of the paths below the folder, labels and classes."""
        labels = b"" if self.labels is None else self.labels.tobytes()
        paths = memoryview(self.paths.blob)[:-1]
        return fingerprint_of(paths, labels, os.fsencode("\n".join(self.classes)))

    def subset(self, indices: np.ndarray) -> FolderImages:
        """The images of these numbers, in this order."""
        part = copy.copy(self)
        part.paths = self.paths.take(indices)
        part.labels = None if self.labels is None else self.labels[indices]
        return part

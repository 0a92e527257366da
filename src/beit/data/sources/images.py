"""Where images come from: a folder of files, or an array. Pillow + numpy."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from beit.core.errors import BeitError, DataError
from beit.data.sources.paths import SUFFIXES, list_images

if TYPE_CHECKING:
    from beit.data.sources.stream import Stream

# Images of one small size are decoded once and kept: above this they are read from disk again for every crop.
_MOST_BYTES_IN_MEMORY = 1_000_000_000
_LARGEST_SIDE_IN_MEMORY = 128
_FEWEST_TO_JUDGE = 100  # images of a stream
_MOST_BAD = 0.1  # of the images; more means that the folder is not what it is taken for


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


def fingerprint_of(*parts: Any) -> str:
    """A short text that is the same for the same bytes."""
    digest = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        digest.update(part)
        digest.update(b"|")
    return digest.hexdigest()


def read_image(path: str | os.PathLike[str], smallest_side: int = 1) -> Image.Image:
    """An image file in RGB, turned upright by its EXIF orientation.

    Raises:
        DataError: it cannot be read, is truncated, shorter than `smallest_side`, or so large that it may be a
            decompression bomb (more than Pillow's `MAX_IMAGE_PIXELS`).
    """
    with opened(path) as image:
        return _upright(image, path, smallest_side)


def decode_image(data: bytes, name: str, smallest_side: int = 1) -> Image.Image:
    """`read_image` of a file's bytes; `name` is for messages."""
    with _errors_of(name), pillow_warnings(), Image.open(io.BytesIO(data)) as image:
        return _upright(image, name, smallest_side)


def _upright(image: Image.Image, name: str | os.PathLike[str], smallest_side: int) -> Image.Image:
    if min(image.size) < smallest_side:
        raise DataError(f"{name}: {image.width}x{image.height} pixels, smaller than a patch ({smallest_side}).")
    return _eight_bit(ImageOps.exif_transpose(image)).convert("RGB")


@contextlib.contextmanager
def pillow_warnings() -> Iterator[None]:
    """Pillow warns of odd metadata, which says nothing here; of bombs it must not only warn.

    The filters belong to the whole process: enter it around threads, never in them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], in_thread: bool = False) -> Iterator[Image.Image]:
    """An image file, for as long as the `with` lasts; what goes wrong in there is an error of this file.

    `in_thread`: the caller has entered `pillow_warnings` already, around all threads.

    Raises:
        DataError: as `read_image`.
    """
    with _errors_of(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait forever
            raise DataError(f"{path}: not a file.")
        with contextlib.nullcontext() if in_thread else pillow_warnings(), Image.open(path) as image:
            yield image


@contextlib.contextmanager
def _errors_of(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: refused, it may be a decompression bomb ({error}).") from error
    except BeitError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image that Pillow can read.") from error
    except Exception as error:  # Pillow's readers raise nearly anything for damaged files: struct.error, SyntaxError, …
        raise DataError(f"{path}: damaged or unreadable ({error}).") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey images of 16 bits a pixel, or of floats in [0, 1], on the scale of 8 bits; Pillow would cut them to white or
    black. Others as they are."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    array = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and 255 < array.max() <= 65535):
        array /= 257
    elif image.mode == "F" and array.max() <= 1:
        array *= 255
    return Image.fromarray(array.round().clip(0, 255).astype(np.uint8))


class BadImages:
    """Keeps the images that could not be read, and says when there are too many.

    Args:
        total: number of images; None for a stream, of which those count that `saw` was told of, but not less than a hundred
            until it `ended`.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.seen = 0  # images of a stream that can be used
        self.reasons: dict[str, None] = {}  # a set that keeps the order

    def add(self, reason: str) -> None:
        """Note one image.

        Raises:
            DataError: more than a tenth of all images are bad.
        """
        self.reasons[reason] = None
        self._check()

    def saw(self, count: int) -> None:
        """So many images of a stream could be used, in the first pass over it."""
        self.seen += count

    def ended(self) -> None:
        """The first pass over a stream is over. Raises DataError when more than a tenth of its images were bad."""
        if self.total is None:
            self.total = self.seen + len(self.reasons)
            self._check()

    def _check(self) -> None:
        count = len(self.reasons)
        total = max(self.seen + count, _FEWEST_TO_JUDGE) if self.total is None else self.total
        if count > _MOST_BAD * total:
            known = f"the first {self.seen + count}" if self.total is None else str(total)
            raise DataError(
                f"{count} of {known} images cannot be used, more than a tenth:\n{self}\nMend or remove them."
            )

    def __len__(self) -> int:
        return len(self.reasons)

    def __str__(self) -> str:
        lines = list(self.reasons)
        return "\n".join("  " + line for line in lines[:10]) + (f"\n  … and {len(lines) - 10} more" * (len(lines) > 10))


def count_of(images: Images | Stream) -> int | None:
    """Number of images; None for a stream."""
    return len(images) if isinstance(images, Sized) else None


@overload
def hold_in_memory(images: Images, bad: BadImages, target: int) -> Images: ...
@overload
def hold_in_memory(images: Images | Stream, bad: BadImages, target: int) -> Images | Stream: ...
def hold_in_memory(images: Images | Stream, bad: BadImages, target: int) -> Images | Stream:
    """The same images decoded once, when all have one small size (CIFAR, MNIST, …); else as they are, streams too.

    Only images of up to 1.5 times `target`, the shortest side of a view in pixels: views of a batch are made without a
    filter against aliasing (`views.batch_view`).

    Images that cannot be read are left out and noted in `bad`.
    """
    if isinstance(images, ArrayImages) or not isinstance(images, Sized):
        return images
    first = None
    for index in range(min(len(images), 16)):
        try:
            size = images.read(index).size
        except DataError:
            continue
        if first is not None and size != first:
            return images
        first = size
    if first is None or max(first) > min(_LARGEST_SIDE_IN_MEMORY, 1.5 * target):
        return images
    if len(images) * first[0] * first[1] * 3 > _MOST_BYTES_IN_MEMORY:
        return images
    arrays, kept = [], []
    for index in range(len(images)):
        try:
            image = images.read(index)
        except DataError as error:
            bad.add(str(error))
            continue
        if image.size != first:
            return images
        arrays.append(np.asarray(image))
        kept.append(index)
    labels = None if images.labels is None else images.labels[kept]
    return ArrayImages(np.stack(arrays), labels, images.classes)

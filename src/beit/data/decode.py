"""An image file, or its bytes → a Pillow image in RGB, 8 bits, upright. All that can go wrong is a `DataError` of this file."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from beit.core.errors import BeitError, DataError


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

"""An image file, or its bytes → a Pillow image in RGB, 8 bits per channel, upright. Every failure is a `DataError`.

For training and evaluation on folders and streams. What the public processor accepts is in `image_input.py`; label maps,
whose palette indices are class numbers, are read in `label_maps.py`.
"""

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

    Args:
        path: a file in any format that Pillow reads; palette, grey, CMYK and 16-bit images are converted.
        smallest_side: shortest side in pixels that is accepted.

    Raises:
        DataError: the file cannot be read, is truncated, has a side shorter than `smallest_side`, or has more pixels than
            Pillow's `MAX_IMAGE_PIXELS` and may be a decompression bomb.
    """
    with opened(path) as image:
        return upright_rgb(image, path, smallest_side)


def decode_image(data: bytes, name: str, smallest_side: int = 1) -> Image.Image:
    """As `read_image`, from the bytes of a file; `name` is for messages."""
    with _errors_of(name), pillow_warnings(), Image.open(io.BytesIO(data)) as image:
        return upright_rgb(image, name, smallest_side)


def upright_rgb(image: Image.Image, name: str | os.PathLike[str], smallest_side: int = 1) -> Image.Image:
    """An open image in RGB, upright. Raises DataError when a side is shorter than `smallest_side`."""
    # Before the pixels are decoded, so that an image that is refused costs nothing.
    if min(image.size) < smallest_side:
        raise DataError(f"{name}: {image.width}x{image.height} pixels, smaller than a patch ({smallest_side}).")
    return _eight_bit(ImageOps.exif_transpose(image)).convert("RGB")


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], in_thread: bool = False) -> Iterator[Image.Image]:
    """An open image file. What goes wrong inside the `with` block is reported as an error of this file.

    Args:
        path: the file.
        in_thread: the caller has entered `pillow_warnings` already, around all its threads.

    Raises:
        DataError: as `read_image`.
    """
    with _errors_of(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a named pipe would wait for ever
            raise DataError(f"{path}: not a file.")
        with contextlib.nullcontext() if in_thread else pillow_warnings(), Image.open(path) as image:
            yield image


@contextlib.contextmanager
def pillow_warnings() -> Iterator[None]:
    """Ignore Pillow's warnings of odd metadata; make its warning of a decompression bomb an error.

    Warning filters belong to the whole process: enter this around threads, never inside them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


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
    except Exception as error:  # for damaged files Pillow raises nearly anything: struct.error, SyntaxError, …
        raise DataError(f"{path}: damaged or unreadable ({error}).") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey images of 16 bits, or of floats in [0, 1], scaled to 8 bits. Pillow would clip them to white or black."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    array = np.asarray(image).astype(np.float64)
    # Pillow opens 16-bit PNG files as "I;16" or, in older versions, as "I", which may also hold 8-bit values.
    if image.mode.startswith("I;16") or (image.mode == "I" and 255 < array.max() <= 65535):
        array /= 257
    elif image.mode == "F" and array.max() <= 1:
        array *= 255
    return Image.fromarray(array.round().clip(0, 255).astype(np.uint8))

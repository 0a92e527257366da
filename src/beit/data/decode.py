"""The one reader of image files: a file, or its bytes → a Pillow image, upright. Every failure is a `DataError`.

For training and evaluation, on folders and streams, the result is RGB with 8 bits per channel. The public processor
(`image_input.py`) and label maps (`label_maps.py`) open files here too and keep their mode.

Which decoders run is named here. Pillow has others, and chooses by content, not by suffix: a file called .jpg with PostScript
inside would start Ghostscript.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import stat
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from beit.core.errors import BeitError, DataError
from beit.core.text import printable

# Formats for pictures whose decoders are compiled code and start no other program, with the suffixes of their files. HEIF and
# JXL need a plugin for Pillow (pillow-heif, pillow-jxl-plugin), which is used where it is installed.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "TGA": (".tga",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JXL": (".jxl",),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_PLUGINS = {"HEIF": ("pillow_heif", "pillow-heif"), "JXL": ("pillow_jxl", "pillow-jxl-plugin")}
_FILMS = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")  # formats with frames or pages
_SMALLEST_FRAME = 8  # bytes; each of them needs more to describe one
_OVERSHOOT = 2  # how far floats may exceed white: resampling rings, but not by more


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
    with errors_of(name), pillow_warnings(), _open(io.BytesIO(data)) as image:
        return upright_rgb(image, name, smallest_side)


def upright_rgb(image: Image.Image, name: str | os.PathLike[str], smallest_side: int = 1) -> Image.Image:
    """An open image in RGB, upright. Raises DataError when a side is shorter than `smallest_side`."""
    # Before the pixels are decoded, so that an image that is refused costs nothing.
    if min(image.size) < smallest_side:
        raise DataError(
            f"{printable(name)}: {image.width}x{image.height} pixels, smaller than a patch ({smallest_side})."
        )
    image = upright(image)
    numbers = on_8_bit_scale(image)
    if numbers is not None:
        image = Image.fromarray(numbers.round().astype(np.uint8))
    return image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """An open image, decoded, in its own mode, turned by its EXIF orientation. Raises whatever Pillow does."""
    image.load()
    turned = False
    with contextlib.suppress(Exception):  # a damaged EXIF block says nothing, and the pixels are fine
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def on_8_bit_scale(image: Image.Image) -> np.ndarray | None:
    """The pixels of a grey image with more than 8 bits, `(H, W)` in 0..255: uint8, or float32, unrounded. None for other images.

    16 bits are divided by 257. Integers of 32 bits count as 8 bits, or as 16 as soon as one exceeds 255. Floats count from 0 to
    1, or from 0 to 255 where they exceed 1 by far; what exceeds white a little, as sharpened images do, is white.

    Raises:
        DataError: the numbers are on none of these scales, so that white is unknown.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return None
    array = np.asarray(image)
    low, high = array.min(), array.max()
    if image.mode == "F":
        white = 1 if high <= _OVERSHOOT else 255
        if not (-white <= low and high <= _OVERSHOOT * white):  # also NaN
            raise DataError(
                f"floats from {low:g} to {high:g}; wanted 0 to 1, or 0 to 255. Scale them, and save them again"
            )
        return np.clip(array.astype(np.float32) * np.float32(255 / white), 0, 255)
    if low < 0 or high > 65535:
        raise DataError(f"integers from {low} to {high}; wanted 0 to 65535. Scale them, and save them again")
    # Pillow opens 16-bit PNG files as "I;16" or, in older versions, as "I", which may also hold 8-bit values.
    deep = image.mode.startswith("I;16") or high > 255
    return array / np.float32(257) if deep else array.astype(np.uint8)


def _open(file: str | os.PathLike[str] | io.BytesIO) -> Image.Image:
    image = Image.open(file, formats=_decoders())
    try:
        refuse_bomb(image)
    except Image.DecompressionBombError:
        image.close()
        raise
    return image


def refuse_bomb(image: Image.Image) -> None:
    """Raise Pillow's DecompressionBombError for an image of too many pixels, before they are decoded."""
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:  # Pillow only warns, up to twice as many
        raise Image.DecompressionBombError(f"{pixels:,} pixels; at most {limit:,} are read")


def frame_count(image: Image.Image, path: str | os.PathLike[str]) -> int:
    """How many frames an open image file has: of a film, or pages. Previews, such as those in a phone's MPO, do not count.

    Raises:
        DataError: more than its bytes can hold. Other errors are Pillow's.
    """
    count = int(getattr(image, "n_frames", 1)) if image.format in _FILMS else 1
    size = os.stat(path).st_size
    if count > max(size // _SMALLEST_FRAME, 1):
        raise DataError(f"claims {count:,} frames in {size:,} bytes")
    return count


def _decoders() -> list[str]:
    """Those of `FORMATS` that this Pillow has. A plugin may be registered at any time."""
    _load_decoders()
    return [name for name in FORMATS if name in Image.OPEN]


@functools.cache
def _load_decoders() -> None:
    Image.init()
    for module, _ in _PLUGINS.values():
        with contextlib.suppress(ImportError):
            plugin = importlib.import_module(module)  # pillow_jxl registers itself
            getattr(plugin, "register_heif_opener", lambda: None)()


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], in_thread: bool = False) -> Iterator[Image.Image]:
    """An open image file. What goes wrong inside the `with` block is reported as an error of this file.

    Args:
        path: the file.
        in_thread: the caller has entered `pillow_warnings` already, around all its threads.

    Raises:
        DataError: as `read_image`.
    """
    with errors_of(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a named pipe would wait for ever
            raise DataError(f"{printable(path)}: not a file.")
        with contextlib.nullcontext() if in_thread else pillow_warnings(), _open(path) as image:
            yield image


@contextlib.contextmanager
def pillow_warnings() -> Iterator[None]:
    """Ignore Pillow's warnings of odd metadata, and of large images, which are refused here.

    Warning filters belong to the whole process: enter this around threads, never inside them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def errors_of(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever goes wrong inside the `with` block, with this file, is a DataError that names it."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{printable(path)}: refused, it may be a decompression bomb ({error}).") from error
    except DataError as error:
        start = printable(path)
        raise error if str(error).startswith(start) else DataError(f"{start}: {error}.") from error
    except BeitError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{printable(path)}: no such file.") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{printable(path)}: not an image that Pillow can read{_plugin_for(path)}.") from error
    except Exception as error:  # for damaged files Pillow raises nearly anything: struct.error, SyntaxError, …
        raise DataError(f"{printable(path)}: damaged or unreadable ({printable(error)}).") from error


def _plugin_for(path: str | os.PathLike[str]) -> str:
    """The advice for a file whose suffix is of a format that needs a plugin, or a Pillow of today."""
    for name, suffixes in FORMATS.items():
        if str(path).lower().endswith(suffixes) and name not in Image.OPEN:
            package = _PLUGINS[name][1] if name in _PLUGINS else "--upgrade pillow"
            return f" as it is installed. If it is {name}: pip install {package}"
    return ""

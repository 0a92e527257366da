"""Every form of image that the processor accepts → one form, or an error that says which image and why.

PIL image, file       turned upright by its EXIF orientation (the reference ignores it)
any 8-bit mode        → RGB: 1-bit, greyscale, palette, CMYK, YCbCr, HSV
alpha                 dropped, the stored colours are kept: composite first if the background matters
16-bit (I;16, uint16) ÷ 257, so that white is 255 and no step is lost: kept as float
PIL mode I            8-bit values, or 16-bit values as soon as one exceeds 255
float image file      0..1 or 0..255, as `decode.on_8_bit_scale` says: brought to 0..255, kept as float
bool                  0 or 255, as Pillow reads 1-bit images
other integers        must be 0..255
float (F, 16..64)     of images in memory, values are kept, as float32: never through 8 bits
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from beit.core.errors import DataError, InputError
from beit.core.text import printable
from beit.data.decode import errors_of, on_8_bit_scale, opened, upright
from beit.data.tensors import to_numpy

FIRST, LAST, NONE = "channels_first", "channels_last", "none"
FILES = (Image.Image, str, os.PathLike)


class Bands(NamedTuple):
    """An image that Pillow can resize and crop without loss.

    Attributes:
        images: one RGB image, or one image per channel (mode L or F).
        layout: where the channels were: `FIRST` or `LAST`.
        within_one: whether it holds floats that all lie in 0..1.
    """

    images: list[Image.Image]
    layout: str
    within_one: bool


def as_list(images: Any, what: str, single_ndim: int) -> list[Any]:
    """One image, a (nested) list of them, or an array with a batch axis → a flat list of single images.

    Args:
        images: PIL images, paths, arrays or tensors.
        what: what to call one in a message.
        single_ndim: number of dimensions of the array of a single one (2 is always allowed).

    Raises:
        InputError: nothing is given, or something else.
    """
    is_array = hasattr(images, "ndim") and hasattr(images, "__array__")
    if isinstance(images, (list, tuple)) or (is_array and single_ndim < images.ndim <= 4):
        if len(images) == 0:
            raise InputError(f"there is no {what}: the list or batch is empty")
        return [one for image in images for one in as_list(image, what, single_ndim)]
    if isinstance(images, FILES) or (is_array and images.ndim in (2, single_ndim)):
        return [images]
    got = f"has {images.ndim} dimensions, {tuple(images.shape)}" if is_array else f"is a {type(images).__name__}"
    wanted = "a PIL image, a path, an array of 2 (height, width) to 4 (a batch) dimensions, or a list of those"
    raise InputError(f"{what} {got}; wanted {wanted}")


def read_bands(image: Any, channels: int, input_format: str | None, name: str) -> Bands:
    """An image in any form → its bands.

    Args:
        image: a PIL image, a path, or an array or tensor (H, W), (C, H, W) or (H, W, C).
        channels: number of channels that the model takes.
        input_format: `FIRST`, `LAST` or `NONE` for arrays; None finds it out and refuses to guess.
        name: what to call the image in a message.

    Raises:
        InputError: it cannot be read, or has another shape, dtype or number of channels.
    """
    on_scale = False  # whether white is known to be 255
    if not isinstance(image, FILES):
        array = to_numpy(image)
    else:
        from_file = not isinstance(image, Image.Image)
        image = open_upright(image, name)
        if image.mode != "F" and not image.mode.startswith("I"):
            return Bands(_eight_bit_bands(image, channels, name), LAST, False)
        input_format = None
        if from_file or image.mode != "F":
            array, on_scale = _on_scale(image, name), True
        else:
            array = np.asarray(image)
    if 0 in array.shape:
        raise InputError(f"{name} is empty: its shape is {array.shape}")
    axis = _channel_axis(array.shape, input_format, channels, name)
    planes = array[None] if array.ndim == 2 else np.moveaxis(array, axis, 0)  # (C, H, W)
    if len(planes) == 4 and channels == 3:
        planes = planes[:3]  # alpha is dropped, as for PIL images
    if len(planes) not in (1, channels):
        raise InputError(
            f"{name} has {len(planes)} channels, wanted {channels} (the length of image_mean), greyscale or RGBA. "
            "Convert it to RGB, or set image_mean and image_std to one value per channel"
        )
    planes = np.broadcast_to(_to_8_bit_scale(planes, name), (channels, *planes.shape[1:]))  # grey in every channel
    if planes.dtype == np.uint8 and channels == 3:
        images = [Image.fromarray(np.ascontiguousarray(np.moveaxis(planes, 0, 2)))]  # Pillow resizes all three at once
    else:
        images = [Image.fromarray(np.ascontiguousarray(plane)) for plane in planes]
    within_one = not on_scale and array.dtype.kind == "f" and bool(planes.min() >= 0 and planes.max() <= 1)
    return Bands(images, LAST if axis == 2 or isinstance(image, Image.Image) else FIRST, within_one)


def open_upright(image: Any, name: str) -> Image.Image:
    """A PIL image or a path → a decoded image, upright by its EXIF orientation, in its own mode.

    Raises:
        InputError: it cannot be read or has no pixels; the message calls it `name`.
    """
    path = None if isinstance(image, Image.Image) else os.fspath(image)
    source = path or getattr(image, "filename", "")
    label = f"{name} ({printable(source)})" if source else name
    try:
        if path is not None:
            with opened(path, in_thread=True) as file:
                image = upright(file)
        else:
            with errors_of(source or name):
                image = upright(image)
    except DataError as error:
        reason = str(error).removeprefix(f"{printable(source or name)}: ").rstrip(".")
        raise InputError(f"{label} cannot be read: {reason}. Check that it exists and is a whole image") from error
    if 0 in image.size:
        raise InputError(f"{label} is empty: {image.width} pixels wide, {image.height} high")
    return image


def _on_scale(image: Image.Image, name: str) -> np.ndarray:
    try:
        numbers = on_8_bit_scale(image)
    except DataError as error:
        raise InputError(f"{name} holds {error}") from error
    assert numbers is not None
    return numbers


def _eight_bit_bands(image: Image.Image, channels: int, name: str) -> list[Image.Image]:
    """An image of an 8-bit mode → its bands with 1, 3 or 4 channels."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
    if mode is None:
        raise InputError(f"{name} is a PIL image and cannot give {channels} channels, as image_mean: pass an array")
    try:
        if image.mode in ("P", "PA"):  # straight to RGB, Pillow would warn where the palette holds transparency
            image = image.convert("RGBA")
        image = image if image.mode == mode else image.convert(mode)
    except ValueError as error:
        raise InputError(f"{name} has mode {image.mode}, which Pillow cannot convert to {mode}: {error}") from error
    # Pillow weighs colours by alpha when it resizes RGBA. Here the fourth channel is a channel like the others.
    return list(image.split()) if mode == "RGBA" else [image]


def _channel_axis(shape: tuple[int, ...], input_format: str | None, channels: int, name: str) -> int:
    """The axis of an array's channels: 0 or 2. A 2-D array counts as channels first."""
    if len(shape) == 2:
        return 0
    if input_format == NONE:
        raise InputError(f"{name} has shape {shape} while input_data_format='none' means (height, width)")
    if input_format is not None:
        return 0 if input_format == FIRST else 2
    hint = "set input_data_format to 'channels_first' or 'channels_last' ('none' for a stack of greyscale images)"
    for counts in ({1, 3, channels}, {4}):
        first, last = shape[0] in counts, shape[2] in counts
        if first and last:
            raise InputError(f"{name} of shape {shape} is ambiguous: both ends could be channels; {hint}")
        if first or last:
            return 0 if first else 2
    raise InputError(f"{name} of shape {shape} has channels neither first nor last: wanted 1, 3 or 4 of them; {hint}")


def _to_8_bit_scale(array: np.ndarray, name: str) -> np.ndarray:
    """Pixel values of any dtype → uint8 or float32 (see the table at the top of this module)."""
    kind = array.dtype.kind
    if kind == "b":
        return array * np.uint8(255)
    if kind == "f":
        return array.astype(np.float32, copy=False)
    if kind == "u" and array.dtype.itemsize == 2:  # by kind and size, not by dtype: in either byte order
        return array / np.float32(257)
    if kind not in "iu":
        raise InputError(f"{name} has dtype {array.dtype}; wanted bool, integers or floats")
    if array.dtype != np.uint8 and (array.min() < 0 or array.max() > 255):
        got = f"{array.dtype} with values {array.min()}..{array.max()}"
        raise InputError(f"{name} is {got}; integers must be 0..255. Pass uint16 for 16 bits, floats for other ranges")
    return array.astype(np.uint8, copy=False)

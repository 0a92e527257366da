"""From pictures to the tensors BEiT takes, and from segmentation logits back to label maps.

For an 8-bit RGB picture the order is the reference's (transformers 4.37.2) and so is every bit of the result:

    resize with Pillow on 8-bit pixels → centre crop, zeros where too small → × rescale_factor → (x − mean) / std

After the crop a pixel still is one of 256 values, so the last two steps are one table of 256 numbers a channel.
What becomes of other pictures (all of this happens before the resize):

    EXIF orientation            applied (the reference ignores it)
    1-bit, greyscale, palette   → RGB
    alpha (RGBA, LA, palette)   dropped, the stored colours are kept: composite first if the background matters
    CMYK, YCbCr, HSV            → RGB
    16-bit (I;16, uint16)       ÷ 257, so white is 255 and no step is lost: kept as float
    PIL mode I                  8-bit values, or 16-bit values as soon as one exceeds 255
    bool                        0 or 255, as Pillow reads 1-bit pictures
    other integer arrays        must be 0..255
    float (F, float16..64)      values kept, resized in float (never through 8 bits), float32 afterwards

Needs Pillow and numpy; torch, jax and tensorflow are imported only when tensors of theirs are asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageOps

from beit.errors import CheckpointError, ConfigError, InputError, MissingExtraError, require

FIRST, LAST, NONE = "channels_first", "channels_last", "none"
FILE_NAME = "preprocessor_config.json"
_ORIENTATION = 0x0112  # the EXIF tag
_PIL_MODE = {1: "L", 3: "RGB", 4: "RGBA"}
_THREADS_FROM = 4  # below so many pictures, starting threads costs more than it saves
_CHUNK = 1 << 24  # at most so many scores at full size are held at once in post-processing (64 MiB of float32)
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_DECODING_ERRORS = (OSError, SyntaxError, EOFError, ValueError, *_BOMBS)


# ---------------------------------------------------------------------------------------------------------------------
# What comes out


class BatchFeature(dict[str, Any]):
    """A dict whose values can be read as attributes too: `model(**features)`, `features.pixel_values`.

    Args:
        data: the entries.
        tensor_type: see `convert_to_tensors`.
    """

    def __init__(self, data: Mapping[str, Any] | None = None, tensor_type: Any = None) -> None:
        super().__init__(data or {})
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r} in this batch; it has {', '.join(self) or 'none'}") from None

    def convert_to_tensors(self, tensor_type: Any = None) -> BatchFeature:
        """Turn every entry into one tensor: "np", "pt", "jax" or "tf", or an enum with such a value; None: no change.

        Raises:
            InputError: the kind is unknown, or arrays of one entry differ in shape.
            MissingExtraError: the framework is not installed.
        """
        kind = _plain(tensor_type)
        if kind is not None:
            make = _tensor_maker(kind)
            for key, value in self.items():
                self[key] = make(_stack(value, key) if isinstance(value, (list, tuple)) else value)
        return self

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Move torch tensors to a device and cast the floating ones to a dtype, as `torch.Tensor.to`; returns itself.

        Raises:
            InputError: an entry is no torch tensor.
        """
        device = kwargs.get("device", args[0] if args and not _is_torch_dtype(args[0]) else None)
        for key, value in self.items():
            if not _is_torch(value):
                raise InputError(
                    f"to() moves torch tensors, but {key} is {_kind(value)}; pass return_tensors='pt' first"
                )
            if value.is_floating_point():
                self[key] = value.to(*args, **kwargs)
            elif device is not None:  # labels move but stay integers
                self[key] = value.to(device=device)
        return self


def _tensor_maker(kind: str) -> Callable[[Any], Any]:
    """The function that turns an array into a tensor of the framework `kind`."""
    purpose = f"return_tensors={kind!r}"
    if kind == "np":
        return np.asarray
    if kind == "pt":
        return require("torch", "torch", purpose).as_tensor  # shares the memory of a numpy array
    if kind == "jax":
        return require("jax.numpy", "flax", purpose).asarray
    if kind == "tf":
        try:
            import tensorflow  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError as error:
            raise MissingExtraError(f"{purpose} needs tensorflow. Install it with: pip install tensorflow") from error
        return tensorflow.convert_to_tensor
    raise InputError(f"return_tensors is {kind!r}; it must be 'np', 'pt', 'jax', 'tf' or None")


def _stack(values: Sequence[Any], name: str) -> Any:
    arrays = [np.asarray(value) for value in values]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise InputError(
            f"{name} have different shapes and make no batch: {', '.join(map(str, shapes))}. Turn on do_resize (to a "
            "height and width) or do_center_crop, or pass return_tensors=None for a list"
        )
    return np.stack(arrays)


# ---------------------------------------------------------------------------------------------------------------------
# Settings


def _plain(value: Any) -> Any:
    """The value of an enum member, and anything else unchanged."""
    return getattr(value, "value", value)


def _kind(value: Any) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace("a builtins.", "a ")


def _is_torch(value: Any) -> bool:
    """Whether it is a torch tensor (or of a subclass, as torchvision's), without importing torch."""
    return any((kind.__module__, kind.__name__) == ("torch", "Tensor") for kind in type(value).__mro__)


def _is_torch_dtype(value: Any) -> bool:
    return str(type(value)) == "<class 'torch.dtype'>"


def _is_length(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value > 0)


def _size_dict(size: Any, name: str) -> dict[str, int]:
    """A size in any of the accepted forms → {"height", "width"}, {"shortest_edge"} or that with {"longest_edge"}."""
    if isinstance(size, Mapping):
        sizes = {key: value for key, value in size.items() if value is not None}
    elif isinstance(size, (list, tuple)) and len(size) == 2:
        sizes = {"height": size[0], "width": size[1]}
    else:
        sizes = {"height": size, "width": size}
    known = set(sizes) in ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})
    if not known or not all(_is_length(value) for value in sizes.values()):
        raise ConfigError(
            f"{name} is {size!r}; give one length for a square, (height, width), "
            'or a dict {"height": …, "width": …} or {"shortest_edge": …}, in whole pixels'
        )
    return {key: int(value) for key, value in sizes.items()}


def _resampling(value: Any) -> Image.Resampling | None:
    """A filter given as enum member, number or name; None stays None."""
    value = _plain(value)
    try:
        if isinstance(value, str):
            return Image.Resampling[value.upper()]
        return None if value is None else Image.Resampling(value)
    except (KeyError, ValueError):
        known = ", ".join(f"{filter_.name} ({filter_.value})" for filter_ in Image.Resampling)
        raise InputError(f"resample is {value!r}; use one of {known}") from None


def _data_format(value: Any, name: str, allowed: tuple[str, ...]) -> str | None:
    value = _plain(value)
    if value is not None and value not in allowed:
        raise InputError(f"{name} is {value!r}; it must be {', '.join(map(repr, allowed))} or None")
    return value


def _per_channel(value: Any, channels: int, name: str) -> np.ndarray:
    """A mean or standard deviation as float32 (channels,)."""
    values = np.asarray(value, dtype=np.float32).reshape(-1)
    if np.ndim(value) > 0 and len(values) != channels:
        raise InputError(f"{name} has {len(values)} values for {channels} channels; give one value or {channels}")
    return np.broadcast_to(values, (channels,))


@dataclass(frozen=True)
class _Steps:
    """What one call does, checked: None leaves a step out."""

    size: dict[str, int] | None
    resample: Image.Resampling | None
    crop: tuple[int, int] | None
    scale: float | None
    mean: np.ndarray | None  # (channels,) float32
    std: np.ndarray | None
    channels: int
    input_format: str | None
    reduce_labels: bool
    ignore_index: int

    def __post_init__(self) -> None:
        if self.size is not None and self.resample is None:
            raise ConfigError("resample is None while do_resize is True; choose a filter or pass do_resize=False")
        if self.std is not None and not np.all(self.std > 0):
            raise InputError(f"image_std is {self.std.tolist()}; every value must be above 0")

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of every result, or None where it depends on the picture."""
        if self.crop is not None:
            return self.crop
        if self.size is not None and "height" in self.size:
            return self.size["height"], self.size["width"]
        return None

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after the resize of a picture of this height and width."""
        if self.size is None:
            return height, width
        if "height" in self.size:
            return self.size["height"], self.size["width"]
        short, long = sorted((height, width))
        edge = self.size["shortest_edge"]
        other = int(edge * long / short)
        limit = self.size.get("longest_edge", other)
        if other > limit:
            edge, other = max(1, int(limit * edge / other)), limit
        return (other, edge) if width <= height else (edge, other)

    def normalised(self, values: np.ndarray) -> np.ndarray:
        """Rescale and normalise (channels, …) numbers in the reference's dtypes: float64 product, then float32."""
        if self.scale is not None:
            values = values * np.float64(self.scale) if values.dtype == np.uint8 else values * self.scale
        values = values.astype(np.float32)
        if self.mean is not None and self.std is not None:
            shape = (-1,) + (1,) * (values.ndim - 1)
            values = (values - self.mean.reshape(shape)) / self.std.reshape(shape)
        return values


# ---------------------------------------------------------------------------------------------------------------------
# Reading pictures and label maps


def _each(images: Any, what: str, single_ndim: int) -> Iterator[Any]:
    """Flatten one picture or label map, a (nested) list of them, or a batch array of them."""
    if isinstance(images, (list, tuple)):
        for image in images:
            yield from _each(image, what, single_ndim)
    elif isinstance(images, (Image.Image, str, os.PathLike)):
        yield images
    elif not (hasattr(images, "ndim") and hasattr(images, "__array__")):
        raise InputError(
            f"{what} is {_kind(images)}; wanted a PIL image, a path, an array or tensor, or a list of those"
        )
    elif images.ndim in (2, single_ndim):
        yield images
    elif single_ndim < images.ndim <= 4:  # a batch, or (B, 1, H, W) label maps
        for image in images:
            yield from _each(image, what, single_ndim)
    else:
        raise InputError(
            f"{what} array has {images.ndim} dimensions, {tuple(images.shape)}; wanted 2 (height, width) to 4 (a batch)"
        )


def _as_list(images: Any, what: str, single_ndim: int) -> list[Any]:
    found = list(_each(images, what, single_ndim))
    if not found:
        raise InputError(f"there is no {what}: the list or batch is empty")
    return found


def _opened(image: Any, name: str) -> Image.Image:
    """A PIL image or a path → a decoded image, upright as its EXIF orientation says."""
    path = None if isinstance(image, Image.Image) else os.fspath(image)
    source = path or getattr(image, "filename", "")
    name = f"{name} ({source})" if source else name
    try:
        with contextlib.nullcontext(image) if path is None else Image.open(path) as file:
            file.load()
            image = _upright(file)
    except _DECODING_ERRORS as error:
        raise InputError(
            f"{name} cannot be read: {error}. Check that it exists, is complete and is a picture"
        ) from error
    if 0 in image.size:
        raise InputError(f"{name} is empty: {image.width} pixels wide, {image.height} high")
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
    except Exception:  # a damaged EXIF block says nothing about the orientation, and the pixels are fine
        turned = False
    return ImageOps.exif_transpose(image) if turned else image


def _to_numpy(array: Any) -> np.ndarray:
    """A numpy, torch, jax or tensorflow array → numpy, without a copy where possible."""
    if _is_torch(array):
        array = array.detach().cpu()
        array = array.float() if str(array.dtype) == "torch.bfloat16" else array  # numpy has no bfloat16
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _to_8_bit_scale(array: np.ndarray, name: str) -> np.ndarray:
    """Pixel values of any dtype → uint8, or float32/float64 (see the table at the top of this module)."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    if array.dtype.kind == "f":
        return array if array.dtype.itemsize >= 4 else array.astype(np.float32)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return array.astype(np.float32) / np.float32(257)
    if array.dtype.kind in "iu":
        low, high = array.min(), array.max()
        if low >= 0 and high <= 255:
            return array.astype(np.uint8)
        raise InputError(
            f"{name} is {array.dtype} with values {low}..{high}; integers must be 0..255. "
            "Pass uint16 for 16-bit pictures, or floats for any other range"
        )
    raise InputError(f"{name} has dtype {array.dtype}; wanted bool, integers or floats")


def _channel_axis(shape: tuple[int, ...], input_format: str | None, channels: int, name: str) -> int:
    """Where the channels are in a 3-D shape: 0 or 2."""
    if input_format is not None:
        return 0 if input_format == FIRST else 2
    hint = "set input_data_format to 'channels_first' or 'channels_last' ('none' for a stack of greyscale pictures)"
    for counts in ({1, 3, channels}, {4}):
        first, last = shape[0] in counts, shape[2] in counts
        if first and last:
            raise InputError(f"{name} of shape {shape} is ambiguous: both ends could be channels; {hint}")
        if first or last:
            return 0 if first else 2
    raise InputError(f"{name} of shape {shape} has channels neither first nor last: wanted 1, 3 or 4 of them; {hint}")


def _array_pixels(array: np.ndarray, steps: _Steps, name: str) -> tuple[np.ndarray, str]:
    """An array (H, W), (C, H, W) or (H, W, C) → (channels, H, W) uint8 or float, and the format it came in."""
    if 0 in array.shape:
        raise InputError(f"{name} is empty: its shape is {array.shape}")
    if array.ndim == 2:
        array, axis = array[None], 0
    elif steps.input_format == NONE:
        raise InputError(f"{name} has shape {array.shape} while input_data_format='none' means (height, width)")
    else:
        axis = _channel_axis(array.shape, steps.input_format, steps.channels, name)
        array = np.moveaxis(array, axis, 0)
    count = array.shape[0]
    if count == 1 != steps.channels:
        array = np.broadcast_to(array, (steps.channels, *array.shape[1:]))
    elif count == 4 and steps.channels == 3:
        array = array[:3]  # alpha is dropped, as for PIL images
    elif count != steps.channels:
        raise InputError(
            f"{name} has {count} channels, wanted {steps.channels} (the length of image_mean), greyscale or RGBA. "
            "Convert it to RGB, or set image_mean and image_std to one value a channel"
        )
    return _to_8_bit_scale(array, name), FIRST if axis == 0 else LAST


def _pil_pixels(image: Image.Image, steps: _Steps, name: str) -> Image.Image | np.ndarray:
    """A PIL image → an 8-bit image of mode L or RGB, or (channels, H, W) where Pillow's 8-bit modes cannot hold it."""
    if image.mode == "F" or image.mode.startswith("I"):
        array = np.asarray(image)
        if image.mode == "I" and array.min() >= 0 and 255 < array.max() <= 65535:
            array = array.astype(np.uint16)
        return _array_pixels(array, steps, name)[0]
    mode = _PIL_MODE.get(steps.channels)
    if mode is None:
        raise InputError(
            f"{name} is a PIL image and cannot give {steps.channels} channels (the length of image_mean): pass an array"
        )
    try:
        if (
            image.mode in ("P", "PA") and mode != "RGBA"
        ):  # straight to RGB would warn where the palette holds transparency
            image = image.convert("RGBA")
        image = image if image.mode == mode else image.convert(mode)
    except ValueError as error:
        raise InputError(f"{name} has mode {image.mode}, which Pillow cannot convert to {mode}: {error}") from error
    # Pillow weighs colours by alpha when it resizes RGBA; four asked-for channels are just channels.
    return np.moveaxis(np.asarray(image), 2, 0) if mode == "RGBA" else image


def _label_map(label: Any, name: str) -> np.ndarray:
    """A label map in any accepted form → (H, W) integers."""
    if isinstance(label, (Image.Image, str, os.PathLike)):
        image = _opened(label, name)
        if image.mode not in ("1", "L", "P", "F") and not image.mode.startswith("I"):
            raise InputError(
                f"{name} has mode {image.mode}, but a label map holds one class number a pixel. Translate its colours "
                "to class numbers and save it as greyscale (L, I;16) or palette (P) PNG"
            )
        array = np.asarray(image)  # of a palette image: the indices
    else:
        array = _to_numpy(label)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or 0 in array.shape:
        hint = "; translate its colours to class numbers" if array.ndim == 3 and 3 in array.shape else ""
        raise InputError(f"{name} has shape {array.shape}; wanted (height, width) or (1, height, width){hint}")
    if array.dtype.kind not in "biu":
        if array.dtype.kind != "f" or not np.array_equal(array, np.rint(array)):
            raise InputError(f"{name} holds {array.dtype} values that are not whole numbers; wanted class numbers")
    elif array.dtype.kind != "b" and not -(2**31) <= array.min() <= array.max() < 2**31:
        raise InputError(f"{name} holds values {array.min()}..{array.max()}; class numbers must fit 32 bits")
    return array.astype(np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# The steps. Pixels are an 8-bit PIL image or (channels, H, W) numbers; both kinds take the same route.


def _hw(pixels: Image.Image | np.ndarray) -> tuple[int, int]:
    return (pixels.height, pixels.width) if isinstance(pixels, Image.Image) else (pixels.shape[-2], pixels.shape[-1])


def _resize(pixels: Image.Image | np.ndarray, size: tuple[int, int], resample: int) -> Image.Image | np.ndarray:
    """Resize to (height, width): RGB and grey in 8 bits, everything else channel by channel in its own kind.

    The whole picture is resized even where a crop follows. `Image.resize(box=…)` would do a fifth less, but Pillow 13
    chooses the order of its two rounding passes from the sizes it is given, so that bits differ for some of them.
    """
    height, width = size
    if _hw(pixels) == size:
        return pixels
    if not isinstance(pixels, Image.Image) and pixels.dtype == np.uint8 and pixels.shape[0] == 3:
        pixels = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, 2)))
    if isinstance(pixels, Image.Image):
        return pixels.resize((width, height), resample)
    kind = np.uint8 if pixels.dtype == np.uint8 else np.int32 if pixels.dtype.kind == "i" else np.float32
    planes = [Image.fromarray(np.ascontiguousarray(plane, dtype=kind)) for plane in pixels]
    return np.stack([np.asarray(plane.resize((width, height), resample)) for plane in planes])


def _offset(length: int, wanted: int) -> int:
    """Where a centred window begins; below 0 where it is longer, so that the picture sits at (wanted - length) // 2.

    The reference rounds both halves down when the difference is odd and loses a row; we return the size asked for.
    """
    return (length - wanted) // 2 if wanted <= length else -((wanted - length) // 2)


def _center_crop(pixels: Image.Image | np.ndarray, size: tuple[int, int], fill: int) -> Image.Image | np.ndarray:
    """The centred (height, width) window; what lies outside of the picture is `fill` (0 in a PIL image)."""
    (have_h, have_w), (height, width) = _hw(pixels), size
    top, left = _offset(have_h, height), _offset(have_w, width)
    if isinstance(pixels, Image.Image):
        return pixels.crop((left, top, left + width, top + height))
    window = pixels[..., max(top, 0) : top + height, max(left, 0) : left + width]
    if window.shape[-2:] == size:
        return window
    padded = np.full((*pixels.shape[:-2], height, width), fill, dtype=pixels.dtype)
    y, x = max(-top, 0), max(-left, 0)
    padded[..., y : y + window.shape[-2], x : x + window.shape[-1]] = window
    return padded


def _numbers(
    pixels: Image.Image | np.ndarray, steps: _Steps, table: np.ndarray | None, out: np.ndarray | None
) -> np.ndarray:
    """Cropped pixels → rescaled and normalised (channels, H, W), written into `out` where given.

    Without rescaling and normalisation (`table` is None) 8-bit pixels stay uint8, as in the reference.
    """
    if isinstance(pixels, Image.Image):
        array = np.asarray(pixels)
        pixels = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    if table is None:
        return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    out = np.empty(pixels.shape, np.float32) if out is None else out
    if pixels.dtype != np.uint8:
        out[...] = steps.normalised(pixels)
        return out
    for channel, values, plane in zip(out, table, pixels, strict=True):
        np.take(values, plane, out=channel, mode="wrap")  # "raise", the default, would buffer; no index exceeds 255
    return out


def _process_label(label: np.ndarray, steps: _Steps) -> np.ndarray:
    """(H, W) class numbers → int64 (H', W'): reduced, resized (nearest), cropped or padded with the ignore index."""
    if steps.reduce_labels:
        # One expression on the old values, so that neither the caller's array nor the order of the rules matters.
        label = np.where((label == 0) | (label == steps.ignore_index), steps.ignore_index, label - 1)
    planes = _resize(label[None], steps.target(*label.shape), Image.Resampling.NEAREST)
    if steps.crop is not None:
        planes = _center_crop(planes, steps.crop, steps.ignore_index)
    return np.asarray(planes, dtype=np.int64)[0]


@dataclass(frozen=True)
class _Done:
    pixels: np.ndarray  # (channels, H, W)
    label: np.ndarray | None  # (H, W) int64
    format: str  # of the input
    already_scaled: bool  # floats within 0..1, about to be rescaled again


def _process(
    image: Any, label: Any, index: int, steps: _Steps, table: np.ndarray | None, out: np.ndarray | None
) -> _Done:
    """All steps for one picture and its label map, if it has one."""
    name = f"image {index}"
    scaled = False
    pixels: Image.Image | np.ndarray
    if isinstance(image, (Image.Image, str, os.PathLike)):
        image = _opened(image, name)
        floats = image.mode == "F"
        pixels, source = _pil_pixels(image, steps, name), LAST
    else:
        array = _to_numpy(image)
        floats = array.dtype.kind == "f"
        pixels, source = _array_pixels(array, steps, name)
    if floats and steps.scale is not None and not isinstance(pixels, Image.Image):
        scaled = bool(pixels.min() >= 0 and pixels.max() <= 1)
    size = _hw(pixels)
    if label is not None:
        label = _label_map(label, f"segmentation map {index}")
        if label.shape != size:
            raise InputError(
                f"segmentation map {index} is {label.shape} (height, width) and its image {size}. Pass the map that "
                "belongs to the image at its own size, turned as the image's EXIF orientation says"
            )
        label = _process_label(label, steps)
    if steps.size is not None and steps.resample is not None:
        pixels = _resize(pixels, steps.target(*size), steps.resample)
    if steps.crop is not None:
        pixels = _center_crop(pixels, steps.crop, 0)
    return _Done(_numbers(pixels, steps, table, out), label, source, scaled)


# ---------------------------------------------------------------------------------------------------------------------
# The processor


class BeitImageProcessor:
    """Prepares pictures and label maps for BEiT; same arguments, files and results as transformers 4.37.2's.

    Args:
        do_resize: resize to `size`.
        size: one length (a square), (height, width), {"height", "width"}, or {"shortest_edge"[, "longest_edge"]} which
            keeps the proportions. Default 256 × 256.
        resample: a `PIL.Image.Resampling`, its number or its name. Label maps always use the nearest neighbour.
        do_center_crop: cut the centre, `crop_size`; where the picture is smaller, pad with 0.
        crop_size: as `size`, but a height and a width. Default 224 × 224.
        rescale_factor: what pixel values are multiplied by.
        do_rescale: multiply by `rescale_factor`; turn off for floats that are within 0..1 already.
        do_normalize: subtract `image_mean`, then divide by `image_std`.
        image_mean, image_std: one number, or one a channel. Default 0.5 each. The length of a list sets the number of
            channels of the result; otherwise it is 3.
        do_reduce_labels: label maps: 0 becomes the ignore index and all other labels go down by one (ADE20k).
        semantic_loss_ignore_index: the label that the loss skips; written by do_reduce_labels and by padding. Also
            accepted as `ignore_index`. Give it the value of the config's field of this name. Default 255.
        **kwargs: unknown fields, kept as attributes and saved again.

    Raises:
        ConfigError: an impossible size, or a field that would hide a method.
        InputError: an unknown resampling filter.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    #: Most threads one call may use, None: as many as this process has cores. 1 suits data-loader workers.
    max_threads: ClassVar[int | None] = None

    def __init__(
        self,
        do_resize: bool = True,
        size: Any = None,
        resample: Any = Image.Resampling.BICUBIC,
        do_center_crop: bool = True,
        crop_size: Any = None,
        rescale_factor: float = 1 / 255,
        do_rescale: bool = True,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        do_reduce_labels: bool = False,
        semantic_loss_ignore_index: int = 255,
        **kwargs: Any,
    ) -> None:
        if "reduce_labels" in kwargs:
            warnings.warn("`reduce_labels` is deprecated; use `do_reduce_labels`", FutureWarning, stacklevel=2)
            do_reduce_labels = kwargs.pop("reduce_labels")
        self.do_resize = do_resize
        self.size = _size_dict(256 if size is None else size, "size")
        self.resample = _resampling(resample)
        self.do_center_crop = do_center_crop
        self.crop_size = _size_dict(224 if crop_size is None else crop_size, "crop_size")
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = [0.5, 0.5, 0.5] if image_mean is None else image_mean
        self.image_std = [0.5, 0.5, 0.5] if image_std is None else image_std
        self.do_reduce_labels = do_reduce_labels
        self.semantic_loss_ignore_index = int(kwargs.pop("ignore_index", semantic_loss_ignore_index))
        for key in ("feature_extractor_type", "image_processor_type"):  # the class's name, written again by to_dict
            kwargs.pop(key, None)
        for key, value in kwargs.items():
            if hasattr(type(self), key):
                raise ConfigError(
                    f"the field {key!r} would hide a method or attribute of {type(self).__name__}; remove it"
                )
            setattr(self, key, value)

    def __call__(self, images: Any, segmentation_maps: Any = None, **kwargs: Any) -> BatchFeature:
        """`preprocess` under another name."""
        return self.preprocess(images, segmentation_maps=segmentation_maps, **kwargs)

    def preprocess(
        self,
        images: Any,
        segmentation_maps: Any = None,
        do_resize: bool | None = None,
        size: Any = None,
        resample: Any = None,
        do_center_crop: bool | None = None,
        crop_size: Any = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        do_reduce_labels: bool | None = None,
        return_tensors: Any = None,
        data_format: Any = FIRST,
        input_data_format: Any = None,
        semantic_loss_ignore_index: int | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare one picture or many. Every argument that is None takes the processor's own setting.

        Args:
            images: a PIL image, a path, an array or tensor (H, W), (C, H, W), (H, W, C) or a batch of those with one
                dimension more, or a list of any of these. Values 0..255; pass `do_rescale=False` for floats in 0..1.
            segmentation_maps: as many label maps, at the size of their pictures: PIL images (L, P, I, …), paths,
                arrays (H, W) or (1, H, W), or a batch (B, H, W). Whole numbers.
            return_tensors: "pt", "np", "jax" or "tf"; None gives lists of numpy arrays.
            data_format: "channels_first", "channels_last", or None: as the input (a PIL image counts as channels last).
            input_data_format: how arrays are laid out, "none" for (H, W); None finds out and refuses to guess.

        Returns:
            `pixel_values` (B, C, H, W) float32 — uint8 for 8-bit pictures when neither rescaled nor normalised — and,
            with maps, `labels` (B, H, W) int64.

        Raises:
            InputError: a picture, map or argument is not as above; the message says which and what to do.
            ConfigError: an impossible size or filter.
            MissingExtraError: the framework asked for is not installed.
        """
        if kwargs.pop("ignore_index", None) is not None:
            raise InputError("ignore_index of one call is spelt semantic_loss_ignore_index")
        if kwargs:
            warnings.warn(f"ignored, unknown to the image processor: {', '.join(kwargs)}", UserWarning, stacklevel=2)

        def chosen(name: str, value: Any) -> Any:
            return getattr(self, name) if value is None else value

        layout = _data_format(data_format, "data_format", (FIRST, LAST))
        mean, std = chosen("image_mean", image_mean), chosen("image_std", image_std)
        channels = len(mean) if np.ndim(mean) else 3
        normalise = chosen("do_normalize", do_normalize)
        steps = _Steps(
            size=_size_dict(chosen("size", size), "size") if chosen("do_resize", do_resize) else None,
            resample=_resampling(chosen("resample", resample)),
            crop=_crop_pair(chosen("crop_size", crop_size)) if chosen("do_center_crop", do_center_crop) else None,
            scale=float(chosen("rescale_factor", rescale_factor)) if chosen("do_rescale", do_rescale) else None,
            mean=_per_channel(mean, channels, "image_mean") if normalise else None,
            std=_per_channel(std, channels, "image_std") if normalise else None,
            channels=channels,
            input_format=_data_format(input_data_format, "input_data_format", (FIRST, LAST, NONE)),
            reduce_labels=chosen("do_reduce_labels", do_reduce_labels),
            ignore_index=chosen("semantic_loss_ignore_index", semantic_loss_ignore_index),
        )
        pictures = _as_list(images, "image", 2 if steps.input_format == NONE else 3)
        maps = [None] * len(pictures) if segmentation_maps is None else _as_maps(segmentation_maps, len(pictures))
        make = _tensor_maker(_plain(return_tensors)) if return_tensors is not None else None  # fails before the work

        table = batch = None
        if steps.scale is not None or steps.mean is not None:
            table = steps.normalised(np.tile(np.arange(256, dtype=np.uint8), (channels, 1)))  # (channels, 256)
            if steps.output_size is not None and layout is not None:
                batch = _empty_batch(len(pictures), channels, steps.output_size, layout)

        def one(i: int) -> _Done:
            return _process(pictures[i], maps[i], i, steps, table, None if batch is None else batch[i])

        done = self._map(one, pictures)
        if any(item.already_scaled for item in done):
            warnings.warn(
                "images hold floats within 0..1 and are rescaled again: pass do_rescale=False if done before",
                UserWarning,
                stacklevel=2,
            )
        if batch is not None:
            pixels: Any = batch if layout == FIRST else np.moveaxis(batch, 1, 3)
        else:
            pixels = [np.moveaxis(d.pixels, 0, 2) if (layout or d.format) == LAST else d.pixels for d in done]
        data = {"pixel_values": list(pixels) if make is None else pixels}
        if segmentation_maps is not None:
            data["labels"] = [item.label for item in done]
        return BatchFeature(data, return_tensors)

    def _map(self, one: Callable[[int], _Done], pictures: list[Any]) -> list[_Done]:
        """Run `one` on every index, in threads when that pays: Pillow decodes and resizes without the GIL."""
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        threads = min(self.max_threads or cores, len(pictures))
        # A PIL image decodes itself at first use, which two threads must not do to the same object.
        if threads < 2 or len(pictures) < _THREADS_FROM or len({id(picture) for picture in pictures}) < len(pictures):
            return [one(i) for i in range(len(pictures))]
        # A pool of this call alone: threads that outlive it would be lost, and waited for, in a forked worker.
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, range(len(pictures))))

    # -----------------------------------------------------------------------------------------------------------------
    # Segmentation results

    def post_process_semantic_segmentation(self, outputs: Any, target_sizes: Any = None) -> list[Any]:
        """Scores of `BeitForSemanticSegmentation` → one label map a picture.

        The scores are resized (bilinear, corners not aligned) before the best class is taken, a few classes at a time:
        all 150 classes of ADE20k at the size of a photograph would need gigabytes.

        Args:
            outputs: has `.logits` (or the key "logits"), or is the logits: (B, labels, h, w), torch, numpy or jax.
            target_sizes: B pairs (height, width), as a list or tensor; None keeps (h, w).

        Returns:
            B maps (height, width) of class numbers, int64: torch tensors on the device of torch logits, else numpy.

        Raises:
            InputError: the logits are not 4-D, or the sizes are not B pairs of positive whole numbers.
        """
        logits = outputs["logits"] if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
        best: Callable[[Any, tuple[int, int]], Any] = _best_class_torch
        if not _is_torch(logits):
            logits, best = np.asarray(logits), _best_class_numpy
        if logits.ndim != 4:
            raise InputError(f"logits have shape {tuple(logits.shape)}; wanted (batch, labels, height, width)")
        if target_sizes is None:
            return list(logits.argmax(1))
        sizes = target_sizes.tolist() if hasattr(target_sizes, "tolist") else [tuple(size) for size in target_sizes]
        if len(sizes) != len(logits):
            raise InputError(f"{len(sizes)} target sizes for {len(logits)} pictures; give one (height, width) for each")
        for size in sizes:
            if len(size) != 2 or not all(_is_length(int(length)) and int(length) == length for length in size):
                raise InputError(f"target size {size!r} is no (height, width) in whole pixels above 0")
        return [best(scores, (int(h), int(w))) for scores, (h, w) in zip(logits, sizes, strict=True)]

    # -----------------------------------------------------------------------------------------------------------------
    # Files

    def to_dict(self) -> dict[str, Any]:
        """All settings and unknown fields, as they are saved."""
        fields = {key: _jsonable(value) for key, value in vars(self).items() if key != "max_threads"}
        if self.semantic_loss_ignore_index == 255:
            del fields["semantic_loss_ignore_index"]  # so that default files are those of the reference
        return {**fields, "image_processor_type": "BeitImageProcessor"}

    def to_json_string(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    @classmethod
    def from_dict(cls, image_processor_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """A processor from a dict as `to_dict` or any version of transformers writes it; `kwargs` override its fields.

        With `return_unused_kwargs=True` returns (processor, kwargs that are no setting); otherwise warns of those.
        """
        wants_unused = kwargs.pop("return_unused_kwargs", False)
        # null means "the default" (transformers 5 and the Fast classes write such fields).
        fields = {k: v for k, v in image_processor_dict.items() if v is not None or k == "resample"}
        if "reduce_labels" in fields:  # an old file: nothing the user could do about it, so no warning
            fields["do_reduce_labels"] = fields.pop("reduce_labels")
        kwargs = {k: v for k, v in kwargs.items() if v is not None or k == "resample"}
        known = vars(BeitImageProcessor(**fields)).keys() | {"reduce_labels", "ignore_index"}
        unused = {key: kwargs.pop(key) for key in list(kwargs) if key not in known}
        if kwargs.get("ignore_index") is not None:
            fields.pop("semantic_loss_ignore_index", None)
        processor = cls(**{**fields, **kwargs})
        if wants_unused:
            return processor, unused
        if unused.keys() - {"use_fast", "backend", "trust_remote_code"}:
            warnings.warn(f"ignored, no settings of {cls.__name__}: {', '.join(unused)}", UserWarning, stacklevel=2)
        return processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """A processor from a model folder, the JSON file itself or an id on the Hub.

        Reads preprocessor_config.json or, if there is none, the image part of transformers 5's processor_config.json.

        Args:
            **kwargs: revision, token, cache_dir, local_files_only, force_download and subfolder say where the file
                comes from; all others are as in `from_dict`.

        Raises:
            CheckpointError: no such file, or it holds no settings.
        """
        from beit import hub

        where, kwargs = hub.split_hub_keywords(kwargs)
        path = Path(pretrained_model_name_or_path)
        if not path.is_file():
            try:
                path = hub.resolve_file(pretrained_model_name_or_path, FILE_NAME, **where)
            except CheckpointError as missing:
                try:
                    path = hub.resolve_file(pretrained_model_name_or_path, "processor_config.json", **where)
                except CheckpointError:
                    raise missing from None
        settings = hub.read_json(path)
        if isinstance(settings, dict) and path.name == "processor_config.json":
            settings = settings.get("image_processor")
        if not isinstance(settings, dict):
            raise CheckpointError(f"{path} holds no settings of an image processor. Save or download it again.")
        return cls.from_dict(settings, **kwargs)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Write preprocessor_config.json, which transformers 4 and 5 read too; returns the paths written.

        With `push_to_hub`, upload it as well: to `repo_id`, by default the name of the folder.
        """
        from beit import hub

        folder = Path(save_directory)
        if folder.is_file():
            raise CheckpointError(f"{folder} is a file; wanted a folder to save in")
        folder.mkdir(parents=True, exist_ok=True)
        hub.write_json(folder / FILE_NAME, self.to_dict())
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)
        return [str(folder / FILE_NAME)]

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Upload preprocessor_config.json to the Hub; `kwargs` go to `hub.upload_folder`."""
        from beit import hub

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload_folder(folder, repo_id, **kwargs)


class BeitFeatureExtractor(BeitImageProcessor):
    """The old name of `BeitImageProcessor`, deprecated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn("BeitFeatureExtractor is deprecated; use BeitImageProcessor", FutureWarning, stacklevel=2)
        super().__init__(*args, **kwargs)


def _jsonable(value: Any) -> Any:
    value = _plain(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value


def _crop_pair(size: Any) -> tuple[int, int]:
    sizes = _size_dict(size, "crop_size")
    if "height" not in sizes:
        raise ConfigError(f"crop_size is {sizes}; a crop needs a height and a width, as in crop_size=224")
    return sizes["height"], sizes["width"]


def _as_maps(segmentation_maps: Any, count: int) -> list[Any]:
    maps = _as_list(segmentation_maps, "segmentation map", 2)
    if len(maps) != count:
        shape = getattr(segmentation_maps, "shape", None)
        got = (
            f"{len(maps)} segmentation maps"
            if shape is None
            else f"{len(maps)} segmentation maps (array of shape {tuple(shape)})"
        )
        raise InputError(f"{got} for {count} images; give one (height, width) map of class numbers for each image")
    return maps


def _empty_batch(count: int, channels: int, size: tuple[int, int], layout: str) -> np.ndarray:
    """An uninitialised float32 (count, channels, H, W), whose memory is laid out as `layout` says."""
    if layout == FIRST:
        return np.empty((count, channels, *size), np.float32)
    return np.moveaxis(np.empty((count, *size, channels), np.float32), 3, 1)


def _best_class_torch(scores: Any, size: tuple[int, int]) -> Any:
    """(labels, h, w) scores → (height, width) int64, equal to interpolate(scores).argmax(0)."""
    torch = require("torch", "torch", "segmentation results of torch models")
    chunk = max(1, _CHUNK // (size[0] * size[1]))
    best = index = None
    with torch.no_grad():
        for start in range(0, len(scores), chunk):
            part = torch.nn.functional.interpolate(
                scores[None, start : start + chunk], size=size, mode="bilinear", align_corners=False
            )
            value, winner = part[0].max(dim=0)
            if best is None:
                best, index = value, winner
                continue
            better = value > best  # strictly: the first of equals wins, as in argmax
            best, index = torch.where(better, value, best), torch.where(better, winner + start, index)
    return index


def _best_class_numpy(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same on numpy scores, one class at a time; bilinear interpolation is one pass over rows, one over columns."""
    (y0, y1, wy), (x0, x1, wx) = (_bilinear(have, want) for have, want in zip(scores.shape[1:], size, strict=True))
    best = np.full(size, -np.inf, np.float32)
    index = np.zeros(size, np.int64)
    for label, plane in enumerate(scores.astype(np.float32, copy=False)):
        rows = plane[y0] * (1 - wy)[:, None] + plane[y1] * wy[:, None]  # (height, w)
        value = rows[:, x0] * (1 - wx) + rows[:, x1] * wx  # (height, width)
        better = value > best
        np.copyto(best, value, where=better)
        index[better] = label
    return index


def _bilinear(have: int, want: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `want` outputs: the two inputs it lies between, and the weight of the second, in float32 as torch."""
    place = np.maximum(
        (np.arange(want, dtype=np.float32) + np.float32(0.5)) * np.float32(have / want) - np.float32(0.5), 0
    )
    low = np.minimum(place.astype(np.int64), have - 1)
    return low, np.minimum(low + 1, have - 1), place - low.astype(np.float32)

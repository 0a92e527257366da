"""The steps of the image processor as methods of their own: resize, centre crop, rescale, normalise, reduce labels.

`preprocess` does the same in one pass and does not call them. One after the other they give its result to the bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from beit.core.errors import InputError
from beit.data.image_input import FIRST, LAST, NONE, read_bands
from beit.data.label_maps import LabelRules
from beit.data.processor_sizes import centred_window, resampling_filter, size_dict, target_size
from beit.data.tensors import choice, to_numpy

STEPS = ("resize", "center_crop", "rescale", "normalize", "reduce_label")


class ProcessorSteps:
    """Single steps, with the arguments of transformers 4.37.2.

    Images are arrays, tensors or PIL images: (H, W), (C, H, W) or (H, W, C). `input_data_format` says where the channels are,
    and None finds out. `data_format` says where they are in the result; None leaves them.
    """

    semantic_loss_ignore_index: int

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name in STEPS:
            if name in vars(cls):
                warnings.warn(
                    f"{cls.__name__}.{name} is not called by preprocess, which does all steps in one pass. Override "
                    "preprocess, and call the steps there.",
                    UserWarning,
                    stacklevel=2,
                )

    def resize(
        self,
        image: Any,
        size: Any,
        resample: Any = Image.Resampling.BICUBIC,
        data_format: Any = None,
        input_data_format: Any = None,
        reducing_gap: float | None = None,
    ) -> np.ndarray:
        """Resize an image with Pillow.

        Args:
            image: values as for `preprocess`; integers of 8 bits stay so, floats are resized as floats.
            size: in any form that the processor takes.
            resample: a filter of Pillow; None is bilinear.
            data_format, input_data_format: see the class.
            reducing_gap: of `PIL.Image.resize`.

        Returns:
            uint8 for integers of 8 bits, otherwise float32.

        Raises:
            InputError, ConfigError: the image, size or filter is none of these.
        """
        array, layout = _with_layout(image, input_data_format)
        sizes, filter_ = size_dict(size, "size"), resampling_filter(resample)
        channels = 1 if array.ndim == 2 else array.shape[0 if layout == FIRST else 2]
        bands = read_bands(array, channels, layout, "image").images
        to = target_size(sizes, *bands[0].size)
        filter_ = Image.Resampling.BILINEAR if filter_ is None else filter_
        done = [np.asarray(band.resize(to, filter_, reducing_gap=reducing_gap)) for band in bands]
        planes = np.moveaxis(done[0], 2, 0) if done[0].ndim == 3 else np.stack(done)
        return _laid_out(planes[0] if array.ndim == 2 else planes, FIRST, data_format or layout)

    def center_crop(self, image: Any, size: Any, data_format: Any = None, input_data_format: Any = None) -> np.ndarray:
        """Cut a window out of the centre; where the image is smaller, zeros are around it.

        Args:
            image: of any dtype, which the result has too.
            size: height and width of the window.
            data_format, input_data_format: see the class.

        Raises:
            InputError, ConfigError: the image is none, or the size lacks height or width.
        """
        array, layout = _with_layout(image, input_data_format)
        sizes = size_dict(size, "size")
        if "height" not in sizes:
            raise InputError(f"size is {sizes}; a crop needs a height and a width: size=224")
        planes = _laid_out(array, layout, FIRST)
        height, width = planes.shape[-2:]
        window = sizes["height"], sizes["width"]
        left, top = centred_window((width, height), window[::-1])
        cut = np.zeros((*planes.shape[:-2], *window), planes.dtype)
        # Rows and columns of the image that the window shows, and where they are in the window.
        (y, to_y), (x, to_x) = (
            (slice(max(start, 0), max(start, 0) + shown), slice(max(-start, 0), max(-start, 0) + shown))
            for start, shown in ((top, min(height, window[0])), (left, min(width, window[1])))
        )
        cut[..., to_y, to_x] = planes[..., y, x]
        return _laid_out(cut, FIRST, data_format or layout)

    def rescale(
        self,
        image: Any,
        scale: float,
        data_format: Any = None,
        input_data_format: Any = None,
        dtype: Any = np.float32,
    ) -> np.ndarray:
        """image × scale, as `dtype`; batches (B, C, H, W) too. See the class for the formats."""
        array = _array(image)
        if data_format is not None:
            array, layout = _with_layout(array, input_data_format)
            array = _laid_out(array, layout, data_format)
        return (array * float(scale)).astype(dtype)

    def normalize(
        self,
        image: Any,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        data_format: Any = None,
        input_data_format: Any = None,
    ) -> np.ndarray:
        """(image − mean) / std; batches (B, C, H, W) too.

        Args:
            image: integers become float32, floats keep their dtype.
            mean, std: one number, or one per channel.
            data_format, input_data_format: see the class.

        Raises:
            InputError: another number of values than channels, or a std that is not above 0.
        """
        array, layout = _with_layout(image, input_data_format)
        axis = {FIRST: -3, LAST: -1}.get(layout)
        channels = 1 if axis is None else array.shape[axis]
        array = array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float32)
        values = []
        for name, value in (("mean", mean), ("std", std)):
            given = np.asarray(value, array.dtype).reshape(-1)
            if np.ndim(value) and len(given) != channels:
                raise InputError(f"{name} has {len(given)} values for {channels} channels: {value}; give one for each")
            values.append(given.reshape(-1, 1, 1) if axis == -3 else given)
        if not np.all(values[1] > 0):
            raise InputError(f"std is {std}; wanted numbers above 0")
        return _laid_out((array - values[0]) / values[1], layout, data_format or layout)

    def reduce_label(self, label: Any) -> np.ndarray:
        """A label map whose classes begin with 1 → classes from 0; 0 becomes the ignore index. The caller's array stays.

        Returns:
            The shape and dtype of `label`; int64 where that dtype cannot hold the ignore index.
        """
        array = _array(label)
        ignore = self.semantic_loss_ignore_index
        kind = array.dtype.kind
        if kind == "b" or (kind in "iu" and not np.iinfo(array.dtype).min <= ignore <= np.iinfo(array.dtype).max):
            array = array.astype(np.int64)
        return LabelRules(ignore, reduce_labels=True).apply(array)


def _array(image: Any) -> np.ndarray:
    array = np.asarray(image) if isinstance(image, Image.Image) else to_numpy(image)
    if array.dtype.kind not in "biuf" or array.ndim < 2:
        raise InputError(
            f"got a {type(image).__name__} of shape {array.shape}; wanted a PIL image, an array or a tensor"
        )
    return array


def _with_layout(image: Any, input_data_format: Any) -> tuple[np.ndarray, str]:
    """An image as an array, and where its channels are: `FIRST`, `LAST`, or `NONE` for (H, W)."""
    layout = choice(input_data_format, "input_data_format", FIRST, LAST, NONE)
    array = _array(image)
    if array.ndim == 2:
        return array, NONE
    if isinstance(image, Image.Image):
        return array, LAST
    if layout is None:
        first, last = array.shape[-3] in (1, 3), array.shape[-1] in (1, 3)
        if first == last:
            both = "both ends could be channels" if first else "neither end has 1 or 3 channels"
            raise InputError(
                f"an image of shape {array.shape}: {both}; set input_data_format to 'channels_first' or 'channels_last'"
            )
        layout = FIRST if first else LAST
    if layout == NONE:
        raise InputError(f"an image of shape {array.shape}, while input_data_format='none' means (height, width)")
    return array, layout


def _laid_out(array: np.ndarray, layout: str, wanted: Any) -> np.ndarray:
    """Move the channels of (…, C, H, W) or (…, H, W, C) to where they are wanted."""
    wanted = choice(wanted, "data_format", FIRST, LAST, NONE)
    if array.ndim == 2 or NONE in (layout, wanted) or layout == wanted:
        return array
    move: Callable[..., np.ndarray] = np.moveaxis
    return move(array, -3, -1) if wanted == LAST else move(array, -1, -3)

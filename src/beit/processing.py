"""From pictures to the tensors BEiT takes, and from segmentation scores back to label maps.

For an 8-bit RGB picture the order is the reference's (transformers 4.37.2) and so is every bit of the result:

    resize with Pillow on 8-bit pixels → centre crop, zeros where too small → × rescale_factor → (x − mean) / std

After the crop a pixel still is one of 256 values, so the last two steps are one table of 256 numbers a channel.
What becomes of other pictures before that is the table at the top of `beit.image_input`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from beit.errors import CheckpointError, ConfigError, InputError
from beit.image_input import FIRST, LAST, NONE, Picture, as_list, read_label_map, read_picture
from beit.tensors import BatchFeature as BatchFeature
from beit.tensors import label_maps, plain, tensor_maker

FILE_NAME = "preprocessor_config.json"
_THREADS_FROM = 4  # below so many pictures, starting threads costs more than it saves


# --- what callers may write → what the steps read ----------------------------------------------------------------


def _size_dict(size: Any, name: str) -> dict[str, int]:
    """A size in any of the accepted forms → {"height", "width"}, {"shortest_edge"} or that with {"longest_edge"}."""
    if isinstance(size, Mapping):
        sizes = {key: value for key, value in size.items() if value is not None}
    else:
        pair = size if isinstance(size, (list, tuple)) else (size, size)
        sizes = dict(zip(("height", "width"), pair, strict=True)) if len(pair) == 2 else {}
    known = set(sizes) in ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})
    whole = (isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v > 0 for v in sizes.values())
    if not known or not all(whole):
        raise ConfigError(
            f"{name} is {size!r}; give one length for a square, (height, width), "
            'or a dict {"height": …, "width": …} or {"shortest_edge": …}, in whole pixels'
        )
    return {key: int(value) for key, value in sizes.items()}


def _resampling(value: Any) -> Image.Resampling | None:
    """A filter given as enum member, number or name; None stays None."""
    value = plain(value)
    try:
        if isinstance(value, str):
            return Image.Resampling[value.upper()]
        return None if value is None else Image.Resampling(value)
    except (KeyError, ValueError):
        known = ", ".join(f"{filter_.name} ({filter_.value})" for filter_ in Image.Resampling)
        raise InputError(f"resample is {value!r}; use one of {known}") from None


def _data_format(value: Any, name: str, *allowed: str) -> str | None:
    value = plain(value)
    if value is not None and value not in allowed:
        raise InputError(f"{name} is {value!r}; it must be {', '.join(map(repr, allowed))} or None")
    return value


def _per_channel(value: Any, channels: int, name: str) -> np.ndarray:
    """A mean or standard deviation as float32 (channels, 1, 1)."""
    values = np.asarray(value, dtype=np.float32).reshape(-1, 1, 1)
    if np.ndim(value) > 0 and len(values) != channels:
        raise InputError(f"{name} has {len(values)} values for {channels} channels; give one value or {channels}")
    return np.broadcast_to(values, (channels, 1, 1))


# --- the steps ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Steps:
    """What one call does with every picture, checked: None leaves a step out."""

    channels: int
    size: dict[str, int] | None
    resample: Image.Resampling | None
    crop: dict[str, int] | None
    scale: float | None
    mean: np.ndarray | None  # (channels, 1, 1) float32, and so is std
    std: np.ndarray | None
    reduce_labels: bool
    ignore_index: int

    def __post_init__(self) -> None:
        if self.size is not None and self.resample is None:
            raise ConfigError("resample is None while do_resize is True; choose a filter or pass do_resize=False")
        if self.crop is not None and "height" not in self.crop:
            raise ConfigError(f"crop_size is {self.crop}; a crop needs a height and a width, as in crop_size=224")
        if self.std is not None and not np.all(self.std > 0):
            raise InputError(f"image_std is {self.std.ravel().tolist()}; every value must be above 0")

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of every result, or None where it depends on the picture."""
        sizes = self.crop or self.size or {}
        return (sizes["height"], sizes["width"]) if "height" in sizes else None

    def target(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the resize of a picture of this width and height."""
        if self.size is None:
            return width, height
        if "height" in self.size:
            return self.size["width"], self.size["height"]
        short, long = sorted((height, width))
        edge = self.size["shortest_edge"]
        other = int(edge * long / short)
        limit = self.size.get("longest_edge", other)
        if other > limit:
            edge, other = max(1, int(limit * edge / other)), limit
        return (edge, other) if width <= height else (other, edge)

    def fit(self, image: Image.Image, resample: int | None, fill: int) -> Image.Image:
        """Resize, then cut the centred window; what lies outside of the picture is `fill`.

        The whole picture is resized even where a crop follows: `Image.resize(box=…)` would do a fifth less, but Pillow
        13 chooses the order of its two rounding passes from the sizes it is given, so that some bits would differ.
        """
        size = self.target(*image.size)
        if image.size != size:
            image = image.resize(size, resample)
        if self.crop is None:
            return image
        window = self.crop["width"], self.crop["height"]
        left, top = (_offset(have, want) for have, want in zip(image.size, window, strict=True))
        if fill == 0 or (left >= 0 and top >= 0):
            return image.crop((left, top, left + window[0], top + window[1]))
        canvas = Image.new(image.mode, window, fill)
        canvas.paste(image, (-left, -top))
        return canvas

    def normalised(self, values: np.ndarray) -> np.ndarray:
        """Rescale and normalise (channels, …, …) in the reference's dtypes: 8-bit × factor in float64, then float32."""
        values = (values if self.scale is None else values * self.scale).astype(np.float32)
        return values if self.mean is None else (values - self.mean) / self.std

    def table(self) -> np.ndarray | None:
        """(channels, 256): what becomes of each 8-bit value; None where pixels are not changed."""
        if self.scale is None and self.mean is None:
            return None
        values = np.arange(256, dtype=np.uint8)
        return self.normalised(np.broadcast_to(values, (self.channels, 1, 256)))[:, 0]

    def pixels(self, picture: Picture, table: np.ndarray | None, out: np.ndarray | None) -> np.ndarray:
        """A picture → (channels, H, W) float32, in `out` where given; 8-bit pixels without a table stay uint8."""
        bands = [np.asarray(self.fit(band, self.resample, 0)) for band in picture.bands]
        planes = np.moveaxis(bands[0], 2, 0) if bands[0].ndim == 3 else np.stack(bands)
        planes = np.broadcast_to(planes, (self.channels, *planes.shape[1:]))  # grey in every channel
        if table is None:
            return planes.copy()
        out = np.empty(planes.shape, np.float32) if out is None else out
        if planes.dtype != np.uint8:
            out[...] = self.normalised(planes)
            return out
        for channel, values, plane in zip(out, table, planes, strict=True):
            np.take(values, plane, out=channel, mode="wrap")  # "raise", the default, would buffer; none exceeds 255
        return out

    def label(self, label: np.ndarray) -> np.ndarray:
        """(H, W) class numbers → int64 (H', W'): reduced, resized (nearest), cropped or padded with the ignore index."""
        if self.reduce_labels:  # in one expression on the old values, so that the order of the rules does not matter
            label = np.where((label == 0) | (label == self.ignore_index), self.ignore_index, label - 1)
        image = Image.fromarray(label.astype(np.int32))
        return np.asarray(self.fit(image, Image.Resampling.NEAREST, self.ignore_index)).astype(np.int64)


def _offset(length: int, wanted: int) -> int:
    """Where a centred window begins; below 0 where it is longer, so that the picture sits at (wanted - length) // 2.

    The reference rounds both halves down when the difference is odd and loses a row; we return the size asked for.
    """
    return (length - wanted) // 2 if wanted <= length else -((wanted - length) // 2)


def _cores() -> int:
    """How many threads suit this process: its cores, and one in a worker of a torch DataLoader, which has siblings."""
    data = sys.modules.get("torch.utils.data")  # no worker without it
    if data is not None and data.get_worker_info() is not None:
        return 1
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- the processor -----------------------------------------------------------------------------------------------


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
    #: Most threads one call may use. None: as many as this process has cores, and one in a data-loader worker.
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
        for key, value in kwargs.items():
            if key in ("feature_extractor_type", "image_processor_type"):
                continue  # the name of the class, written again by to_dict
            if hasattr(type(self), key):
                raise ConfigError(f"the field {key!r} would hide an attribute of {type(self).__name__}; remove it")
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
        """Prepare one picture or many. Every setting that is None is the processor's own.

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

        layout = _data_format(data_format, "data_format", FIRST, LAST)
        input_layout = _data_format(input_data_format, "input_data_format", FIRST, LAST, NONE)
        mean, std = chosen("image_mean", image_mean), chosen("image_std", image_std)
        channels = len(mean) if np.ndim(mean) else 3
        normalise = chosen("do_normalize", do_normalize)
        steps = _Steps(
            channels=channels,
            size=_size_dict(chosen("size", size), "size") if chosen("do_resize", do_resize) else None,
            resample=_resampling(chosen("resample", resample)),
            crop=_size_dict(chosen("crop_size", crop_size), "crop_size") if chosen("do_center_crop", do_center_crop) else None,
            scale=float(chosen("rescale_factor", rescale_factor)) if chosen("do_rescale", do_rescale) else None,
            mean=_per_channel(mean, channels, "image_mean") if normalise else None,
            std=_per_channel(std, channels, "image_std") if normalise else None,
            reduce_labels=chosen("do_reduce_labels", do_reduce_labels),
            ignore_index=chosen("semantic_loss_ignore_index", semantic_loss_ignore_index),
        )
        pictures = as_list(images, "image", 2 if input_layout == NONE else 3)
        maps = None if segmentation_maps is None else as_list(segmentation_maps, "segmentation map", 2)
        if maps is not None and len(maps) != len(pictures):
            of = f" (array of shape {tuple(segmentation_maps.shape)})" if hasattr(segmentation_maps, "shape") else ""
            raise InputError(
                f"{len(maps)} segmentation maps{of} for {len(pictures)} images; "
                "give one (height, width) map of class numbers for each image"
            )
        if return_tensors is not None:
            tensor_maker(return_tensors)  # refuses before the work

        table = steps.table()
        batch = None  # where the size is known, pictures are written side by side at once
        if table is not None and steps.output_size is not None and layout == FIRST:
            batch = np.empty((len(pictures), channels, *steps.output_size), np.float32)

        def one(i: int) -> tuple[np.ndarray, np.ndarray | None, bool]:
            picture = read_picture(pictures[i], channels, input_layout, f"image {i}")
            label = None if maps is None else read_label_map(maps[i], f"segmentation map {i}")
            size = picture.size[::-1]
            if label is not None and label.shape != size:
                raise InputError(
                    f"segmentation map {i} is {label.shape} (height, width) and its image {size}. Pass the map that "
                    "belongs to the image at its own size, turned as the image's EXIF orientation says"
                )
            pixels = steps.pixels(picture, table, None if batch is None else batch[i])
            if (layout or picture.format) == LAST:
                pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, 2))
            return pixels, None if label is None else steps.label(label), picture.within_one

        done = self._map(one, pictures)
        if steps.scale is not None and any(within_one for _, _, within_one in done):
            warnings.warn(
                "images hold floats within 0..1 and are rescaled again: pass do_rescale=False if done before",
                UserWarning,
                stacklevel=2,
            )
        in_place = batch is not None and return_tensors is not None
        data: dict[str, Any] = {"pixel_values": batch if in_place else [pixels for pixels, _, _ in done]}
        if maps is not None:
            data["labels"] = [label for _, label, _ in done]
        return BatchFeature(data, return_tensors)

    def _map(self, one: Callable[[int], Any], pictures: list[Any]) -> list[Any]:
        """Run `one` on every index, in threads when that pays: Pillow decodes and resizes without the GIL."""
        threads = min(self.max_threads or _cores(), len(pictures))
        # A PIL image decodes itself at first use, which two threads must not do to the same object.
        if threads < 2 or len(pictures) < _THREADS_FROM or len({id(picture) for picture in pictures}) < len(pictures):
            return [one(i) for i in range(len(pictures))]
        # A pool of this call alone: threads that outlive it would be lost, and waited for, in a forked worker.
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, range(len(pictures))))

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
        return label_maps(outputs, target_sizes)


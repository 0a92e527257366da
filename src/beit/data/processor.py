"""The public image processor: images → the tensors that BEiT takes. Which forms of image it accepts: see `image_input.py`.

For 8-bit RGB the order is the reference's (transformers 4.37.2), and so is every bit of the result:

    resize with Pillow on 8-bit pixels → centre crop, zeros where too small → × rescale_factor → (x − mean) / std

After the crop a pixel still has one of 256 values. So the last two steps are a look-up in a table of 256 numbers per channel.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from beit import checkpoints
from beit.checkpoints import hub, keywords
from beit.core.errors import CheckpointError, ConfigError, InputError
from beit.core.files import read_json, write_json
from beit.data.image_input import FIRST, LAST, NONE, as_list, read_bands
from beit.data.label_maps import read_label_map
from beit.data.postprocess.semantic import label_maps
from beit.data.processor_sizes import (
    box_of_crop,
    centred_window,
    channel_values,
    number,
    resampling_filter,
    size_dict,
    target_size,
)
from beit.data.processor_steps import ProcessorSteps
from beit.data.tensors import BatchFeature as BatchFeature
from beit.data.tensors import choice

FILE_NAME = "preprocessor_config.json"
_THREADS_FROM = 4  # images; for fewer, starting threads costs more than it saves


class BeitImageProcessor(ProcessorSteps):
    """Prepares images and label maps for BEiT; same arguments, files and results as that of transformers 4.37.2.

    Args:
        size: of the resize: one length (a square), (height, width), {"height", "width"}, or {"shortest_edge"[,
            "longest_edge"]}, which keeps the proportions. In pixels; default 256 × 256.
        resample: a `PIL.Image.Resampling`, its number or its name. Label maps always use the nearest neighbour.
        crop_size: height and width of the centre crop; a smaller image is padded with 0. Default 224 × 224.
        do_rescale: multiply by `rescale_factor`; turn it off for floats that are within 0..1 already.
        image_mean, image_std: one number, or one per channel of the result (3 channels for one number). Default 0.5 each.
        do_reduce_labels: of label maps, 0 becomes the ignore index and all other labels go down by one (ADE20k).
        semantic_loss_ignore_index: as in the config; label maps are padded with it. May also be called `ignore_index`.
        **kwargs: unknown fields, kept as attributes and saved again.

    Raises:
        ConfigError, InputError: an impossible size or filter, or a field that would hide a method.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    #: Threads per call. None: as many as this process has cores, but one in a data-loader worker.
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
        for name, value in {
            "do_resize": do_resize,
            "do_center_crop": do_center_crop,
            "do_rescale": do_rescale,
            "do_normalize": do_normalize,
            "do_reduce_labels": do_reduce_labels,
        }.items():
            if not isinstance(value, bool | np.bool_) and value not in (0, 1):
                raise ConfigError(f"{name} is {value!r:.60}; wanted True or False")
        self.do_resize = do_resize
        self.size = size_dict(256 if size is None else size, "size")
        self.resample = resampling_filter(resample)
        self.do_center_crop = do_center_crop
        self.crop_size = size_dict(224 if crop_size is None else crop_size, "crop_size")
        self.do_rescale = do_rescale
        self.rescale_factor = number(rescale_factor, "rescale_factor")
        self.do_normalize = do_normalize
        self.image_mean = channel_values([0.5, 0.5, 0.5] if image_mean is None else image_mean, "image_mean")
        self.image_std = channel_values([0.5, 0.5, 0.5] if image_std is None else image_std, "image_std")
        self.do_reduce_labels = do_reduce_labels
        ignore = kwargs.pop("ignore_index", semantic_loss_ignore_index)
        if isinstance(ignore, bool) or not isinstance(ignore, int | np.integer) or abs(int(ignore)) >= 1 << 31:
            raise ConfigError(f"semantic_loss_ignore_index is {ignore!r:.60}; wanted a whole number, such as 255")
        self.semantic_loss_ignore_index = int(ignore)
        kwargs = keywords.without_loader(kwargs, type(self).__name__, ("return_unused_kwargs",))
        for key in kwargs.keys() - {"feature_extractor_type", "image_processor_type"}:  # to_dict writes these again
            if hasattr(type(self), key):
                raise ConfigError(f"the field {key!r} would hide an attribute of {type(self).__name__}; remove it")
            setattr(self, key, kwargs[key])

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
        """Prepare one image or many. A setting given here holds for this call only; None is the processor's own.

        Args:
            images: a PIL image, a path, an array or tensor (H, W), (C, H, W), (H, W, C) or a batch of those with one
                dimension more, or a list of any of these. Values 0..255; pass `do_rescale=False` for floats in 0..1.
            segmentation_maps: a label map for each image, at its size: PIL images (L, P, I, …), paths, arrays (H, W) or
                (1, H, W), or a batch of those. Whole numbers.
            return_tensors: "pt", "np", "jax" or "tf"; None gives lists of numpy arrays.
            data_format: "channels_first", "channels_last", or None: as the input (a PIL image counts as channels last).
            input_data_format: how arrays are laid out, "none" for (H, W); None finds out and refuses to guess.

        Returns:
            `pixel_values` (B, C, H, W) float32 (uint8 if neither rescaled nor normalised), `labels` (B, H, W) int64.

        Raises:
            InputError, ConfigError: an image, map or setting is not as above; the message says which and what to do.
            MissingExtraError: the framework asked for is not installed.
        """
        steps = self._for_one_call(
            do_resize=do_resize,
            size=size,
            resample=resample,
            do_center_crop=do_center_crop,
            crop_size=crop_size,
            do_rescale=do_rescale,
            rescale_factor=rescale_factor,
            do_normalize=do_normalize,
            image_mean=image_mean,
            image_std=image_std,
            do_reduce_labels=do_reduce_labels,
            semantic_loss_ignore_index=semantic_loss_ignore_index,
        )
        channels = steps._checked_channels()
        if kwargs.pop("ignore_index", None) is not None:
            raise InputError("ignore_index of one call is spelt semantic_loss_ignore_index")
        if kwargs:
            warnings.warn(f"ignored, unknown to the image processor: {', '.join(kwargs)}", UserWarning, stacklevel=2)
        layout = choice(data_format, "data_format", FIRST, LAST)
        input_layout = choice(input_data_format, "input_data_format", FIRST, LAST, NONE)
        inputs = as_list(images, "image", 2 if input_layout == NONE else 3)
        maps = None if segmentation_maps is None else as_list(segmentation_maps, "segmentation map", 2)
        if maps is not None and len(maps) != len(inputs):
            raise InputError(f"{len(maps)} segmentation maps for {len(inputs)} images; give one (H, W) map for each")

        table = steps._table(channels)
        sizes = steps.crop_size if steps.do_center_crop else steps.size if steps.do_resize else {}
        batch = None  # where the size is known beforehand, each image is written straight to its place in the batch
        if table is not None and "height" in sizes and layout == FIRST:
            batch = np.empty((len(inputs), channels, sizes["height"], sizes["width"]), np.float32)

        def one(i: int) -> tuple[np.ndarray, np.ndarray | None, bool]:
            bands = read_bands(inputs[i], channels, input_layout, f"image {i}")
            shape = bands.images[0].size[::-1]
            label = None if maps is None else read_label_map(maps[i], shape, f"segmentation map {i}")
            pixels = steps._pixels(bands.images, table, None if batch is None else batch[i])
            if (layout or bands.layout) == LAST:
                pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, 2))
            return pixels, None if label is None else steps._label(label), bands.within_one

        done = self._map(one, inputs)
        if steps.do_rescale and any(within_one for _, _, within_one in done):
            warnings.warn("floats within 0..1 are rescaled again: pass do_rescale=False if done before", stacklevel=2)
        data = {"pixel_values": [pixels for pixels, _, _ in done] if batch is None or return_tensors is None else batch}
        if maps is not None:
            data["labels"] = [label for _, label, _ in done]
        return BatchFeature(data, return_tensors)

    __call__ = preprocess

    def post_process_semantic_segmentation(self, outputs: Any, target_sizes: Any = None) -> list[Any]:
        """Scores of `BeitForSemanticSegmentation` → one label map per image: see `beit.data.postprocess.semantic.label_maps`."""
        return label_maps(outputs, target_sizes)

    def _for_one_call(self, **given: Any) -> BeitImageProcessor:
        """A processor with the settings of one call; those that are None are this processor's own."""
        return BeitImageProcessor(**{k: getattr(self, k) if value is None else value for k, value in given.items()})

    def _checked_channels(self) -> int:
        """The number of channels. Raises ConfigError or InputError if the settings contradict each other."""
        channels = len(self.image_mean) if isinstance(self.image_mean, list) else 3
        if self.do_resize and self.resample is None:
            raise ConfigError("resample is None while do_resize is True; choose a filter or pass do_resize=False")
        if self.do_center_crop and "height" not in self.crop_size:
            raise ConfigError(f"crop_size is {self.crop_size}; a crop needs a height and a width: crop_size=224")
        std, count = self.image_std, np.size(self.image_std)
        if self.do_normalize and (count not in (1, channels) or np.min(std) <= 0):
            raise InputError(f"image_std has {count} values for {channels} channels: {std}; give one or all, above 0")
        return channels

    def _fit(self, image: Image.Image, resample: int | None, fill: int) -> Image.Image:
        """Resize, then cut the centred window; `fill` lies outside of the image."""
        size = target_size(self.size, *image.size) if self.do_resize else image.size
        if not self.do_center_crop:
            return image if image.size == size else image.resize(size, resample)
        window = self.crop_size["width"], self.crop_size["height"]
        left, top = centred_window(size, window)
        box = box_of_crop(image.size, size, (left, top), window) if resample else None
        if box is not None:
            return image.resize(window, resample, box)
        if image.size != size:
            image = image.resize(size, resample)
        canvas = Image.new(image.mode, window, fill)
        canvas.paste(image, (-left, -top))
        return canvas

    def _normalised(self, values: np.ndarray) -> np.ndarray:
        """Rescale and normalise (C, …, …) in the reference's dtypes: 8-bit × factor in float64, then float32."""
        values = (values * float(self.rescale_factor) if self.do_rescale else values).astype(np.float32)
        if not self.do_normalize:
            return values
        mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.image_mean, self.image_std))
        return (values - mean) / std

    def _table(self, channels: int) -> np.ndarray | None:
        """What each 8-bit value becomes, float32 (C, 256); None if values stay as they are."""
        if not self.do_rescale and not self.do_normalize:
            return None
        every_value = np.tile(np.arange(256, dtype=np.uint8), (channels, 1, 1))
        return self._normalised(every_value)[:, 0]

    def _pixels(self, bands: list[Image.Image], table: np.ndarray | None, out: np.ndarray | None) -> np.ndarray:
        """Bands of an image → float32 (C, H, W), in `out` if given; without a table, 8-bit pixels stay uint8."""
        arrays = [np.asarray(self._fit(band, self.resample, 0)) for band in bands]
        planes = np.moveaxis(arrays[0], 2, 0) if arrays[0].ndim == 3 else np.stack(arrays)
        if table is None:
            return planes
        out = np.empty(planes.shape, np.float32) if out is None else out
        if planes.dtype != np.uint8:
            out[...] = self._normalised(planes)
        else:
            for channel, values, plane in zip(out, table, planes, strict=True):
                # No index exceeds 255; but with the default mode "raise", numpy would buffer the output.
                np.take(values, plane, out=channel, mode="wrap")
        return out

    def _label(self, label: np.ndarray) -> np.ndarray:
        """Class numbers (H, W) → int64 (H', W'): reduced, resized (nearest), cropped or padded with the ignore index."""
        ignore = self.semantic_loss_ignore_index
        if (
            self.do_reduce_labels
        ):  # in one expression on the old values: a label that becomes `ignore` is not reduced again
            label = np.where((label == 0) | (label == ignore), ignore, label - 1)
        return np.asarray(self._fit(Image.fromarray(label.astype(np.int32)), 0, ignore)).astype(np.int64)

    def _map(self, one: Callable[[int], Any], inputs: list[Any]) -> list[Any]:
        """Run `one` on every index, in threads where that pays: Pillow decodes and resizes without the GIL."""
        data = sys.modules.get(
            "torch.utils.data"
        )  # a DataLoader worker has it loaded, and has siblings on the other cores
        in_worker = data is not None and data.get_worker_info() is not None
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = min(self.max_threads or (1 if in_worker else cores), len(inputs))
        # A PIL image decodes itself at first use, which two threads must not do to the same object.
        twice = len({id(image) for image in inputs}) < len(inputs)
        if threads < 2 or len(inputs) < _THREADS_FROM or twice:
            return [one(i) for i in range(len(inputs))]
        # A pool for this call alone: in a forked worker, threads that outlive the call would be lost, and waited for.
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, range(len(inputs))))

    def to_dict(self) -> dict[str, Any]:
        """All settings and unknown fields, as they are saved."""
        # Through JSON: plain values, and a copy that the caller may change.
        fields = json.loads(json.dumps(vars(self), default=lambda value: value.tolist()))
        for secret in keywords.SECRETS & fields.keys():  # set as attributes; this dict is saved and uploaded
            del fields[secret]
        fields.pop("max_threads", None)  # belongs to this machine, not to the model
        if self.semantic_loss_ignore_index == 255:
            del fields["semantic_loss_ignore_index"]  # so that default files are those of the reference
        return {**fields, "image_processor_type": "BeitImageProcessor"}

    def to_json_string(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write `to_json_string` to a file. Raises CheckpointError if it cannot be written."""
        write_json(json_file_path, self.to_dict())

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Any:
        """A processor from the file that `to_json_file` writes. Raises CheckpointError if it cannot be read."""
        fields = read_json(json_file)
        if not isinstance(fields, dict):
            raise CheckpointError(f"{json_file} holds no settings of an image processor. Save or download it again.")
        return cls.from_dict(fields)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    @classmethod
    def from_dict(cls, image_processor_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """A processor from a dict as `to_dict` or any version of transformers writes it; `kwargs` override its fields.

        With `return_unused_kwargs=True`, returns (processor, those kwargs that are no settings); otherwise warns of them.
        """
        wants_unused = kwargs.pop("return_unused_kwargs", False)
        # null means "the default": transformers 5 and the Fast classes write such fields.
        stated = keywords.without_loader(image_processor_dict, cls.__name__)
        fields = {k: v for k, v in stated.items() if v is not None or k == "resample"}
        given = {k: v for k, v in kwargs.items() if v is not None or k == "resample"}
        if "reduce_labels" in fields:  # an old file
            fields["do_reduce_labels"] = fields.pop("reduce_labels")
        known = vars(BeitImageProcessor(**fields)).keys() | {"reduce_labels", "ignore_index"}
        unused = {key: given.pop(key) for key in given.keys() - known}
        processor = cls(**{**fields, **given})
        if wants_unused:
            return processor, unused
        if unused.keys() - {"use_fast", "backend", "trust_remote_code"}:
            warnings.warn(f"ignored, no settings of {cls.__name__}: {', '.join(unused)}", UserWarning, stacklevel=2)
        return processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: checkpoints.Source, **kwargs: Any) -> Any:
        """A processor from a model folder, its JSON file, an id on the Hub, any other BEiT checkpoint, or an open `Checkpoint`.

        Reads preprocessor_config.json or, if there is none, the image part of transformers 5's processor_config.json. A weight
        file has neither: its settings are those of its publisher, as far as they are known (`beit inspect` says which).

        Args:
            pretrained_model_name_or_path: one of the above.
            **kwargs: where the file comes from, as in `hub.resolve_file`; others as in `from_dict`.

        Raises:
            CheckpointError: there is no such file, or it holds no settings.
        """
        fields, kwargs = cls.get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
        if "reduce_labels" in fields and not isinstance(pretrained_model_name_or_path, checkpoints.Checkpoint):
            warnings.warn(
                f"the file of {pretrained_model_name_or_path} holds `reduce_labels`, the old name of `do_reduce_labels`, and is "
                "read as such; save_pretrained writes the new name",
                FutureWarning,
                stacklevel=2,
            )
        return cls.from_dict(fields, **kwargs)

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: checkpoints.Source, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings that `from_pretrained` reads, as they are stored, and those `kwargs` that do not say where they are."""
        instead = "an image processor has no weights; pass it to the model"
        caller = f"{cls.__name__}.from_pretrained"
        where, asked, kwargs = keywords.split(kwargs, caller, ("return_unused_kwargs",), instead)
        kwargs |= asked
        source: str | os.PathLike[str]
        if isinstance(pretrained_model_name_or_path, checkpoints.Checkpoint):
            checkpoint = checkpoints.Checkpoint.open(pretrained_model_name_or_path, **where)
            source, where, found = checkpoint.source, checkpoint.where, checkpoint.stored_pixels
        else:
            source = pretrained_model_name_or_path
            path = Path(source)
            if path.is_file() and path.suffix == ".json":
                return checkpoints.pixels_in(path), kwargs
            known = (*checkpoints.PROCESSOR_FILES, checkpoints.CONFIG_FILE)
            nothing = path.is_dir() and not any(hub.has_file(path, name, **where) for name in known)
            found = None if nothing else checkpoints.Checkpoint(source, **where).stored_pixels
        if found is None:  # raises an error that says what the folder holds instead
            hub.resolve_file(source, FILE_NAME, **where)
        return dict(found or {}), kwargs

    @classmethod
    def stored_in(cls, checkpoint: checkpoints.Source) -> Any:
        """The processor of a checkpoint, as `from_pretrained`; None for a model folder without one."""
        settings = checkpoints.Checkpoint.open(checkpoint).stored_pixels
        return None if settings is None else cls.from_dict(settings)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write preprocessor_config.json, which transformers reads too. Returns [its path].

        Args:
            save_directory: created if it does not exist.
            push_to_hub: also upload the file, to `repo_id` (default: the name of the folder).
            **kwargs: `repo_id` and what `push_to_hub` takes; without `push_to_hub` they have no effect.

        Raises:
            CheckpointError: it cannot be written or uploaded.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise CheckpointError(f"{folder} is a file; wanted a folder to save in")
        repo_id = kwargs.pop("repo_id", folder.name)
        upload = hub.upload_keywords(kwargs)
        write_json(folder / FILE_NAME, self.to_dict())
        if push_to_hub:
            self.push_to_hub(repo_id, **upload)
        return [str(folder / FILE_NAME)]

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Upload preprocessor_config.json to the Hub.

        Args:
            repo_id: `owner/name`; created if it does not exist.
            **kwargs: `token`, `private`, `commit_message`, `commit_description`, `revision`, `create_pr`. Those that say how
                weights are split are accepted, and there are none here. Others are warned about and ignored.

        Raises:
            CheckpointError: the Hub refused, or was not reached.
        """
        upload = hub.upload_keywords(kwargs)
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder) / FILE_NAME, self.to_dict())
            return hub.upload_folder(folder, repo_id, **upload)


class BeitFeatureExtractor(BeitImageProcessor):
    """The old name of `BeitImageProcessor`, deprecated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn("BeitFeatureExtractor is deprecated; use BeitImageProcessor", FutureWarning, stacklevel=2)
        super().__init__(*args, **kwargs)

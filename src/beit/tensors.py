"""Where numpy meets the frameworks: arrays become tensors of theirs, and scores of theirs become label maps.

torch, jax and tensorflow are imported only when tensors of theirs are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from beit.errors import InputError, MissingExtraError, require

_CHUNK = 1 << 24  # at most so many scores at full size are held at once (64 MiB of float32)


def plain(value: Any) -> Any:
    """The value of an enum member, such as transformers' TensorType, and anything else unchanged."""
    return getattr(value, "value", value)


def is_torch(value: Any) -> bool:
    """Whether it is a torch tensor (or of a subclass, as torchvision's), without importing torch."""
    return any((kind.__module__, kind.__name__) == ("torch", "Tensor") for kind in type(value).__mro__)


def to_numpy(array: Any) -> np.ndarray:
    """A numpy, torch, jax or tensorflow array → numpy, without a copy where possible."""
    if is_torch(array):
        array = array.detach().cpu()
        array = array.float() if str(array.dtype) == "torch.bfloat16" else array  # numpy has no bfloat16
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def tensor_maker(tensor_type: Any) -> Callable[[Any], Any]:
    """The function that turns an array into a tensor of a framework: "np", "pt", "jax" or "tf"."""
    kind = plain(tensor_type)
    purpose = f"return_tensors={kind!r}"
    if kind == "np":
        return to_numpy
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
        if tensor_type is not None:
            make = tensor_maker(tensor_type)
            for key, value in self.items():
                self[key] = make(_stack(value, key) if isinstance(value, (list, tuple)) else value)
        return self

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Move torch tensors to a device and cast the floating ones to a dtype, as `torch.Tensor.to`; returns itself.

        Raises:
            InputError: an entry is no torch tensor.
        """
        for key, value in self.items():
            if not is_torch(value):
                raise InputError(f"to() moves torch tensors, but {key} is {type(value)}; pass return_tensors='pt' first")
            if value.is_floating_point():
                self[key] = value.to(*args, **kwargs)
            else:  # labels move but stay integers
                self[key] = value.to(device=value.new_empty(0).to(*args, **kwargs).device)
        return self


def _stack(values: Sequence[Any], name: str) -> np.ndarray:
    arrays = [to_numpy(value) for value in values]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise InputError(
            f"{name} have different shapes and make no batch: {', '.join(map(str, shapes))}. Turn on do_resize (to a "
            "height and width) or do_center_crop, or pass return_tensors=None for a list"
        )
    return np.stack(arrays)


def label_maps(outputs: Any, target_sizes: Any = None) -> list[Any]:
    """Segmentation scores → one label map a picture; see `BeitImageProcessor.post_process_semantic_segmentation`."""
    logits = outputs["logits"] if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
    best: Callable[[Any, tuple[int, int]], Any] = _best_class_torch
    if not is_torch(logits):
        logits, best = to_numpy(logits), _best_class_numpy
    if logits.ndim != 4:
        raise InputError(f"logits have shape {tuple(logits.shape)}; wanted (batch, labels, height, width)")
    if target_sizes is None:
        return list(logits.argmax(1))
    sizes = [tuple(size) for size in target_sizes]
    if len(sizes) != len(logits):
        raise InputError(f"{len(sizes)} target sizes for {len(logits)} pictures; give one (height, width) for each")
    for size in sizes:
        if len(size) != 2 or not all(int(length) == length > 0 for length in size):
            raise InputError(f"target size {size!r} is no (height, width) in whole pixels above 0")
    return [best(scores, (int(h), int(w))) for scores, (h, w) in zip(logits, sizes, strict=True)]


def _best_class_torch(scores: Any, size: tuple[int, int]) -> Any:
    """(labels, h, w) scores → (height, width) int64, equal to interpolate(scores).argmax(0), a few classes at a time."""
    torch = require("torch", "torch", "segmentation results of torch models")
    chunk = max(1, _CHUNK // (size[0] * size[1]))
    best = torch.full(size, -torch.inf, dtype=scores.dtype, device=scores.device)
    index = torch.zeros(size, dtype=torch.int64, device=scores.device)
    with torch.no_grad():
        for start in range(0, len(scores), chunk):
            part = torch.nn.functional.interpolate(
                scores[None, start : start + chunk], size=size, mode="bilinear", align_corners=False
            )
            value, winner = part[0].max(dim=0)
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
    half = np.float32(0.5)
    place = np.maximum((np.arange(want, dtype=np.float32) + half) * np.float32(have / want) - half, 0)
    low = np.minimum(place.astype(np.int64), have - 1)
    return low, np.minimum(low + 1, have - 1), place - low.astype(np.float32)

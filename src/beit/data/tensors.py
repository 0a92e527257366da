"""Where numpy meets the frameworks, imported only when asked for: arrays become tensors, scores become label maps."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from beit.core.errors import InputError, MissingExtraError

_FRAMEWORKS = {
    "np": ("numpy", "asarray", "numpy"),
    "pt": ("torch", "as_tensor", "'beit[torch]'"),  # shares the memory of a numpy array
    "jax": ("jax.numpy", "asarray", "'beit[flax]'"),
    "tf": ("tensorflow", "convert_to_tensor", "tensorflow"),
}
_CHUNK = 1 << 24  # at most so many scores at full size are held at once (64 MiB of float32)


def is_torch(value: Any) -> bool:
    """Whether it is a torch tensor (or of a subclass, as torchvision's), without importing torch."""
    return any((kind.__module__, kind.__name__) == ("torch", "Tensor") for kind in type(value).__mro__)


def to_numpy(array: Any) -> np.ndarray:
    """A numpy, torch, jax or tensorflow array → numpy, without a copy where possible."""
    if is_torch(array):  # numpy has no bfloat16
        array = (array.float() if str(array.dtype) == "torch.bfloat16" else array).detach().cpu()
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def choice(value: Any, name: str, *allowed: str) -> str | None:
    """The value itself, or that of an enum member such as transformers' TensorType, if it is allowed or None."""
    value = getattr(value, "value", value)
    if value is not None and value not in allowed:
        raise InputError(f"{name} is {value!r}; it must be {', '.join(map(repr, allowed))} or None")
    return value


def tensor_maker(tensor_type: Any) -> Callable[[Any], Any]:
    """The function that turns an array into a tensor of a framework: "np", "pt", "jax" or "tf"."""
    kind = choice(tensor_type, "return_tensors", *_FRAMEWORKS)
    module, function, install = _FRAMEWORKS[kind or "np"]
    try:
        return getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise MissingExtraError(f"return_tensors={kind!r} needs {module}: pip install {install}") from error


class BatchFeature(dict[str, Any]):
    """A dict whose values can be read as attributes too: `model(**features)`, `features.pixel_values`."""

    def __init__(self, data: Mapping[str, Any] | None = None, tensor_type: Any = None) -> None:
        super().__init__(data or {})
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r} in this batch; it has {', '.join(self) or 'none'}") from None

    def convert_to_tensors(self, tensor_type: Any = None) -> BatchFeature:
        """Turn every entry into one tensor: "np", "pt", "jax" or "tf", or an enum with such a value; None: no change."""
        if tensor_type is not None:
            make = tensor_maker(tensor_type)
            for key, value in self.items():
                self[key] = make(_stack(value, key) if isinstance(value, (list, tuple)) else value)
        return self

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Move torch tensors to a device and cast the floating ones to a dtype, as `torch.Tensor.to`; returns itself."""
        for key, value in self.items():
            if not is_torch(value):
                raise InputError(f"to() moves torch tensors, {key} is {type(value)}; first pass return_tensors='pt'")
            device = value.new_empty(0).to(*args, **kwargs).device
            self[key] = value.to(*args, **kwargs) if value.is_floating_point() else value.to(device)  # labels stay ints
        return self


def _stack(values: Sequence[Any], name: str) -> np.ndarray:
    arrays = [to_numpy(value) for value in values]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise InputError(f"{name} have different shapes {shapes}: use do_center_crop or return_tensors=None (a list)")
    return np.stack(arrays)


def label_maps(outputs: Any, target_sizes: Any = None) -> list[Any]:
    """Scores of `BeitForSemanticSegmentation` → one label map a picture.

    The scores are resized (bilinear, corners not aligned) before the best class is taken, a few classes at a time: the
    150 classes of ADE20k at the size of a photograph would need gigabytes.

    Args:
        outputs: has `.logits` (or the key "logits"), or is the logits: (B, labels, h, w), torch, numpy or jax.
        target_sizes: B pairs (height, width), as a list or tensor; None keeps (h, w).

    Returns:
        B maps (height, width) of class numbers, int64: torch tensors on the device of torch logits, else numpy.
    """
    logits = outputs["logits"] if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
    logits = logits if is_torch(logits) else to_numpy(logits)
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
    best = _best_class_torch if is_torch(logits) else _best_class_numpy
    return [best(scores, (int(h), int(w))) for scores, (h, w) in zip(logits, sizes, strict=True)]


def _best_class_torch(scores: Any, size: tuple[int, int]) -> Any:
    """(labels, h, w) scores → (height, width) int64, equal to interpolate(scores).argmax(0), a few classes at a time."""
    import torch

    chunk = max(1, _CHUNK // (size[0] * size[1]))
    best = torch.full(size, -torch.inf, dtype=scores.dtype, device=scores.device)
    index = torch.zeros(size, dtype=torch.int64, device=scores.device)
    for start in range(0, len(scores), chunk):
        part = scores[None, start : start + chunk].detach()
        part = torch.nn.functional.interpolate(part, size=size, mode="bilinear", align_corners=False)
        value, winner = part[0].max(dim=0)
        better = value > best  # strictly: the first of equals wins, as in argmax
        best, index = torch.where(better, value, best), torch.where(better, winner + start, index)
    return index


def _best_class_numpy(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same on numpy scores, one class at a time; bilinear interpolation is one pass over rows, one over columns."""
    (y0, y1, wy), (x0, x1, wx) = (_bilinear(have, want) for have, want in zip(scores.shape[1:], size, strict=True))
    best, index = np.full(size, -np.inf, np.float32), np.zeros(size, np.int64)
    for label, plane in enumerate(scores.astype(np.float32)):
        rows = plane[y0] * (1 - wy)[:, None] + plane[y1] * wy[:, None]  # (height, w)
        value = rows[:, x0] * (1 - wx) + rows[:, x1] * wx  # (height, width)
        index[value > best] = label
        np.fmax(best, value, out=best)
    return index


def _bilinear(have: int, want: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `want` outputs: the two inputs it lies between, and the weight of the second."""
    place = np.clip((np.arange(want) + 0.5) * (have / want) - 0.5, 0, have - 1)
    low = place.astype(np.int64)
    return low, np.minimum(low + 1, have - 1), (place - low).astype(np.float32)

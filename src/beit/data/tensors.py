"""Numpy arrays ↔ the tensors of a framework, without importing the framework unless its tensors are asked for.

`import_module` here is for the user's `return_tensors`; no module of this package is found by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from beit.core.errors import InputError, MissingExtraError

# return_tensors → (module, function that makes a tensor, what to install)
_FRAMEWORKS = {
    "np": ("numpy", "asarray", "numpy"),
    "pt": ("torch", "as_tensor", "'beit[torch]'"),  # shares the memory of a numpy array
    "jax": ("jax.numpy", "asarray", "'beit[flax]'"),
    "tf": ("tensorflow", "convert_to_tensor", "tensorflow"),
}


def is_torch(value: Any) -> bool:
    """Whether a value is a torch tensor, or of a subclass such as torchvision's; without importing torch."""
    return any((kind.__module__, kind.__name__) == ("torch", "Tensor") for kind in type(value).__mro__)


def to_numpy(array: Any) -> np.ndarray:
    """A numpy, torch, jax or tensorflow array → numpy; without a copy where possible, bfloat16 as float32."""
    if is_torch(array):
        array = (array.float() if str(array.dtype) == "torch.bfloat16" else array).detach().cpu()
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def choice(value: Any, name: str, *allowed: str) -> str | None:
    """An allowed value or None; of an enum member, such as transformers' TensorType, its value. Raises InputError for others."""
    value = getattr(value, "value", value)
    if value is not None and value not in allowed:
        raise InputError(f"{name} is {value!r}; it must be {', '.join(map(repr, allowed))} or None")
    return value


def tensor_maker(tensor_type: Any) -> Callable[[Any], Any]:
    """The function that turns an array into a tensor of a framework: "np", "pt", "jax" or "tf".

    Raises:
        InputError: another framework.
        MissingExtraError: the framework is not installed.
    """
    kind = choice(tensor_type, "return_tensors", *_FRAMEWORKS)
    module, function, install = _FRAMEWORKS[kind or "np"]
    try:
        return getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise MissingExtraError(f"return_tensors={kind!r} needs {module}: pip install {install}") from error


class BatchFeature(dict[str, Any]):
    """A dict whose values can be read as attributes too: `model(**features)`, `features.pixel_values`.

    Args:
        data: lists of arrays, or arrays, by name.
        tensor_type: as for `convert_to_tensors`.
    """

    def __init__(self, data: Mapping[str, Any] | None = None, tensor_type: Any = None) -> None:
        super().__init__(data or {})
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r} in this batch; it has {', '.join(self) or 'none'}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self:
            self[name] = value
        else:
            super().__setattr__(name, value)

    @property
    def data(self) -> dict[str, Any]:
        """This dict itself, under the name by which transformers has it; can be set."""
        return self

    @data.setter
    def data(self, entries: Mapping[str, Any]) -> None:
        entries = dict(entries)
        self.clear()
        self.update(entries)

    def copy(self) -> BatchFeature:
        """A copy that shares the arrays."""
        return BatchFeature(self)

    def convert_to_tensors(self, tensor_type: Any = None) -> BatchFeature:
        """Turn every entry into one tensor, in place; returns itself.

        Args:
            tensor_type: "np", "pt", "jax" or "tf", or an enum member with such a value; None changes nothing.

        Raises:
            InputError: arrays of an entry have different shapes.
            MissingExtraError: the framework is not installed.
        """
        if tensor_type is not None:
            make = tensor_maker(tensor_type)
            for key, value in self.items():
                self[key] = make(_stack(value, key) if isinstance(value, (list, tuple)) else value)
        return self

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Move torch tensors to a device and cast the floating ones to a dtype, in place; returns itself.

        Arguments as for `torch.Tensor.to`. Raises InputError if an entry is no torch tensor.
        """
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

"""Label maps: a palette or grey PNG, or an array → class numbers, and the rules by which numbers become classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from beit.core.errors import ConfigError, InputError
from beit.data.image_input import FILES, open_upright
from beit.data.tensors import to_numpy

_DEFAULT_IGNORE = 255


def read_label_map(label: Any, shape: tuple[int, int], name: str) -> np.ndarray:
    """A label map in any form, for an image of this (height, width) → (H, W) int64 class numbers."""
    if isinstance(label, FILES):
        label = open_upright(label, name)
        if label.mode not in ("1", "L", "P", "F") and not label.mode.startswith("I"):
            raise InputError(f"{name} has mode {label.mode}; save class numbers, one a pixel, as grey or palette PNG")
    array = to_numpy(label)  # of a palette image: the indices
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.shape != shape:
        raise InputError(
            f"{name} has shape {array.shape} and its image {shape} (height, width). Pass one class number a pixel, at "
            "the size of the image itself, turned as its EXIF orientation says"
        )
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not np.array_equal(array, np.rint(array))):
        raise InputError(f"{name} holds {array.dtype} values that are not whole numbers; wanted class numbers")
    if not -(2**31) <= array.min() <= array.max() < 2**31:
        raise InputError(f"{name} holds values {array.min()}..{array.max()}; class numbers must fit 32 bits")
    return array.astype(np.int64)


@dataclass(frozen=True)
class LabelRules:
    """What the numbers in label maps mean.

    Attributes:
        ignore_index: no label here; it may lie beyond the classes or among them.
        reduce_labels: maps count classes from 1 and 0 means no label (ADE20K).
    """

    ignore_index: int = _DEFAULT_IGNORE
    reduce_labels: bool = False

    def apply(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers of a map → class numbers and `ignore_index`; the same shape and type."""
        if not self.reduce_labels:
            return numbers
        nothing = (numbers == 0) | (numbers == self.ignore_index)
        return np.where(nothing, self.ignore_index, numbers - 1)

    def check_classes(self, classes: int) -> None:
        """Whether so many classes leave room for the ignore index.

        Raises:
            ConfigError: a class would be lost: where maps are reduced, or by the default, which was chosen for fewer classes.
        """
        if 0 <= self.ignore_index < classes and (self.reduce_labels or self.ignore_index == _DEFAULT_IGNORE):
            raise ConfigError(
                f"ignore_index {self.ignore_index} is the number of one of the {classes} classes too, which would be lost. "
                f"Choose another, such as --ignore-index {max(classes, 65535)}."
            )

    def check(self, labels: np.ndarray, classes: int, name: str) -> None:
        """Whether all are classes or ignored.

        Raises:
            InputError: the message names the numbers as they are in the map.
        """
        wrong = (labels < 0) | (labels >= classes)
        if not wrong.any():
            return
        strange = np.unique(labels[wrong & (labels != self.ignore_index)])
        if len(strange):
            shift = int(self.reduce_labels)
            numbers = ", ".join(str(number + shift) for number in strange[:8]) + ", …" * (len(strange) > 8)
            raise InputError(
                f"{name} has the values {numbers}. Wanted {shift} to {classes - 1 + shift}, one for each of the {classes} "
                f"classes, or {'0' if shift else self.ignore_index} for no label. Name all classes with --classes, name the "
                "value that means no label with --ignore-index, or use --reduce-labels for maps whose classes begin with 1."
            )

"""Label maps: a palette or grey PNG, or an array → class numbers; and the rules by which numbers become classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from beit.core.errors import ConfigError, InputError
from beit.data.image_input import FILES, open_upright
from beit.data.tensors import to_numpy

_DEFAULT_IGNORE = 255


def read_label_map(label: Any, shape: tuple[int, int], name: str) -> np.ndarray:
    """A label map in any form → class numbers.

    Args:
        label: a PIL image or path (modes 1, L, P, I, I;16, F), or an array or tensor (H, W), (1, H, W) or (H, W, 1). Of a
            palette image the palette indices are the numbers, whatever its colours.
        shape: (height, width) of the upright image that it belongs to.
        name: what to call it in a message.

    Returns:
        int64 (H, W).

    Raises:
        InputError: it has another shape, a colour mode, or values that are no whole numbers of 32 bits.
    """
    if isinstance(label, FILES):
        label = open_upright(label, name)
        if label.mode not in ("1", "L", "P", "F") and not label.mode.startswith("I"):
            raise InputError(
                f"{name} has mode {label.mode}; save class numbers, one per pixel, as grey or palette PNG, "
                "or give the class of each colour with --colors"
            )
    array = to_numpy(label)  # of a palette image: the indices
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.shape != shape:
        raise InputError(
            f"{name} has shape {array.shape} and its image {shape} (height, width). Pass one class number per pixel, at "
            "the size of the image itself, turned as its EXIF orientation says"
        )
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not np.array_equal(array, np.rint(array))):
        raise InputError(f"{name} holds {array.dtype} values that are not whole numbers; wanted class numbers")
    if not -(2**31) <= array.min() <= array.max() < 2**31:
        raise InputError(f"{name} holds values {array.min()}..{array.max()}; class numbers must fit 32 bits")
    return array.astype(np.int64)


def parse_values(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """`255=1` → (255, 1): what `--map-value` says. Raises ConfigError for other texts, and for a number given twice."""
    found: dict[int, int] = {}
    for text in texts:
        match = re.fullmatch(r"(\d{1,10})=(\d{1,10})", text)
        if match is None or int(match[1]) in found:
            raise ConfigError(
                f"map_value has {text!r}; wanted VALUE=CLASS, such as 255=1 for masks of 0 and 255, and each value once."
            )
        found[int(match[1])] = int(match[2])
    return tuple(found.items())


@dataclass(frozen=True)
class LabelRules:
    """What the numbers in label maps mean. Its repr is part of a run's fingerprint: keep the names of the fields.

    Attributes:
        ignore_index: the number for "no label". It may lie beyond the classes or among them.
        reduce_labels: the maps number classes from 1, and 0 means no label (ADE20K).
        values: (number in the maps, number that it stands for), before all else: masks of 0 and 255 are `((255, 1),)`.
    """

    ignore_index: int = _DEFAULT_IGNORE
    reduce_labels: bool = False
    values: tuple[tuple[int, int], ...] = ()

    def __repr__(self) -> str:
        more = f", values={self.values}" if self.values else ""  # runs from before there were values are the same runs
        return f"LabelRules(ignore_index={self.ignore_index}, reduce_labels={self.reduce_labels}{more})"

    def apply(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers of a map → class numbers and `ignore_index`; the same shape and dtype."""
        if self.values:
            stored = numbers
            numbers = stored.astype(np.int64)
            for value, meant in self.values:
                numbers[stored == value] = meant
        if not self.reduce_labels:
            return numbers
        no_label = (numbers == 0) | (numbers == self.ignore_index)
        return np.where(no_label, self.ignore_index, numbers - 1)

    def check_classes(self, classes: int) -> None:
        """Check that `ignore_index` is not the number of a class by mistake.

        With `reduce_labels` it never may be. Otherwise it may be if the user chose it, but not if it is the default.

        Raises:
            ConfigError: a class would be lost.
        """
        if 0 <= self.ignore_index < classes and (self.reduce_labels or self.ignore_index == _DEFAULT_IGNORE):
            raise ConfigError(
                f"ignore_index {self.ignore_index} is also the number of one of the {classes} classes, which would be lost. "
                f"Choose another, such as --ignore-index {max(classes, 65535)}."
            )

    def check(self, labels: np.ndarray, classes: int, name: str) -> None:
        """Check that all labels are classes or ignored.

        Args:
            labels: class numbers as `apply` returns them, in any shape.
            classes: number of classes.
            name: what to call the map in a message.

        Raises:
            InputError: some are not; the message gives the numbers as they are stored in the map.
        """
        wrong = (labels < 0) | (labels >= classes)
        if not wrong.any():
            return
        unknown = np.unique(labels[wrong & (labels != self.ignore_index)])
        if len(unknown):
            shift = int(self.reduce_labels)
            numbers = ", ".join(str(number + shift) for number in unknown[:8]) + ", …" * (len(unknown) > 8)
            raise InputError(
                f"{name} has the values {numbers}. Wanted {shift} to {classes - 1 + shift}, one for each of the {classes} "
                f"classes, or {'0' if shift else self.ignore_index} for no label. Name all classes with --classes, name the "
                "value that means no label with --ignore-index, say which class a value means with --map-value 255=1, or use "
                "--reduce-labels for maps whose classes begin with 1."
            )

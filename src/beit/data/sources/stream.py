"""A stream of images whose length is unknown. Pillow + numpy."""

from __future__ import annotations

import os
from collections.abc import Sized
from dataclasses import dataclass, field

from PIL import Image

from beit.core.errors import ConfigError, DataError, InputError
from beit.data.decode import decode_image
from beit.data.fingerprint import fingerprint_of
from beit.data.sources.images import Images
from beit.data.sources.shards import Raw, Shards


@dataclass
class Stream:
    """Images of a number that nobody knows, in shards.

    Attributes:
        shards: where they are.
        labelled: each has a label that is wanted.
        classes: names of the classes.
        smallest_side: images with a shorter side are refused when read.
        shuffle_buffer: samples that are shuffled together, in each lane.

    Raises:
        ConfigError: labels are wanted, but nobody says what the classes are.
    """

    shards: Shards
    labelled: bool = False
    classes: list[str] = field(default_factory=list)
    smallest_side: int = 1
    shuffle_buffer: int = 4096

    def __post_init__(self) -> None:
        if not self.labelled:
            return
        self.classes = self.classes or self.shards.classes
        if not self.classes:
            raise ConfigError(
                "Labels in tar shards are numbers; nothing says how many classes there are and what they are called. Give "
                "a text file with their names, one a line, from class 0 on: --classes FILE."
            )
        self._numbers = {name: number for number, name in enumerate(self.classes)}
        known = self.shards.classes
        # The data set counts its classes in an order of its own; a model may have them in another.
        strange = [name for name in known if name not in self._numbers]
        if strange:
            raise DataError(f"The data set has classes that the model does not know: {', '.join(strange[:5])}.")

    def read(self, raw: Raw) -> Image.Image:
        """The image in RGB, upright. Raises DataError when it is damaged, too small or too large."""
        return decode_image(raw.data, raw.name, self.smallest_side)

    def target(self, raw: Raw) -> int:
        """The class number, 0 without labels.

        Raises:
            DataError: the sample has no label.
            InputError: it is none of the classes.
        """
        if not self.labelled:
            return 0
        label = raw.label
        if label is None:
            raise DataError(f"{raw.name}: no label beside it (.cls, or .json with label or class).")
        if isinstance(label, int) and self.shards.classes and 0 <= label < len(self.shards.classes):
            label = self.shards.classes[label]
        number = self._numbers.get(label) if isinstance(label, str) else label
        if number is None or not 0 <= number < len(self.classes):
            raise InputError(
                f"{raw.name}: its label is {label!r}; wanted a number from 0 to {len(self.classes) - 1}, or one of "
                f"{', '.join(self.classes[:5])}{', …' if len(self.classes) > 5 else ''}. Give all classes in their order."
            )
        return number

    def fingerprint(self) -> str:
        """Of the names of the shards and classes."""
        return fingerprint_of(*(os.fsencode("\n".join(part)) for part in (self.shards.names, self.classes)))


def count_of(images: Images | Stream) -> int | None:
    """Number of images; None for a stream."""
    return len(images) if isinstance(images, Sized) else None

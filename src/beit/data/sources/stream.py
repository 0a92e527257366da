"""A stream of images whose length is unknown: what a sample's image and label are. Its order is in `stream_order.py`."""

from __future__ import annotations

import os
from collections.abc import Sized
from dataclasses import dataclass, field

from PIL import Image

from beit.core.errors import ConfigError, DataError, InputError
from beit.core.text import printable
from beit.data.decode import decode_image
from beit.data.fingerprint import fingerprint_of
from beit.data.sources.images import Images
from beit.data.sources.shards import EncodedSample, Shards


@dataclass
class Stream:
    """A stream of images whose length is unknown, in shards.

    Attributes:
        shards: where the samples are.
        labelled: whether the samples must have labels.
        classes: names of the classes.
        smallest_side: images with a shorter side, in pixels, are refused when read.
        shuffle_buffer: number of samples that are shuffled together, per reader.

    Raises:
        ConfigError: labels are wanted, but the names of the classes are unknown.
        DataError: the data set has classes that are not in `classes`.
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
                "a text file with their names, one per line, from class 0 on: --classes FILE."
            )
        self._numbers = {name: number for number, name in enumerate(self.classes)}
        # A data set numbers its classes in its own order, a trained model perhaps in another: names decide.
        unknown = [name for name in self.shards.classes if name not in self._numbers]
        if unknown:
            raise DataError(
                f"The data set has classes that the model does not know: {', '.join(map(printable, unknown[:5]))}."
            )

    def read(self, sample: EncodedSample) -> Image.Image:
        """The image in RGB, upright. Raises DataError when it is damaged, too small or too large."""
        if sample.damage:
            raise DataError(f"{sample.name}: damaged and left out ({sample.damage}).")
        return decode_image(sample.data, sample.name, self.smallest_side)

    def target(self, sample: EncodedSample) -> int:
        """The class number; 0 if the stream is not labelled.

        Raises:
            DataError: the sample has no label.
            InputError: the label is none of the classes.
        """
        if not self.labelled:
            return 0
        label = sample.label
        if label is None and sample.label_damage:
            raise DataError(f"{sample.name}: its label is damaged ({sample.label_damage}).")
        if label is None:
            raise DataError(
                f"{sample.name}: no label (beside it as .cls, or .json with label or class; or in its row)."
            )
        known = self.shards.classes
        if isinstance(label, int) and known and 0 <= label < len(known):  # the data set's number → its name
            label = known[label]
        number = self._numbers.get(label) if isinstance(label, str) else label
        if number is None or not 0 <= number < len(self.classes):
            raise InputError(
                f"{sample.name}: its label is {label!r:.100}; wanted a number from 0 to {len(self.classes) - 1}, or one of "
                f"{', '.join(map(printable, self.classes[:5]))}{', …' if len(self.classes) > 5 else ''}. Give all classes in their order."
            )
        return number

    def fingerprint(self) -> str:
        """The same for shards and classes of the same names in the same order."""
        return fingerprint_of(*(os.fsencode("\n".join(part)) for part in (self.shards.names, self.classes)))


def count_of(images: Images | Stream) -> int | None:
    """Number of images; None for a stream."""
    return len(images) if isinstance(images, Sized) else None


def count_in_words(images: Images | Stream) -> str:
    """`1,200 images`; or that a stream's number is unknown."""
    count = count_of(images)
    return "a stream of images" if count is None else f"{count:,} images"

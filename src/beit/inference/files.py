"""From paths to images: the thin layer above the functions of this room, which take images."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from beit.data.decode import read_image


class ImageFiles:
    """Image files by path, without labels: an `Images` source.

    Args:
        paths: the files, in the order in which they are read.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.labels: np.ndarray | None = None
        self.classes: list[str] = []
        self.paths = [os.fspath(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB, upright. Raises DataError when it cannot be read."""
        return read_image(self.paths[index])

    def target(self, index: int) -> int:
        """Always 0: there are no labels."""
        return 0

    def name(self, index: int) -> str:
        """The path, as it was given."""
        return self.paths[index]

    def fingerprint(self) -> str:
        """Equal for equal paths in the same order."""
        return "\n".join(self.paths)

    def subset(self, indices: np.ndarray) -> ImageFiles:
        """The files with these numbers, in this order."""
        return ImageFiles([self.paths[i] for i in indices])

"""A segmentation task made of the embedded images alone: tinted garments pasted on crops of photographs. Pillow + numpy.

Images are made when they are asked for: image number `index` follows from (seed, index). Training and test have different
garments and different photographs.
"""

from __future__ import annotations

import colorsys
import copy
import math

import numpy as np
from PIL import Image

from beit.core.errors import DataError
from beit.data import embedded
from beit.data.decode import read_image
from beit.data.fingerprint import fingerprint_of

_TEST_EVERY = 4  # every fourth photograph is for the test
_MOST = 4  # garments per image


class PastedGarments:
    """Images with one to four garments, and their label maps: class 0 is the photograph, classes 1 to 10 the garments.

    A garment has 1 to 2 times its 28 pixels, is flipped in one case of two, tinted with a random strong colour, and lies
    inside the image; where two overlap, the later one hides the earlier. It consists of the pixels that are not 0 in
    Fashion-MNIST. As `Images`.

    Args:
        test: use the test garments and every fourth photograph, instead of the others.
        count: number of images; by default 2,000, for the test 200.
        size: side of the images in pixels, at least 56.
        seed: seed of everything random.

    Raises:
        DataError: garments do not fit into images of this size.
    """

    def __init__(self, test: bool = False, count: int | None = None, size: int = 96, seed: int = 0) -> None:
        if size < 56:
            raise DataError(f"Got pictures of {size} pixels; garments of up to 56 pixels must fit in.")
        arrays = embedded.fashion_mnist_subset()
        part = "test" if test else "train"
        self.garments, self.kinds = arrays[f"x_{part}"], arrays[f"y_{part}"]
        photos = sorted(embedded.photographs().glob("*.jpg"))
        self.photos = [read_image(path) for i, path in enumerate(photos) if (i % _TEST_EVERY == 0) == test]
        self.numbers = np.arange(count if count is not None else 200 if test else 2000)
        self.test, self.size, self.seed = test, size, seed
        self.labels: np.ndarray | None = None  # labels are per pixel here, not per image
        self.classes = ["background", *embedded.GARMENTS]
        self._last: tuple[int, np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB."""
        return Image.fromarray(self._made(index)[0])

    def target(self, index: int) -> np.ndarray:
        """The class numbers of image `index`, int64 `(size, size)`."""
        return self._made(index)[1].copy()

    def name(self, index: int) -> str:
        """`garments 12`, or `test garments 12`."""
        return f"{'test ' * self.test}garments {self.numbers[index]}"

    def fingerprint(self) -> str:
        """The same for the same part, size, seed and numbers."""
        return fingerprint_of(repr((self.test, self.size, self.seed)).encode(), self.numbers.tobytes())

    def subset(self, indices: np.ndarray) -> PastedGarments:
        """Only the images with these numbers, in this order."""
        part = copy.copy(self)
        part.numbers = self.numbers[indices]
        return part

    def _made(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and map. The last ones are kept: `read` and `target` are called one after the other."""
        number = int(self.numbers[index])
        if self._last is None or self._last[0] != number:
            self._last = (number, *self._make(np.random.default_rng((self.seed, int(self.test), number))))
        return self._last[1:]

    def _make(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(image uint8 `(size, size, 3)`, map int64 `(size, size)`)."""
        pixels = self._background(rng)
        labels = np.zeros((self.size, self.size), np.int64)
        for _ in range(rng.integers(1, _MOST + 1)):
            chosen = int(rng.integers(len(self.garments)))
            shade, mask = _garment(self.garments[chosen], rng)
            tint = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.4, 1.0), rng.uniform(0.7, 1.0)))
            top, left = rng.integers(0, self.size - len(mask) + 1, 2)
            here = np.s_[top : top + len(mask), left : left + len(mask)]
            pixels[here][mask] = (shade[mask][:, None] * tint * 255).astype(np.uint8)
            labels[here][mask] = int(self.kinds[chosen]) + 1
        return pixels, labels

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        """A random square of a random photograph, its side log-uniform from `size` to the short side of the photograph."""
        photo = self.photos[int(rng.integers(len(self.photos)))]
        side = math.exp(rng.uniform(math.log(self.size), math.log(max(min(photo.size), self.size))))
        left, top = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
        box = (left, top, left + side, top + side)
        return np.array(photo.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box))


def _garment(pixels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A garment uint8 `(28, 28)` at a random scale: (its shade in [0.35, 1], where it is), both `(side, side)`."""
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    side = round(len(pixels) * rng.uniform(1, 2))
    size = (side, side)
    shade = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BILINEAR)) / 255
    cover = Image.fromarray((pixels > 0) * np.uint8(255)).resize(size, Image.Resampling.BILINEAR)
    return 0.35 + 0.65 * shade, np.asarray(cover) > 127

"""Labels as shapes: polygons and run-length encoded masks of many images in few arrays, and their painting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beit.data.fingerprint import fingerprint_of
from beit.data.rle import mask_of

VOID = -1  # class number of a shape without a label
_POLYGON, _MASK = 0, 1


def inside(points: np.ndarray, shape: tuple[int, int]) -> tuple[slice, slice, np.ndarray]:
    """The pixels whose centres lie inside a polygon, by the even-odd rule; exact, whatever lies outside the image.

    Args:
        points: corners `(n, 2)`, x and y in pixels; the centre of the first pixel is (0.5, 0.5).
        shape: (height, width) of the image.

    Returns:
        Rows and columns of a part of the image, and bool `(rows, columns)`.
    """
    height, width = shape
    start = points.astype(np.float64)
    end = np.roll(start, -1, axis=0)
    upper, lower = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first, after = (np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (upper, lower))
    count = after - first  # of rows whose centre line an edge crosses
    edge = np.repeat(np.arange(len(start)), count)
    if not len(edge):
        return slice(0, 0), slice(0, 0), np.zeros((0, 0), bool)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    x = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)  # the first pixel to the right of the edge
    top, bottom, left, right = row.min(), row.max() + 1, column.min(), column.max()
    turns = np.bincount((row - top) * (right - left + 1) + column - left, minlength=(bottom - top) * (right - left + 1))
    crossed = np.cumsum(turns.reshape(bottom - top, right - left + 1), axis=1)[:, :-1]
    return slice(top, bottom), slice(left, right), crossed % 2 == 1


@dataclass(frozen=True)
class Outlines:
    """The shapes of many images. In a few arrays, so that they are small, and shared by workers.

    Attributes:
        points: corners of all polygons `(p, 2)` float32; in pixels, or as fractions of the image if `fractions`.
        runs: lengths of the runs of all masks `(r,)` int64.
        shapes: `(s, 4)` int64, the images' in turn, each in the order of painting: class number, or `VOID`; kind; first and last
            position in `points` or `runs`.
        ends: `(n,)` int64, the position in `shapes` after those of each image.
        fractions: what the unit of `points` is.
    """

    points: np.ndarray
    runs: np.ndarray
    shapes: np.ndarray
    ends: np.ndarray
    fractions: bool = False

    def of(self, index: int) -> np.ndarray:
        """The rows of `shapes` of image `index`."""
        return self.shapes[self.ends[index - 1] if index else 0 : self.ends[index]]

    def paint(self, index: int, shape: tuple[int, int], unlabelled: int, void: int) -> np.ndarray:
        """The map of image `index`, int64 `(height, width)`: later shapes paint over earlier ones.

        Args:
            index: of the image.
            shape: (height, width).
            unlabelled: number for pixels in no shape.
            void: number for shapes without a label.
        """
        found = np.full(shape, unlabelled, np.int64)
        scale = np.array([shape[1], shape[0]]) if self.fractions else 1
        for number, kind, start, end in self.of(index).tolist():
            value = void if number == VOID else number
            if kind == _MASK:
                found[mask_of(self.runs[start:end], shape)] = value
            else:
                rows, columns, here = inside(self.points[start:end] * scale, shape)
                found[rows, columns][here] = value
        return found

    def numbers(self, index: int) -> np.ndarray:
        """The distinct class numbers of image `index`, `VOID` among them."""
        return np.unique(self.of(index)[:, 0])

    def fingerprint(self) -> str:
        """The same for the same shapes."""
        return fingerprint_of(*(np.ascontiguousarray(x) for x in (self.points, self.runs, self.shapes, self.ends)))


class OutlineWriter:
    """Collects shapes image by image."""

    def __init__(self, fractions: bool = False) -> None:
        self.fractions = fractions
        self._points: list[np.ndarray] = []
        self._runs: list[np.ndarray] = []
        self._shapes: list[tuple[int, int, int, int]] = []
        self._ends: list[int] = []
        self._lengths = [0, 0]

    def add_polygon(self, number: int, points: np.ndarray) -> None:
        """A polygon `(n, 2)` of the image that is being collected."""
        self._add(number, _POLYGON, points.astype(np.float32), self._points)

    def add_mask(self, number: int, runs: np.ndarray) -> None:
        """A mask by the lengths of its runs."""
        self._add(number, _MASK, runs, self._runs)

    def _add(self, number: int, kind: int, numbers: np.ndarray, to: list[np.ndarray]) -> None:
        start = self._lengths[kind]
        self._lengths[kind] += len(numbers)
        to.append(numbers)
        self._shapes.append((number, kind, start, self._lengths[kind]))

    def end_image(self) -> None:
        """What comes after this belongs to the next image."""
        self._ends.append(len(self._shapes))

    def outlines(self) -> Outlines:
        """All that was collected."""
        return Outlines(
            np.concatenate([np.zeros((0, 2), np.float32), *self._points]),
            np.concatenate([np.zeros(0, np.int64), *self._runs]),
            np.array(self._shapes, np.int64).reshape(-1, 4),
            np.array(self._ends, np.int64),
            self.fractions,
        )

"""Nearest neighbours and near-duplicates among features, by the cosine of the angle between them.

Every pair is compared: there is no approximate index. The matrix of all cosines is never held; it passes by in tiles of at most
32 MB, of which only the best entries are kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_QUERIES, _COLUMNS = 1024, 8192  # of a tile
_ROUNDING = 1e-6  # of a cosine in float32: equal images are at 0.9999999

# Called with the number of rows that are done since the last call.
Progress = Callable[[int], object]


def nearest(
    queries: np.ndarray, features: np.ndarray, top: int, own: int | None = None, progress: Progress = lambda _: None
) -> tuple[np.ndarray, np.ndarray]:
    """The most similar rows of `features` for each query, the most similar first; of equal ones the earlier.

    Args:
        queries: float32 `(q, C)`, rows of length 1.
        features: float32 `(n, C)`, rows of length 1.
        top: how many; where there are fewer rows, all of them.
        own: query i is row `own + i` of `features` itself, and is left out of its neighbours. None: they are other images.
        progress: told as queries are done.

    Returns:
        Numbers of rows, int64 `(q, k)`, and cosines, float32 `(q, k)` in [-1, 1].
    """
    k = min(top, len(features) - (own is not None))
    rows = np.empty((len(queries), k), np.int64)
    cosines = np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries) if k else 0, _QUERIES):
        part = slice(start, start + _QUERIES)
        rows[part], cosines[part] = _nearest(queries[part], features, k, None if own is None else own + start)
        progress(len(rows[part]))
    return rows, np.clip(cosines, -1, 1)


def _nearest(queries: np.ndarray, features: np.ndarray, k: int, own: int | None) -> tuple[np.ndarray, np.ndarray]:
    count = len(queries)
    best = np.full((count, k), -np.inf, np.float32)  # each row sorted, the largest first
    numbers = np.full((count, k), -1, np.int64)
    for start in range(0, len(features), _COLUMNS):
        tile = queries @ features[start : start + _COLUMNS].T
        if own is not None:
            row = np.arange(max(start - own, 0), min(start + tile.shape[1] - own, count))
            tile[row, row + own - start] = -np.inf
        # Only what is larger than the k-th best so far can enter: after the first tile, that is little.
        wanted = tile > best[:, -1:]
        if start == 0 and tile.shape[1] > k:
            wanted = tile >= np.partition(tile, -k, axis=1)[:, -k, None]
        row, column = np.divmod(np.flatnonzero(wanted), tile.shape[1])  # np.nonzero is slower in two dimensions
        everyone = np.concatenate((np.repeat(np.arange(count), k), row))
        values = np.concatenate((best.ravel(), tile[row, column]))
        where = np.concatenate((numbers.ravel(), column + start))
        order = np.lexsort((where, -values, everyone))
        first = np.searchsorted(everyone[order], np.arange(count))
        chosen = order[(first[:, None] + np.arange(k)).ravel()]
        best, numbers = values[chosen].reshape(count, k), where[chosen].reshape(count, k)
    return numbers, best


def near_duplicates(features: np.ndarray, within: float, progress: Progress = lambda _: None) -> list[np.ndarray]:
    """Groups of rows that are alike: the connected components of all pairs whose cosine is at least `within`.

    Two rows of a group may be less alike than that, where others between them link them.

    Args:
        features: float32 `(n, C)`, rows of length 1.
        within: least cosine of a pair; one that is less by no more than 1e-6 counts as equal.
        progress: told as rows are done.

    Returns:
        int64 numbers of rows, rising, of each group of two or more; the largest group first, of equal ones that with the
        earliest row.
    """
    group = np.arange(len(features))  # each row's link towards the first row of its group
    for start in range(0, len(features), _QUERIES):
        part = features[start : start + _QUERIES]
        for right in range(start, len(features), _COLUMNS):  # each pair once
            tile = part @ features[right : right + _COLUMNS].T
            row, column = np.divmod(np.flatnonzero(tile >= within - _ROUNDING), tile.shape[1])
            # Most pairs among many duplicates link what is linked already; what remains is few.
            pairs = np.stack((_first_of(group, row + start), _first_of(group, column + right)), 1)
            for one, other in np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0).tolist():
                one, other = _root(group, one), _root(group, other)
                group[max(one, other)] = min(one, other)
        progress(len(part))
    group = _first_of(group, group)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    found = [part for part in parts if len(part) > 1]
    return sorted(found, key=lambda part: (-len(part), part[0]))


def _root(group: np.ndarray, row: int) -> int:
    while group[row] != row:
        group[row] = group[group[row]]
        row = int(group[row])
    return row


def _first_of(group: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The ends of the links of many rows at once."""
    found = group[rows]
    while not np.array_equal(further := group[found], found):
        found = further
    return found

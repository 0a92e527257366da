"""Neighbours and groups against plain formulas, tile by tile; files of features, sound and damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit.core.errors import DataError
from beit.inference import similar
from beit.inference.feature_files import Origin, read_features, write_features
from beit.inference.similar import near_duplicates, nearest

ORIGIN = Origin("model", 2, "/somewhere", [1.0, 0.5])


def directions(count: int = 90, width: int = 5) -> np.ndarray:
    found = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    found[50:52] = found[min(3, count - 1)]  # equal ones
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: Any) -> None:
    monkeypatch.setattr(similar, "_QUERIES", 7)
    monkeypatch.setattr(similar, "_COLUMNS", 16)


@pytest.mark.parametrize("top", [1, 4, 20, 200])
@pytest.mark.parametrize("own", [True, False])
def test_neighbours_are_those_of_the_whole_matrix(top: int, own: bool) -> None:
    features = directions()
    cosines = features @ features.T
    if own:
        np.fill_diagonal(cosines, -np.inf)
    told: list[int] = []
    rows, found = nearest(features, features, top, 0 if own else None, told.append)
    k = min(top, len(features) - own)
    assert rows.shape == found.shape == (90, k)
    assert sum(told) == 90
    np.testing.assert_allclose(found, -np.sort(-cosines, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosines, rows, 1), found, atol=1e-6)
    assert all(len(set(row)) == k for row in rows.tolist())
    assert found.max() <= 1


def test_a_part_of_the_rows_asks_without_finding_itself() -> None:
    features = directions()
    rows, _ = nearest(features[20:45], features, 3, own=20)
    whole, _ = nearest(features, features, 3, own=0)
    np.testing.assert_array_equal(rows, whole[20:45])


@pytest.mark.parametrize("within", [0.8, 0.9, 0.99, 1.0])
def test_groups_are_connected_components(within: float) -> None:
    features = directions()
    linked = features @ features.T >= within - 1e-6
    groups: list[list[int]] = []
    rest = set(range(len(features)))
    while rest:
        group, new = set(), {min(rest)}
        while new:
            group |= new
            new = {int(j) for i in new for j in np.flatnonzero(linked[i])} - group
        rest -= group
        groups.append(sorted(group))
    wanted = sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group[0]))
    assert [group.tolist() for group in near_duplicates(features, within)] == wanted
    assert wanted  # equal images are at 1, whatever the rounding


def test_many_equal_images_are_one_group() -> None:
    (group,) = near_duplicates(np.tile(directions(1, 8), (300, 1)), 0.999)
    assert len(group) == 300


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_features_come_back_with_their_origin(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    file = tmp_path / f"f{suffix}"
    features = 3 * directions(30)
    write_features(file, features, [f"{i} \udcff.png" for i in range(30)], ORIGIN)
    index = read_features(file)
    np.testing.assert_allclose(index.features, directions(30), atol=1e-6)
    assert len(index.names) == 30
    assert index.origin == (ORIGIN if suffix == ".parquet" else None)
    if index.origin is not None:
        assert index.path(1) == "/somewhere/1 \\xff.png"


def write_table(file: Path, **columns: Any) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), file)
    return file


def test_rows_without_features_are_counted(tmp_path: Path) -> None:
    file = write_table(tmp_path / "f.parquet", image=["a", "b", "c"], features=[[1.0, 0.0], None, [0.0, 2.0]])
    index = read_features(file)
    assert (index.names, index.skipped, index.origin) == (["a", "c"], 1, None)
    np.testing.assert_array_equal(index.features, np.eye(2, dtype=np.float32))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"image": ["a"], "vector": [[1.0]]}, "has no column 'features'; it has image, vector"),
        ({"features": [[1.0]]}, "has no column 'image'"),
        ({"image": ["a"], "features": [1.0]}, "the column 'features' holds double; wanted lists of floats"),
        ({"image": ["a"], "features": [[1]]}, "holds list<element: int64>; wanted lists of floats"),
        ({"image": ["a", "b"], "features": [[1.0], [float("nan")]]}, "row 1 (b) has NaN"),
        ({"image": ["a", "b"], "features": [[1.0], [None]]}, "row 1 (b) has NaN"),
        ({"image": ["a", "b"], "features": [None, [0.0]]}, "row 1 (b) has zeros alone"),
        ({"image": ["a", "b"], "features": [[1.0], [1.0, 2.0]]}, "rows of 1, 2 numbers"),
        ({"image": ["a"], "features": [[]]}, "holds list<element: null>"),
    ],
)
def test_tables_that_are_no_features(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError) as error:
        read_features(write_table(tmp_path / "f.parquet", **columns))
    assert says in str(error.value)


def test_damaged_files(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    file = tmp_path / "f.parquet"
    with pytest.raises(DataError, match=r"no such file\. Make it: beit embed"):
        read_features(file)
    write_features(file, directions(), [str(i) for i in range(90)], ORIGIN)
    whole = file.read_bytes()
    for damaged in (b"", b"no parquet", whole[:-200]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            read_features(file)


@pytest.mark.parametrize("said", ["{", "[]", "{}", '{"model": 1, "layer": null, "directory": "", "sample": []}'])
def test_a_damaged_origin(tmp_path: Path, said: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"image": ["a"], "features": [[1.0]]}).replace_schema_metadata({"beit": said})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "f.parquet")
    with pytest.raises(DataError, match="what it says about its model is damaged"):
        read_features(tmp_path / "f.parquet")


@pytest.mark.parametrize(
    ("array", "lines", "says"),
    [
        (np.ones((3, 2), np.float32), 2, "has 3 rows"),
        (np.ones(3, np.float32), 3, "wanted floats (images, features)"),
        (np.ones((3, 2), np.int64), 3, "wanted floats (images, features)"),
        (np.array([[{}]]), 1, "is no array that numpy can read"),
        (np.full((1, 2), np.inf), 1, "row 0 (0) has NaN, infinity"),
    ],
)
def test_arrays_that_are_no_features(tmp_path: Path, array: np.ndarray, lines: int, says: str) -> None:
    np.save(tmp_path / "f.npy", array, allow_pickle=True)
    (tmp_path / "f.txt").write_text("".join(f"{i}\n" for i in range(lines)))
    with pytest.raises(DataError) as error:
        read_features(tmp_path / "f.npy")
    assert says in str(error.value)
    (tmp_path / "f.txt").unlink()
    with pytest.raises(DataError, match=r"f.txt cannot be read: No such file"):
        read_features(tmp_path / "f.npy")

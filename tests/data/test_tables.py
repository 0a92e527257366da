"""Tables of images: what people write, what it means, and what is refused."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beit.core.errors import DataError
from beit.data.order import Order
from beit.data.sources import open_images, open_to_measure
from beit.data.sources.images import ArrayImages
from beit.data.sources.table_images import TableImages, TableSettings
from beit.data.sources.table_labels import MULTI, REGRESSION, SINGLE, labels_of, problem_of
from beit.data.sources.tables import read_table
from beit.evaluation.hold_out import hold_out
from fixtures_runs import stripes, write_images

ROWS = [("000.png", "b"), ("001.png", "a"), ("002.png", "b")]


@pytest.fixture
def photos(tmp_path):
    return write_images(tmp_path / "photos", 3)


def write(path: Path, rows, header=("path", "label"), separator=",") -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([header, *rows])
    return path


# --- files -----------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            *[st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff"), max_size=8)] * 2
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([(".csv", ","), (".csv", ";"), (".csv", "\t"), (".tsv", "\t")]),
)
def test_what_csv_writes_is_read(tmp_path_factory, rows, kind):
    path = tmp_path_factory.mktemp("table") / f"x{kind[0]}"
    write(path, rows, separator=kind[1])
    assert read_table(path) == {"path": [row[0] for row in rows], "label": [row[1] for row in rows]}


def test_every_format_says_the_same(photos):
    folder = photos
    names, labels = zip(*ROWS, strict=True)
    entries = [{"path": name, "label": label} for name, label in ROWS]
    (folder / "a.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (folder / "b.json").write_text(json.dumps(entries))
    write(folder / "c.csv", ROWS)
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"path": names, "label": labels}), folder / "d.parquet")
    for table in ("a.jsonl", "b.json", "c.csv", "d.parquet"):
        images = open_images(folder / table, labelled=True)
        assert isinstance(images, TableImages)
        assert [Path(images.name(i)).name for i in range(3)] == list(names)
        assert images.labels is not None
        assert images.labels.tolist() == [1, 0, 1]
        assert images.classes == ["a", "b"]
        assert np.array_equal(images.read(1), images.subset(np.array([1])).read(0))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("x.csv", "", "no rows"),
        ("x.csv", "path,label\n", "no rows"),
        ("x.csv", "path,path\n1,2\n", "two columns 'path'"),
        ("x.csv", "path,\n1,2\n", "column without a name"),
        ("x.csv", "path,label\na,b\nc\n", "line 3: 1 values for 2 columns"),
        ("x.csv", 'path,label\n"a,b\n', "cannot be read"),
        ("x.csv", b"path,label\n\xff,b\n", "Wanted a table in UTF-8"),
        ("x.json", "{", "is no JSON"),
        ("x.json", "[" * 100_000, "cannot be read"),
        ("x.json", "{}", "holds a dict"),
        ("x.jsonl", '{"path": 1}\n[]\n', "line 2: a list"),
        ("x.jsonl", '{"path": 1}\n{"path"\n', "line 2 is no JSON"),
        ("x.parquet", "PAR1", "is no Parquet file"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, name, text, says):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=says):
        read_table(tmp_path / name)


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "kind", "labels", "classes"),
    [
        ({"label": ["b", "a"]}, SINGLE, [1, 0], ["a", "b"]),
        ({"label": ["10", "9", "10"]}, SINGLE, [1, 0, 1], ["9", "10"]),  # numbers in their own order
        ({"label": [2.0, 0.0]}, SINGLE, [1, 0], ["0", "2"]),
        ({"label": [True, False]}, SINGLE, [1, 0], ["False", "True"]),
        ({"label": ["a|b", "", "b"]}, MULTI, [[1, 1], [0, 0], [0, 1]], ["a", "b"]),
        ({"label": ["a; b", "c"]}, MULTI, [[1, 1, 0], [0, 0, 1]], ["a", "b", "c"]),
        ({"label": [["x"], []]}, MULTI, [[1], [0]], ["x"]),
        ({"x": ["1", "0"], "y": ["0", "0"]}, MULTI, [[1, 0], [0, 0]], ["x", "y"]),
        ({"x": [True, False], "y": [1.0, 0]}, MULTI, [[1, 1], [0, 0]], ["x", "y"]),
        ({"age": ["3.5", "4"]}, REGRESSION, [[3.5], [4]], ["age"]),
        ({"x": [1, 2], "y": [3, 4]}, REGRESSION, [[1, 3], [2, 4]], ["x", "y"]),
    ],
)
def test_what_labels_are_is_found_out(columns, kind, labels, classes):
    found = labels_of(columns, list(columns))
    assert problem_of(found.labels) == kind
    assert found.labels.tolist() == labels
    assert found.classes == classes


def test_what_labels_are_can_be_said():
    assert labels_of({"y": ["1", "2"]}, ["y"], problem=REGRESSION).labels.tolist() == [[1], [2]]
    assert labels_of({"y": ["a|b", "c"]}, ["y"], problem=SINGLE).classes == ["a|b", "c"]
    assert labels_of({"y": ["a", "b"]}, ["y"], problem=MULTI).labels.tolist() == [[True, False], [False, True]]


def test_the_order_of_a_model_counts(caplog):
    assert labels_of({"y": ["a", "b"]}, ["y"], classes=["c", "b", "a"]).labels.tolist() == [2, 1]
    with caplog.at_level(logging.WARNING, "beit"):
        found = labels_of({"y": ["0", "2"]}, ["y"], classes=["c", "b", "a"])
    assert found.labels.tolist() == [0, 2]
    assert found.classes == ["c", "b", "a"]
    assert "taken for class numbers" in caplog.text
    assert labels_of({"x": [1, 0], "y": [0, 0]}, ["x", "y"], classes=["y", "x"]).labels.tolist() == [[0, 1], [0, 0]]
    assert labels_of({"x": [1.5], "y": [2]}, ["x", "y"], classes=["y", "x"]).labels.tolist() == [[2, 1.5]]


@pytest.mark.parametrize(
    ("columns", "keywords", "says"),
    [
        ({"y": ["a", ""]}, {}, "1 rows have no label, for example that of 1"),
        ({"y": ["a", "d"]}, {"classes": ["a", "b"]}, "no known class: d. Known are a, b"),
        ({"y": ["a"]}, {"classes": ["a", "a"]}, "several classes of one name"),
        ({"y": ["a"]}, {"problem": REGRESSION}, "'a' for 0; wanted a finite number"),
        ({"y": ["inf"]}, {"problem": REGRESSION}, "wanted a finite number"),
        ({"x": [1, -1], "y": [0, 0]}, {"problem": MULTI}, "has -1 for 1; wanted 1 where"),
        ({"x": [0], "y": [0]}, {}, "No image in the table has a label"),
        ({"x": ["a"], "y": ["b"]}, {"problem": SINGLE}, "stands in one column"),
        ({"x": [1.5], "y": [2]}, {"classes": ["x", "z"]}, "the model knows x, z"),
        ({"y": [{"a": 1}]}, {}, "wanted a text or a number"),
    ],
)
def test_labels_that_mean_nothing_are_refused(columns, keywords, says):
    with pytest.raises(DataError, match=says):
        labels_of(columns, list(columns), **keywords)


# --- images ----------------------------------------------------------------------------------------------------------


def test_paths_begin_where_it_is_said(photos, tmp_path):
    table = write(tmp_path / "labels.csv", ROWS)
    with pytest.raises(DataError, match=r"names 3 images that are not there, of 3; .*--image-folder"):
        TableImages(table)
    assert len(TableImages(table, TableSettings(image_folder=photos))) == 3
    (photos / "002.png").unlink()
    with pytest.raises(DataError, match=r"names 1 images that are not there, of 3; the first is .*002\.png"):
        TableImages(table, TableSettings(image_folder=photos))


def test_numbers_of_images_get_a_suffix(photos):
    images = TableImages(write(photos / "train.csv", [("000", 1), ("001", 0)], ("image_id", "target")), labelled=True)
    assert [Path(path).name for path in images.paths] == ["000.png", "001.png"]
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0]


def test_columns_are_known_or_named(photos):
    rows = [("000.png", "x", 1, 0), ("001.png", "y", 0, 0)]
    table = write(photos / "t.csv", rows, ("where", "kind", "red", "blue"))
    with pytest.raises(
        DataError, match=r"No column is known to hold the images' paths; there are where, kind, red, blue"
    ):
        TableImages(table)
    named = TableSettings(path_column="where")
    with pytest.raises(DataError, match="No column is known to hold the labels"):
        TableImages(table, named, labelled=True)
    for columns, classes in ((("kind",), ["x", "y"]), (("red", "blue"), ["red", "blue"])):
        settings = TableSettings(path_column="where", label_columns=columns)
        assert TableImages(table, settings, labelled=True).classes == classes
    with pytest.raises(DataError, match=r"path_column is 'were', .* Did you mean where\?"):
        TableImages(table, TableSettings(path_column="were"))
    with pytest.raises(DataError, match="named twice or holds the paths"):
        TableImages(table, TableSettings(path_column="where", label_columns=("red", "red")), labelled=True)
    bare = write(photos / "bare.csv", [row[:1] + row[2:] for row in rows], ("path", "red", "blue"))
    assert TableImages(bare, labelled=True).classes == ["red", "blue"]  # all others hold 0 and 1


def test_a_column_split_chooses_rows(photos):
    rows = [("000.png", "a", "train"), ("001.png", "b", "Train"), ("002.png", "b", "test")]
    table = write(photos / "t.csv", rows, ("path", "label", "split"))
    images = TableImages(table, labelled=True)
    part = images.in_part(("train",))
    assert part is not None
    assert len(part) == 2
    assert images.in_part(("val",)) is None
    assert TableImages(table, TableSettings(split="TEST"), labelled=True).classes == ["b"]
    with pytest.raises(DataError, match=r"no row with split 'val'; there are Train, test, train"):
        TableImages(table, TableSettings(split="val"))
    with pytest.raises(DataError, match="no column split"):
        TableImages(write(photos / "u.csv", ROWS), TableSettings(split="val"))


def test_settings_of_tables_are_refused_for_folders(photos):
    with pytest.raises(DataError, match="is no table, so --label-columns means nothing"):
        open_images(photos, table=TableSettings(label_columns=("x",)))


def test_a_model_sets_classes_and_kind(photos):
    table = write(photos / "t.csv", [("000.png", "a"), ("001.png", "b")])
    images = open_to_measure(table, ["b", "c", "a"], problem=MULTI)
    assert images.labels is not None
    assert images.labels.tolist() == [[False, False, True], [True, False, False]]


def test_fingerprints_tell_labels_apart(photos):
    prints = set()
    for number, rows in enumerate((ROWS, ROWS[::-1], [("000.png", "a"), *ROWS[1:]])):
        prints.add(TableImages(write(photos / f"{number}.csv", rows), labelled=True).fingerprint())
    assert len(prints) == 3


# --- parts and order -------------------------------------------------------------------------------------------------


def test_rows_of_labels_are_held_out_at_random():
    pixels, _ = stripes(20)
    truth = np.random.default_rng(0).random((20, 3)) < 0.5
    learn, held = hold_out(ArrayImages(pixels, truth), fraction=0.25)
    assert (len(learn), len(held)) == (15, 5)
    assert learn.labels is not None
    assert held.labels is not None
    assert np.concatenate((learn.labels, held.labels)).sum() == truth.sum()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 5))
def test_balanced_epochs_draw_all_classes_equally(labels, epoch):
    numbers = np.array(labels, np.int64)
    order = Order(len(labels), 1, 7, numbers.tobytes())
    drawn = np.array([order.indices(epoch * len(labels) + step)[1][0] for step in range(len(labels))])
    counts = np.bincount(numbers[drawn], minlength=5)[np.unique(numbers)]
    assert counts.max() - counts.min() <= 1
    for number in np.unique(numbers):  # none comes again before each was there
        times = np.bincount(drawn[numbers[drawn] == number], minlength=len(labels))[numbers == number]
        assert times.max() - times.min() <= 1

"""Labels as shapes: polygons and run-length encoded masks → pixels; COCO's and YOLO's files, whole and damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beit.core.errors import ConfigError, DataError, InputError
from beit.data.label_form import LabelForm
from beit.data.label_maps import LabelRules
from beit.data.outlines import inside
from beit.data.rle import mask_of, run_lengths
from beit.data.sources.coco import coco_images
from beit.data.sources.label_map_scan import check_maps
from beit.data.sources.open_segmented import open_segmented
from beit.data.sources.yolo import labels_beside, yolo_images

RULES = LabelRules()

# --- shapes ------------------------------------------------------------------------------------------------------


def test_run_lengths_as_pycocotools_writes_them():
    """The texts are those of pycocotools 2.0.11."""
    holed = np.zeros((5, 7), bool)
    holed[1:4, 2:6] = True
    holed[2, 3] = False
    assert run_lengths(";32NO012004", (5, 7)).tolist() == [11, 3, 2, 1, 1, 1, 2, 3, 2, 3, 6]
    np.testing.assert_array_equal(mask_of(run_lengths(";32NO012004", (5, 7)), (5, 7)), holed)
    y, x = np.mgrid[:40, :50]
    text = "j`05P16K4M2N2N2O0O2O000O2O00000001N10001N101N2N2N3L5Ja>"
    np.testing.assert_array_equal(mask_of(run_lengths(text, (40, 50)), (40, 50)), (y - 20) ** 2 + (x - 25) ** 2 < 150)
    np.testing.assert_array_equal(mask_of(run_lengths([2, 2, 2], (2, 3)), (2, 3)), [[0, 1, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    "counts", ["", "32NO01200P", "a b", "é4", "PPPPPPPPP4", [3, 4], [-1, 7], [1.5, 4.5], 5, None, [2**70, 1], [7, -1]]
)
def test_damaged_run_lengths(counts):
    with pytest.raises(DataError, match="run lengths"):
        run_lengths(counts, (2, 3))


def exact(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Whether each pixel's centre is inside, edge by edge."""
    y, x = np.mgrid[:height, :width] + 0.5
    found = np.zeros((height, width), bool)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y1 != y2:
            found ^= ((y1 <= y) != (y2 <= y)) & (x > (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return found


@pytest.mark.parametrize("spread", [6, 30, 1e6])
def test_polygons_are_painted_where_pixel_centres_are_inside(spread):
    rng = np.random.default_rng(0)
    for _ in range(40):
        points = rng.normal(12, spread, (int(rng.integers(3, 12)), 2))
        rows, columns, here = inside(points, (20, 30))
        found = np.zeros((20, 30), bool)
        found[rows, columns] = here
        np.testing.assert_array_equal(found, exact(points, 20, 30))
    rows, columns, here = inside(np.array([(2, 1), (5, 1), (5, 3), (2, 3)]), (20, 30))
    assert (rows, columns) == (slice(1, 3), slice(2, 5))
    assert here.all()
    assert inside(np.array([(2, 100), (5, 100), (5, 103)]), (20, 30))[2].size == 0


# --- COCO ----------------------------------------------------------------------------------------------------------


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def content(**changes: Any) -> dict[str, Any]:
    """Three images of 12x10 pixels; ids in no order."""
    return {
        "images": [{"id": number, "file_name": f"{number}.png", "height": 10, "width": 12} for number in (3, 1, 2)],
        "categories": [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "segmentation": [box(1, 1, 6, 6), box(8, 8, 10, 10)]},
            {"id": 2, "image_id": 1, "category_id": 90, "segmentation": [box(4, 4, 8, 8)]},
            {"id": 3, "image_id": 2, "category_id": 90, "segmentation": {"size": [10, 12], "counts": [20, 10, 90]}},
            {"id": 4, "image_id": 2, "category_id": 7, "iscrowd": 1, "segmentation": [box(0, 0, 12, 5)]},
        ],
        **changes,
    }


def write_coco(folder: Path, changes: dict[str, Any] | None = None, name: str = "x.json") -> tuple[Path, Path]:
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for number in (1, 2, 3):
        Image.new("RGB", (12, 10), (number * 40, 0, 0)).save(images / f"{number}.png")
    (folder / name).write_text(json.dumps(content(**(changes or {}))))
    return images, folder / name


def test_coco(tmp_path, caplog):
    found = coco_images(*write_coco(tmp_path), RULES, background=True)
    assert found.classes == ["background", "cat", "dog"]
    assert [Path(path).name for path in found.paths] == ["1.png", "2.png", "3.png"]
    one = np.zeros((10, 12), int)
    one[1:6, 1:6] = one[8:10, 8:10] = 1
    one[4:8, 4:8] = 2  # later, so above
    np.testing.assert_array_equal(found.target(0), one)
    two = np.zeros((10, 12), int)
    two[:5] = 255  # a crowd, below the dog although it is later
    two[:, 2] = 2
    np.testing.assert_array_equal(found.target(1), two)
    assert (found.target(2) == 0).all()
    assert found.target(2).dtype == np.int64
    assert found.look(1).numbers.tolist() == [0, 2, 255]
    check_maps(found)
    assert "1 images without an annotation, all of them background: 3.png" in caplog.text
    np.testing.assert_array_equal(found.subset(np.array([1, 0])).target(1), one)

    void = coco_images(*write_coco(tmp_path), RULES, background=False)
    assert void.classes == ["cat", "dog"]
    np.testing.assert_array_equal(void.target(0), np.array([255, 0, 1])[one])
    other = void.with_classes(["dog", "x", "cat"])
    np.testing.assert_array_equal(other.target(0), np.array([255, 2, 0])[one])
    assert len({x.fingerprint() for x in (found, void, other, found.subset(np.array([1, 0, 2])))}) == 4
    assert coco_images(*write_coco(tmp_path), RULES, background=True).fingerprint() == found.fingerprint()
    with pytest.raises(
        DataError, match=r"x\.json: the classes dog are none of the 2 classes cat, dogs\. Did you mean dogs"
    ):
        void.with_classes(["cat", "dogs"])


def test_a_category_called_background_is_the_background(tmp_path):
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "Background"}]
    found = coco_images(*write_coco(tmp_path, {"categories": categories, "annotations": []}), RULES, background=True)
    assert found.classes == ["cat", "Background"]
    assert (found.target(0) == 1).all()


def test_an_image_with_an_orientation(tmp_path):
    """Outlines are in the pixels of the size that the file says: upright, or as stored."""
    images, file = write_coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 10)).save(images / "1.png", exif=exif)
    stored = np.zeros((10, 12), int)
    stored[1:6, 1:6] = stored[8:10, 8:10] = 1
    stored[4:8, 4:8] = 2
    np.testing.assert_array_equal(coco_images(images, file, RULES, True).target(0), np.rot90(stored, -1))
    Image.new("RGB", (10, 12)).save(images / "1.png", exif=exif)  # 12x10 when upright
    np.testing.assert_array_equal(coco_images(images, file, RULES, True).target(0), stored)
    Image.new("RGB", (24, 20)).save(images / "1.png")
    found = coco_images(images, file, RULES, True)
    for act in (lambda: found.target(0), lambda: check_maps(found)):
        with pytest.raises(InputError, match=r"says that .*1\.png has 12x10 pixels; it has 24x20"):
            act()


def test_images_that_are_missing_or_elsewhere(tmp_path, caplog):
    images, file = write_coco(tmp_path)
    (images / "2.png").unlink()
    (images / "sub").mkdir()
    (images / "3.png").rename(images / "sub/3.png")
    Image.new("RGB", (12, 10)).save(images / "4.png")
    found = coco_images(images, file, RULES, True)
    assert [Path(path).name for path in found.paths] == ["1.png", "3.png"]
    assert "1 images are not in" in caplog.text
    assert "are left out: 2.png" in caplog.text
    assert "4.png" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"None of the images of .*x\.json, such as 3\.png, is in"):
        coco_images(tmp_path / "empty", file, RULES, True)
    with pytest.raises(DataError, match="is not a folder"):
        coco_images(tmp_path / "gone", file, RULES, True)


BAD_SHAPES = [
    ([], "no polygon and no mask"),
    (None, "no polygon and no mask"),
    ([[1, 2, 3, 4]], "a polygon of 4 numbers"),
    ([[1, 2, 3, 4, 5, 6, 7]], "a polygon of 7 numbers"),
    ([["a", 1, 2, 3, 4, 5]], "no list of numbers"),
    ([[1, 2, 3, 4, 5, float("nan")]], "not finite"),
    ([[1, 2, 3, 4, 5, 1e300]], "beyond ten million"),
    ({"size": [10, 12], "counts": [1, 2]}, "run lengths of 3 pixels for a mask of 10x12"),
    ({"size": [12, 10], "counts": [120]}, "a mask of 10x12 pixels in an image of 12x10"),
    ({"size": [10], "counts": [120]}, "a mask of the size"),
]


@pytest.mark.parametrize(("shape", "reason"), BAD_SHAPES)
def test_annotations_that_cannot_be_used_are_named(tmp_path, caplog, shape, reason):
    good = {"image_id": 1, "category_id": 7, "segmentation": [box(1, 1, 6, 6)]}
    bad = {"id": 77, "image_id": 1, "category_id": 7, "segmentation": shape}
    found = coco_images(*write_coco(tmp_path, {"annotations": [good] * 9 + [bad]}), RULES, True)
    assert (found.target(0) == 1).sum() == 25
    assert "1 of 10 outlines cannot be used:\n  annotation 77 of 1.png: " in caplog.text
    assert reason in caplog.text
    with pytest.raises(DataError, match=r"1 of 2 outlines cannot be used(.|\n)*more than a tenth"):
        coco_images(*write_coco(tmp_path, {"annotations": [good, bad]}), RULES, True)


def test_outlines_beyond_the_image_are_cut(tmp_path, caplog):
    annotations = [{"id": 5, "image_id": 1, "category_id": 7, "segmentation": [box(-1e6, 3, 6, 1e6)]}]
    found = coco_images(*write_coco(tmp_path, {"annotations": annotations}), RULES, True)
    assert (found.target(0)[3:, :6] == 1).all()
    assert (found.target(0) == 1).sum() == 42
    assert "1 of 1 outlines reach beyond their image and are cut at its edge: annotation 5 of 1.png" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{"image_id": 9}]}, "annotation 0: its image_id 9 is that of no image"),
        ({"annotations": [{"image_id": 1, "category_id": 8}]}, "its category_id 8 is no category"),
        ({"annotations": [5]}, "annotation 0: its image_id None"),
        ({"annotations": None}, "no list of annotations"),
        ({"categories": [{"id": 1}]}, "category 0 has no whole number as id, or no name"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "the id 1 is that of two categories"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "the name a is that of two categories"),
        ({"images": [{"id": 1, "file_name": "1.png"}] * 2}, r"1\.png, or its id 1, is there twice"),
        ({"images": [{"id": 1}]}, "image 0 has no id or no file_name"),
        ({"annotations": [{"segments_info": []}]}, "panoptic annotations"),
    ],
)
def test_files_that_are_not_coco(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        coco_images(*write_coco(tmp_path, changes), RULES, True)


def test_files_that_cannot_be_read(tmp_path):
    images, file = write_coco(tmp_path)
    file.write_text(file.read_text()[:-20])
    with pytest.raises(DataError, match="is not valid JSON"):
        coco_images(images, file, RULES, True)
    with pytest.raises(DataError, match="cannot be read"):
        coco_images(images, tmp_path / "gone.json", RULES, True)
    with pytest.raises(DataError, match="has 1 classes; wanted at least two, or --unlabelled background"):
        coco_images(*write_coco(tmp_path, {"categories": [{"id": 7, "name": "cat"}]}), RULES, False)


# --- YOLO ----------------------------------------------------------------------------------------------------------


def write_yolo(folder: Path, lines: dict[str, str], names: str | None = "names: {0: cat, 1: dog}\n") -> Path:
    """images/train and labels/train as ultralytics wants them; returns the former."""
    for part in ("images/train", "labels/train"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        Image.new("RGB", (20, 10)).save(folder / f"images/train/{number}.jpg")
    for name, text in lines.items():
        (folder / f"labels/train/{name}.txt").write_text(text)
    if names is not None:
        (folder / "data.yaml").write_text(names)
    return folder / "images/train"


SQUARE = "0 0.1 0.2 0.5 0.2 0.5 0.8 0.1 0.8\n"
LATER = "1 .4 .6 .6 .6 .6 1 .4 1\n"


def test_yolo(tmp_path, caplog):
    images = write_yolo(tmp_path, {"1": SQUARE + LATER})
    found = open_segmented(images, None, None, None, LabelForm(), test=False)
    assert found.classes == ["background", "cat", "dog"]
    one = np.zeros((10, 20), int)
    one[2:8, 2:10] = 1
    one[6:10, 8:12] = 2
    np.testing.assert_array_equal(found.target(0), one)
    assert (found.target(1) == 0).all()
    for said in (
        "labels/train",
        "the class background; --unlabelled says otherwise",
        "without a shape, all of them background: 2",
    ):
        assert said in caplog.text
    void = open_segmented(images, None, None, ["dog", "cat"], LabelForm(background=False), test=False)
    np.testing.assert_array_equal(void.target(0), np.array([255, 1, 0])[one])
    (tmp_path / "n.txt").write_text("a\nb\n")
    named = open_segmented(images, tmp_path / "labels/train", tmp_path / "n.txt", None, LabelForm(), test=False)
    assert named.classes == ["background", "a", "b"]
    for forms in (LabelForm(mask_suffix="_x"), LabelForm(LabelRules(values=((255, 1),)))):
        with pytest.raises(ConfigError, match="leave it out"):
            open_segmented(images, None, None, None, forms, test=False)
    assert labels_beside(tmp_path / "train/images") is None


def test_names_of_yolo(tmp_path, caplog):
    images = write_yolo(tmp_path, {"1": SQUARE + LATER}, None)
    labels = tmp_path / "labels/train"
    assert yolo_images(images, labels, None, RULES, True).classes == ["background", "0", "1"]
    assert "no data.yaml and no classes.txt" in caplog.text
    for text, message in (
        ("names: [cat\n", "is not valid YAML"),
        ("nc: 2\n", "has no names of classes"),
        ("names: [a, a]\n", "has a twice"),
        ("names: {1: a, 2: b}\n", "numbers of its names"),
    ):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(DataError, match=message):
            yolo_images(images, labels, None, RULES, True)
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    assert yolo_images(images, labels, None, RULES, True).classes == ["background", "cat", "dog"]
    with pytest.raises(DataError, match="cannot be read"):
        yolo_images(images, labels, tmp_path / "gone.yaml", RULES, True)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.2 0.2", "a box of four numbers, and no outline"),
        ("0 0.5 0.5 0.2 0.2 0.1", "6 numbers; wanted the class, then x and y"),
        ("2 0 0 1 0 1 1", "class 2; .*data.yaml names 2 classes"),
        ("0.5 0 0 1 0 1 1", "0.5 is no class number"),
        ("cat 0 0 1 0 1 1", "no list of numbers"),
        ("0 0 0 640 0 640 480", "coordinates beyond the image"),
        ("0 0 0 nan 0 1 1", "coordinates beyond the image"),
    ],
)
def test_lines_that_cannot_be_used_are_named(tmp_path, caplog, line, reason):
    images = write_yolo(tmp_path, {"1": SQUARE * 9 + line + "\n"})
    labels = tmp_path / "labels/train"
    assert yolo_images(images, labels, None, RULES, True).look(0).numbers.tolist() == [0, 1]
    assert "1 of 10 outlines cannot be used" in caplog.text
    assert "1.txt, line 10: " in caplog.text
    write_yolo(tmp_path, {"1": line})
    with pytest.raises(DataError, match=rf"1.txt, line 1: .*{reason}(.|\n)*more than a tenth"):
        yolo_images(images, labels, None, RULES, True)


def test_label_files_that_are_missing_or_left(tmp_path, caplog):
    images = write_yolo(tmp_path, {"1": SQUARE, "9": SQUARE})
    yolo_images(images, tmp_path / "labels/train", None, RULES, True)
    assert "1 files of labels without an image" in caplog.text
    assert "9.txt" in caplog.text
    (tmp_path / "labels/train/1.txt").unlink()
    with pytest.raises(DataError, match=r"None of the 2 images in .* has labels; wanted .*1\.txt"):
        yolo_images(images, tmp_path / "labels/train", None, RULES, True)

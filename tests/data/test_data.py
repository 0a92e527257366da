"""Images from folders and arrays, damaged ones among them, and the order in which they come."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.core.errors import DataError
from beit.data.decode import read_image
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import ArrayImages, FolderImages
from beit.data.sources.in_memory import hold_in_memory
from fixtures_runs import stripes, write_images


def save(path: Path, size: tuple[int, int] = (8, 8), colour: tuple[int, int, int] = (200, 100, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


# --- folders -----------------------------------------------------------------------------------------------------


def test_folders_are_searched_to_the_bottom_and_sorted(tmp_path):
    for name in ("b.PNG", "a/z.jpg", "a/deep/er/y.webp", "c.gif", ".hidden.png", ".cache/x.png", "a/.x.jpg"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    images = FolderImages(tmp_path)
    assert [os.path.relpath(path, tmp_path) for path in images.paths] == [
        "a/deep/er/y.webp",
        "a/z.jpg",
        "b.PNG",
        "c.gif",
    ]
    assert len(images) == 4
    assert images.labels is None
    assert images.name(1) == str(tmp_path / "a/z.jpg")
    assert images.read(2).size == (8, 8)
    part = images.subset(np.array([3, 0]))
    assert part.paths == [images.paths[3], images.paths[0]]
    assert len(images) == 4


def test_links_are_followed_but_not_in_circles(tmp_path):
    save(tmp_path / "images/one.png")
    save(tmp_path / "elsewhere/two.png")
    (tmp_path / "images/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/loop").symlink_to(tmp_path / "images")
    assert [Path(path).name for path in FolderImages(tmp_path / "images").paths] == ["two.png", "one.png"]


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="no images, nor have its subfolders"):
        FolderImages(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        FolderImages(tmp_path / "missing")
    with pytest.raises(DataError, match="is not a folder"):
        FolderImages(save(tmp_path / "a.png"))


def test_labels_are_the_first_level(tmp_path):
    for name in ("dog/1.png", "cat/deep/2.png", "cat/1.png"):
        save(tmp_path / name)
    images = FolderImages(tmp_path, labelled=True)
    assert images.classes == ["cat", "dog"]
    assert [(Path(path).name, label) for path, label in zip(images.paths, images.labels, strict=True)] == [
        ("1.png", 0),
        ("2.png", 0),
        ("1.png", 1),
    ]
    assert images.subset(np.array([2, 1])).labels.tolist() == [1, 0]
    # A trained model's classes decide the numbers, and may be more than are found.
    assert FolderImages(tmp_path, labelled=True, classes=["emu", "dog", "cat"]).labels.tolist() == [2, 2, 1]
    with pytest.raises(DataError, match=r"does not know: cat\. The model knows dog"):
        FolderImages(tmp_path, labelled=True, classes=["dog"])
    save(tmp_path / "stray.png")
    with pytest.raises(DataError, match=r"1 images are in no class folder, for example stray\.png"):
        FolderImages(tmp_path, labelled=True)


# --- single files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = np.linspace(0, 255, 64).round().reshape(8, 8)
    if mode == "I;16":
        image = Image.fromarray((grey * 257).astype(np.uint16))
    elif mode == "I":
        image = Image.fromarray((grey * 257).astype(np.int32))
    elif mode == "F":
        image = Image.fromarray((grey / 255).astype(np.float32))
    else:
        image = Image.fromarray(grey.astype(np.uint8))
        image = image.convert(mode) if mode == "P" else image.convert("RGB").convert(mode)
    path = tmp_path / ("x.png" if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "x.tiff")
    image.save(path)
    with Image.open(path) as stored:
        assert stored.mode == mode
    found = read_image(path)
    assert found.mode == "RGB"
    pixels = np.asarray(found).astype(float)
    if mode == "1":
        assert set(np.unique(pixels)) == {0, 255}
    else:
        np.testing.assert_allclose(pixels, np.repeat(grey[..., None], 3, 2), atol=0.5)


def test_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees: left comes up
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    found = np.asarray(read_image(tmp_path / "x.png"))
    assert found.shape == (16, 8, 3)
    assert (found[:8] == 255).all()
    assert (found[8:] == 0).all()


def test_small_images_are_refused_in_plain_words(tmp_path):
    path = save(tmp_path / "x.png", (20, 7))
    with pytest.raises(DataError) as error:
        read_image(path, smallest_side=8)
    assert str(error.value) == f"{path}: 20x7 pixels, smaller than a patch (8)."
    assert read_image(path, smallest_side=7).size == (20, 7)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", (20, 20))
    for limit in (300, 100):  # Pillow only warns up to twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match="decompression bomb"):
            read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp", "bmp", "ppm"])
def test_whatever_is_wrong_with_a_file_is_a_data_error(tmp_path, suffix):
    """Cut at every length and with bytes changed, a file is read or refused; nothing else is raised."""
    rng = np.random.default_rng(0)
    path = tmp_path / f"x.{suffix}"
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a text"
    image = Image.fromarray(stripes(1, 24)[0][0])
    image.save(path, **({"exif": exif} if suffix in ("png", "jpg", "tif", "webp") else {}))
    whole = path.read_bytes()
    refused = 0
    for number in range(150):
        if number % 3 == 0:
            data = bytearray(whole[: len(whole) * number // 150])
        else:
            data = bytearray(whole)
            for place in rng.integers(0, min(len(data), 200 if number % 3 == 1 else len(data)), 4):
                data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            read_image(path)
        except DataError:
            refused += 1
    assert refused >= 30


# --- bad images --------------------------------------------------------------------------------------------------


def damage(folder: Path) -> None:
    """Three kinds of damage among the files 000.png, 001.png, 002.png."""
    (folder / "000.png").write_bytes(b"")
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:60])
    (folder / "002.png").write_text("this is no image at all")


def test_bad_images_are_counted_once_and_named():
    bad = BadImages(40)
    for reason in ("a.png: cut", "b.png: empty", "a.png: cut"):
        bad.add(reason)
    assert len(bad) == 2
    assert str(bad) == "  a.png: cut\n  b.png: empty"
    many = BadImages(1000)
    for number in range(13):
        many.add(f"{number}.png: cut")
    assert str(many).splitlines()[-1] == "  … and 3 more"
    assert len(str(many).splitlines()) == 11


def test_more_than_a_tenth_bad_is_an_error():
    bad = BadImages(20)
    bad.add("a.png: cut")
    bad.add("b.png: cut")  # exactly a tenth
    with pytest.raises(DataError, match=r"3 of 20 images cannot be used, more than a tenth:\n  a\.png: cut"):
        bad.add("c.png: cut")


# --- in memory ---------------------------------------------------------------------------------------------------


def test_small_images_of_one_size_are_held_in_memory(tmp_path):
    images = FolderImages(write_images(tmp_path, 6, side=9, labelled=True), labelled=True)
    held = hold_in_memory(images, BadImages(6), 28)
    assert isinstance(held, ArrayImages)
    assert held.classes == ["flat", "upright"]
    assert held.labels.tolist() == images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for number in range(6):
        np.testing.assert_array_equal(held.array[number], np.asarray(images.read(number)))
        np.testing.assert_array_equal(np.asarray(held.read(number)), held.array[number])
    assert hold_in_memory(held, BadImages(6), 28) is held


def test_images_are_decoded_once_to_be_held(tmp_path):
    """Those that are looked at first are not read a second time; where sizes differ, no more than two are read."""

    class Counted(FolderImages):
        reads: list[int] = []

        def read(self, index):
            self.reads.append(index)
            return super().read(index)

    Counted.reads = []
    images = Counted(write_images(tmp_path / "same", 20))
    assert isinstance(hold_in_memory(images, BadImages(20), 28), ArrayImages)
    assert Counted.reads == list(range(20))
    Counted.reads = []
    save(tmp_path / "mixed/0.png", (9, 9))
    save(tmp_path / "mixed/1.png", (9, 8))
    save(tmp_path / "mixed/2.png", (9, 9))
    mixed = Counted(tmp_path / "mixed")
    assert hold_in_memory(mixed, BadImages(3), 28) is mixed
    assert Counted.reads == [0, 1]


def test_other_images_stay_where_they_are(tmp_path):
    mixed = FolderImages(write_images(tmp_path / "mixed", 20, spread=2))
    assert hold_in_memory(mixed, BadImages(20), 28) is mixed
    write_images(tmp_path / "late", 20)
    save(tmp_path / "late/zzz.png", (5, 5))  # the odd one comes after those that are looked at first
    late = FolderImages(tmp_path / "late")
    assert hold_in_memory(late, BadImages(21), 28) is late
    save(tmp_path / "large/x.png", (129, 40))
    large = FolderImages(tmp_path / "large")
    assert hold_in_memory(large, BadImages(1), 28) is large


def test_labels_follow_when_images_are_left_out(tmp_path):
    write_images(tmp_path, 40, labelled=True)
    (tmp_path / "flat/002.png").write_bytes(b"")
    (tmp_path / "upright/007.png").write_text("no image")
    images = FolderImages(tmp_path, labelled=True)
    bad = BadImages(40)
    held = hold_in_memory(images, bad, 28)
    assert len(held) == len(held.labels) == 38
    assert len(bad) == 2
    assert "flat/002.png" in str(bad)
    assert "upright/007.png" in str(bad)
    for picture, label in zip(held.array, held.labels, strict=True):  # in upright stripes all rows are the same
        assert (picture == picture[:1]).all() == (label == 1)


def test_too_many_bad_images_are_noticed_while_they_are_read(tmp_path):
    write_images(tmp_path, 20)
    damage(tmp_path)
    images = FolderImages(tmp_path)
    with pytest.raises(DataError, match="3 of 20 images cannot be used"):
        hold_in_memory(images, BadImages(20), 28)


def test_arrays_are_checked():
    grey = ArrayImages(np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5), np.array([2, 0]))
    assert grey.array.shape == (2, 4, 5, 3)
    assert (grey.array == grey.array[..., :1]).all()
    assert grey.classes == ["0", "1", "2"]
    assert grey.read(1).size == (5, 4)
    assert grey.name(1) == "image 1"
    assert grey.subset(np.array([1])).labels.tolist() == [0]
    for wrong in (np.zeros((2, 4, 4)), np.zeros((2, 4, 4, 1), np.uint8), np.zeros((4, 4), np.uint8)):
        with pytest.raises(DataError, match="wanted uint8"):
            ArrayImages(wrong)
    with pytest.raises(DataError, match="without images"):
        ArrayImages(np.zeros((0, 4, 4), np.uint8))
    with pytest.raises(DataError, match="wanted one each"):
        ArrayImages(np.zeros((2, 4, 4), np.uint8), np.array([1]))


# --- order and loader --------------------------------------------------------------------------------------------


def test_every_image_comes_once_an_epoch():
    order = Order(total=13, batch_size=4, seed=5)
    assert order.steps_per_epoch == 3
    epochs = []
    for epoch in range(3):
        steps = [order.indices(epoch * 3 + i) for i in range(3)]
        assert [e for e, _ in steps] == [epoch] * 3
        seen = np.concatenate([indices for _, indices in steps])
        assert len(set(seen.tolist())) == len(seen) == 12  # the thirteenth waits for another epoch
        epochs.append(seen)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], Order(13, 4, 6).indices(0)[1])
    whole = Order(total=12, batch_size=4, seed=5)
    assert sorted(np.concatenate([whole.indices(i)[1] for i in range(3)])) == list(range(12))
    few = Order(total=3, batch_size=8, seed=0)
    assert few.steps_per_epoch == 1
    assert sorted(few.indices(7)[1]) == [0, 1, 2]


class Plain:
    """Views that show which image was drawn, and with which random numbers."""

    def one(self, image, target, draw):
        pixels = np.array(image.resize((4, 4)), np.float32)
        return {"pixels": pixels, "label": np.array(target), "draw": np.array(draw.rng().random())}

    def batch(self, images, labels, draws):
        return {"pixels": images, "label": labels, "draw": np.array([draw.rng().random() for draw in draws])}


def same_arrays(a, b) -> bool:
    return type(a) is type(b) is np.ndarray and a.dtype == b.dtype and np.array_equal(a, b)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(same_arrays(a[name], b[name]) for name in a)


def test_batches_depend_on_the_step_only(tmp_path):
    images = FolderImages(write_images(tmp_path, 12, spread=2, labelled=True), labelled=True)
    order = Order(12, 4, seed=3)
    whole = list(Loader(images, Plain(), order, BadImages(12)).batches(0, 7))
    assert len(whole) == 7
    assert not same(whole[0], whole[3])  # another epoch: other draws
    for workers in (0, 2):
        loader = Loader(images, Plain(), order, BadImages(12), workers=workers)
        for first in (0, 2, 5)[:: 1 if workers == 0 else 2]:
            later = list(loader.batches(first, 7))
            assert len(later) == 7 - first
            assert all(same(a, b) for a, b in zip(whole[first:], later, strict=True))
    expected = images.labels[order.indices(4)[1]]
    assert whole[4]["label"].tolist() == expected.tolist()


def test_batches_from_an_array_depend_on_the_step_only():
    array, labels = stripes(10)
    images = ArrayImages(array, labels)
    loader = Loader(images, Plain(), Order(10, 4, seed=3), BadImages(10), workers=2)
    whole = list(loader.batches(0, 5))
    for number, batch in zip(range(2, 5), loader.batches(2, 5), strict=True):
        assert same(batch, whole[number])
        chosen = loader.order.indices(number)[1]
        assert batch["pixels"].dtype == np.float32
        np.testing.assert_array_equal((batch["pixels"] * 255).round().transpose(0, 2, 3, 1), array[chosen])
        assert batch["label"].tolist() == labels[chosen].tolist()
    assert len({float(batch["draw"][0]) for batch in whole}) == 5
    seen = np.concatenate([batch["pixels"] for batch in whole[:2]])
    assert len({x.tobytes() for x in seen}) == 8


@pytest.mark.parametrize("kind", ["folder", "array"])
def test_slices_of_two_processes_make_up_the_batch(tmp_path, kind):
    array, labels = stripes(12)
    images = ArrayImages(array, labels) if kind == "array" else FolderImages(write_images(tmp_path, 12, spread=2))
    order = Order(12, 6, seed=1)
    single = list(Loader(images, Plain(), order, BadImages(12)).batches(0, 3))
    halves = [list(Loader(images, Plain(), order, BadImages(12), rank=r, world=2).batches(0, 3)) for r in (0, 1)]
    for step in range(3):
        together = {name: np.concatenate([halves[0][step][name], halves[1][step][name]]) for name in single[step]}
        assert len(halves[0][step]["pixels"]) == 3
        assert same(together, single[step])


def test_a_batch_must_be_divisible():
    images = ArrayImages(stripes(9)[0])
    with pytest.raises(DataError, match="batch of 9 cannot be divided among 2"):
        Loader(images, Plain(), Order(9, 9, 0), BadImages(9), world=2)
    with pytest.raises(DataError, match="cannot be divided"):
        Loader(images, Plain(), Order(9, 64, 0), BadImages(9), world=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_replaced_and_reported(tmp_path, workers):
    write_images(tmp_path, 30, spread=2, labelled=False)
    damage(tmp_path)
    images = FolderImages(tmp_path)
    bad = BadImages(30)
    batches = list(Loader(images, Plain(), Order(30, 10, seed=0), bad, workers=workers).batches(0, 6))
    assert len(bad) == 3
    assert Counter(re.findall(r"00\d\.png", str(bad))).keys() == {"000.png", "001.png", "002.png"}
    pixels = np.concatenate([batch["pixels"] for batch in batches[:3]])
    assert len(pixels) == 30
    replacement = np.array(images.read(3).resize((4, 4)), np.float32)
    assert sum(same_arrays(picture, replacement) for picture in pixels) == 4  # 000, 001, 002 → 003, and 003 itself


def test_too_many_bad_images_end_the_epoch(tmp_path):
    write_images(tmp_path, 20, spread=2)
    damage(tmp_path)
    loader = Loader(FolderImages(tmp_path), Plain(), Order(20, 5, 0), BadImages(20))
    with pytest.raises(DataError, match="3 of 20 images cannot be used"):
        list(loader.batches(0, 4))


def test_a_folder_without_one_readable_image(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_text("no image")
    loader = Loader(FolderImages(tmp_path), Plain(), Order(3, 1, 0), BadImages(3))
    with pytest.raises(DataError, match="None of the images can be read"):
        list(loader.batches(0, 1))

"""Label maps and their images: matching, turning, errors; the views of training; the embedded task."""

from __future__ import annotations

import colorsys
import os

import numpy as np
import pytest
from PIL import Image

from beit.core.errors import DataError, InputError
from beit.data.embedded.pasted_garments import PastedGarments
from beit.data.label_form import LabelForm
from beit.data.label_maps import LabelRules
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.sources.bad_images import BadImages
from beit.data.sources.class_names import read_classes
from beit.data.sources.label_map_scan import numbered_classes
from beit.data.sources.labelled_folders import LabelledFolders
from beit.data.sources.open_segmented import open_segmented
from beit.data.sources.partners import partners
from beit.data.transforms.colours import distort_colours
from beit.data.transforms.sample_seed import SampleSeed
from beit.data.transforms.segmentation import SegmentViews, fitted_size, image_crop, label_crop, largest_class_fraction
from fixtures_segment import NAMES, blocks, write_names, write_segmented


@pytest.fixture
def folders(tmp_path):
    return write_segmented(tmp_path)


# --- files -------------------------------------------------------------------------------------------------------


def test_images_find_their_maps(folders):
    images, maps = folders
    Image.fromarray(blocks(0, 16, 16)[0]).save(images / "a/00.jpg", quality=95)
    (images / "a/00.png").unlink()
    found = LabelledFolders(images, maps, NAMES)
    assert len(found) == 8
    assert found.labels is None
    for index in range(8):
        expected_image, expected = blocks(int(found.name(index)[-6:-4]), *found.target(index).shape)
        np.testing.assert_array_equal(found.target(index), expected)
        assert found.target(index).dtype == np.int64
        error = np.abs(np.asarray(found.read(index)).astype(int) - expected_image).mean()
        assert error < (25 if found.name(index).endswith("jpg") else 1e-9)
    part = found.subset(np.array([5, 2]))
    assert [part.name(0), part.name(1)] == [found.name(5), found.name(2)]
    np.testing.assert_array_equal(part.target(1), found.target(2))
    prints = {found.fingerprint(), part.fingerprint(), found.with_classes(["a", "b", "c"]).fingerprint()}
    prints.add(LabelledFolders(images, maps, NAMES, LabelRules(7)).fingerprint())
    assert len(prints) == 4
    assert found.fingerprint() == LabelledFolders(images, maps, NAMES).fingerprint()


def test_maps_of_every_mode_that_holds_numbers(tmp_path, folders):
    images, maps = folders
    expected = LabelledFolders(images, maps, NAMES).target(0)
    array = expected.astype(np.uint8)
    palette = Image.fromarray(array)
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for image in (palette, Image.fromarray(array.astype(np.uint16))):
        image.save(maps / "a/00.png")
        np.testing.assert_array_equal(LabelledFolders(images, maps, NAMES).target(0), expected)
    Image.fromarray(array > 0).save(maps / "a/00.png")
    np.testing.assert_array_equal(LabelledFolders(images, maps, NAMES).target(0), expected > 0)
    (maps / "a/00.png").unlink()
    Image.fromarray(array.astype(np.int32)).save(maps / "a/00.tif")
    np.testing.assert_array_equal(LabelledFolders(images, maps, NAMES).target(0), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(16, 20), (16, 16)])
def test_exif_turns_the_map_as_the_image(tmp_path, orientation, shape):
    """What is red in the upright image is class 1 in the map, whether the map was stored with the pixels or upright."""
    image, labels = blocks(3, *shape)
    (tmp_path / "images").mkdir()
    (tmp_path / "maps").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(tmp_path / "images/x.png", exif=exif)
    Image.fromarray(labels).save(tmp_path / "maps/x.png")
    found = LabelledFolders(tmp_path / "images", tmp_path / "maps", NAMES)

    def check() -> None:
        upright = np.asarray(found.read(0)).astype(int)
        red = (upright[..., 0] > 200) & (upright[..., 1] < 100)
        np.testing.assert_array_equal(found.target(0) == 1, red)

    check()
    Image.fromarray(labels).save(tmp_path / "maps/x.png", exif=exif)  # an orientation of its own: the same result
    check()
    if shape[0] != shape[1] and orientation > 4:  # a map that fits the upright image only
        Image.fromarray(found.target(0).astype(np.uint8)).save(tmp_path / "maps/x.png")
        check()


def test_missing_partners_are_named(folders):
    images, maps = folders
    (maps / "a/02.png").unlink()
    (images / "b/05.png").rename(images / "b/55.png")
    with pytest.raises(DataError) as error:
        LabelledFolders(images, maps)
    for part in ("2 images have no label map", "1 label maps no image", "a/02.png", "b/55.png", "b/05.png"):
        assert part in str(error.value)


def test_folders_that_cannot_be_used(tmp_path, folders):
    images, maps = folders
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="gone is not a folder"):
        LabelledFolders(images, tmp_path / "gone")
    with pytest.raises(DataError, match="empty has no label maps"):
        LabelledFolders(images, tmp_path / "empty")
    with pytest.raises(DataError, match="empty has no images"):
        LabelledFolders(tmp_path / "empty", maps)
    with pytest.raises(DataError, match="Give their folder: --maps"):
        open_segmented(images, None, None, None, LabelForm(), test=False)
    Image.new("L", (16, 16)).save(maps / "a/00.jpg")
    with pytest.raises(DataError, match="same name but for the suffix"):
        LabelledFolders(images, maps)
    (maps / "a/00.png").unlink()
    with pytest.raises(DataError, match=r"00\.jpg is a JPEG file"):
        LabelledFolders(images, maps)


def test_numbers_that_are_no_classes(folders):
    images, maps = folders
    labels = np.asarray(Image.open(maps / "a/00.png")).copy()
    labels[0, :3] = 200, 9, 255
    Image.fromarray(labels).save(maps / "a/00.png")
    with pytest.raises(InputError) as error:
        LabelledFolders(images, maps, NAMES).target(0)
    for part in ("00.png has the values 9, 200.", "Wanted 0 to 2", "3 classes", "255 for no label", "--ignore-index"):
        assert part in str(error.value)
    found = LabelledFolders(images, maps, NAMES, LabelRules(ignore_index=9))
    with pytest.raises(InputError, match="values 200, 255"):
        found.target(0)
    assert LabelledFolders(images, maps, None).target(0)[0, 0] == 200  # without classes anything goes

    Image.fromarray(labels[:15]).save(maps / "a/00.png")
    with pytest.raises(InputError, match=r"has shape \(15, 16\) and its image \(16, 16\)"):
        found.target(0)
    Image.new("RGB", (16, 16)).save(maps / "a/00.png")
    with pytest.raises(InputError, match="mode RGB; save class numbers"):
        found.target(0)
    (maps / "a/00.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not an image"):
        found.target(0)


def test_reduced_labels(tmp_path):
    images, maps = write_segmented(tmp_path, shift=1)
    plain = LabelledFolders(*write_segmented(tmp_path / "plain"), NAMES)
    reduced = LabelledFolders(images, maps, NAMES, LabelRules(reduce_labels=True))
    np.testing.assert_array_equal(reduced.target(1), plain.target(1))
    found = LabelRules(reduce_labels=True).apply(np.array([0, 1, 2, 255, 150]))
    assert found.tolist() == [255, 0, 1, 255, 149]
    with pytest.raises(InputError, match=r"values 3\. Wanted 1 to 2, .* or 0 for no label"):
        LabelledFolders(images, maps, NAMES[:2], LabelRules(reduce_labels=True)).target(0)
    assert numbered_classes(reduced) == ["0", "1", "2"]


def test_classes(tmp_path, folders):
    assert read_classes(write_names(tmp_path / "names.txt")) == list(NAMES)
    (tmp_path / "names.txt").write_text("one\n\n  two \n")
    assert read_classes(tmp_path / "names.txt") == ["one", "two"]
    for text, message in (("one", "1 names"), ("a\nb\na", "'a' twice")):
        (tmp_path / "names.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            read_classes(tmp_path / "names.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_classes(tmp_path / "gone.txt")

    images, maps = folders
    assert numbered_classes(LabelledFolders(images, maps)) == ["0", "1", "2"]
    assert numbered_classes(LabelledFolders(images, maps, rules=LabelRules(ignore_index=2))) == ["0", "1"]
    Image.fromarray(np.full((16, 16), 4000, np.uint16)).save(maps / "a/00.png")
    with pytest.raises(DataError, match=r"00\.png has the value 4000: too large"):
        numbered_classes(LabelledFolders(images, maps))
    for path in maps.rglob("*.png"):
        Image.fromarray(np.full(np.asarray(Image.open(path)).shape, 255, np.uint8)).save(path)
    with pytest.raises(DataError, match="have no label"):
        numbered_classes(LabelledFolders(images, maps))


# --- the loader --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_maps_are_passed_over_and_wrong_ones_end_the_run(tmp_path, workers):
    images, maps = write_segmented(tmp_path, 12)
    (maps / "a/00.png").write_bytes(b"nothing")
    views = SegmentViews((16, 16), (0.5,) * 3, (0.5,) * 3, 16)
    bad = BadImages(12)
    loader = Loader(LabelledFolders(images, maps, NAMES), views, Order(12, 6, 0), bad, workers=workers)
    batches = list(loader.batches(0, 2))
    assert [tuple(batch["labels"].shape) for batch in batches] == [(6, 16, 16)] * 2
    assert len(bad) == 1
    assert "00.png" in str(bad)
    Image.new("L", (18, 18), 77).save(maps / "a/02.png")
    with pytest.raises(InputError, match=r"02\.png") as error:
        list(loader.batches(0, 2))
    assert "Traceback" not in str(error.value)


# --- views -------------------------------------------------------------------------------------------------------


def test_a_crop_is_a_part_of_the_resized_image():
    image, labels = (np.repeat(np.repeat(x, 4, 0), 4, 1) for x in blocks(1, 20, 30))  # 80 x 120
    for scaled in ((60, 40), (200, 133), (120, 80)):
        box = (11, 7, 43, 37)
        whole = Image.fromarray(image).resize(scaled, Image.Resampling.BILINEAR).crop(box)
        part = image_crop(Image.fromarray(image), scaled, box)
        assert np.abs(np.asarray(whole).astype(int) - np.asarray(part)).max() <= 1
        expected = np.asarray(Image.fromarray(labels).resize(scaled, Image.Resampling.NEAREST).crop(box))
        np.testing.assert_array_equal(label_crop(labels, scaled, box), expected)


def test_sizes_keep_proportions():
    assert fitted_size((640, 480), 240) == (320, 240)
    assert fitted_size((480, 640), 240) == (240, 320)
    assert fitted_size((8000, 500), 100) == (400, 25)  # the long side is at most four times 100
    assert fitted_size((333, 100), 100, multiple=4) == (332, 100)
    assert fitted_size((5, 500), 3, multiple=4) == (4, 12)


def test_views_keep_image_and_map_together():
    """Whatever scale, crop and flip: a pixel's colour tells its label, and the padding has the mean colour and is ignored."""
    views = SegmentViews((24, 32), (0.2, 0.3, 0.4), (0.5,) * 3, 24, scale=(0.5, 2.0), distortion=0.0, ignore_index=9)
    image, labels = (np.repeat(np.repeat(x, 5, 0), 5, 1) for x in blocks(5, 16, 20))
    padded = flipped = 0
    for seed in range(30):
        found = views.one(Image.fromarray(image), labels.astype(np.int64), SampleSeed(seed, 0, 0))
        pixels, target = found["pixel_values"], found["labels"]
        assert pixels.shape == (3, 24, 32)
        assert target.shape == (24, 32)
        assert (pixels.dtype, target.dtype) == (np.float32, np.int64)
        nothing = target == 9
        assert bool((pixels[:, nothing] == 0).all())
        padded += bool(nothing.any())
        restored = pixels * 0.5 + np.array([0.2, 0.3, 0.4]).reshape(3, 1, 1)
        guess = np.stack([0.45 - restored[:2].max(0), restored[0], restored[1]]).argmax(0)
        assert (guess == target)[~nothing].mean() > 0.85  # but for mixed pixels on edges
        again = views.one(Image.fromarray(image), labels.astype(np.int64), SampleSeed(seed, 0, 0))
        assert np.array_equal(again["pixel_values"], pixels)
        mirrored = SegmentViews(**{**vars(views), "flip": 1.0})
        other = mirrored.one(Image.fromarray(image), labels.astype(np.int64), SampleSeed(seed, 0, 0))
        flipped += not np.array_equal(other["labels"], target)
    assert 3 < padded < 27
    assert 3 < flipped < 27  # half were flipped already


def test_crops_with_more_than_one_class_are_preferred():
    """A block of 1/9 of the image: without `cat_max` most crops see one class alone."""
    labels = np.zeros((60, 60), np.int64)
    labels[20:40, 20:40] = 1
    image = Image.new("RGB", (60, 60))

    def mixed(cat_max: float) -> int:
        views = SegmentViews((16, 16), (0.0,) * 3, (1.0,) * 3, 60, scale=(1.0, 1.0), cat_max=cat_max)
        found = [views.one(image, labels, SampleSeed(seed, 0, 0))["labels"] for seed in range(40)]
        return sum(largest_class_fraction(x, 255) <= 0.75 for x in found)

    assert mixed(0.75) > 1.7 * mixed(1.0)
    assert largest_class_fraction(np.array([3, 3, 3, 1, 255, 255]), 255) == 0.75
    assert largest_class_fraction(np.array([255]), 255) == 1.0


def test_distortion_of_colours():
    colours = [(200, 60, 60), (60, 180, 90), (90, 90, 200), (120, 120, 120)]
    image = Image.new("RGB", (4, 1))
    image.putdata(colours)
    assert distort_colours(image, 0.0, np.random.default_rng(0)).tobytes() == image.tobytes()
    hues, greys, unchanged = [], [], 0
    for seed in range(300):
        found = np.asarray(distort_colours(image, 0.5, np.random.default_rng(seed)))[0].astype(int)
        unchanged += found.tobytes() == np.array(colours).tobytes()
        greys.append(found[3, 0])
        assert np.ptp(found[3]) <= 2  # grey has no hue and no saturation to change
        hue = colorsys.rgb_to_hsv(*found[0] / 255)[0]
        hues.append((hue + 0.5) % 1 - 0.5)
    assert 300 / 16 * 0.3 < unchanged < 300 / 16 * 2.5
    assert -0.12 < min(hues) < -0.08 < 0.08 < max(hues) < 0.12  # 18 of 180, as a part of the circle
    assert 40 < min(greys) < 62
    assert 190 < max(greys) < 230  # (120 + 32) * 1.5 at most


# --- the embedded task -------------------------------------------------------------------------------------------


def test_pasted_garments():
    task = PastedGarments()
    assert len(task) == 2000
    assert task.classes[:2] == ["background", "T-shirt/top"]
    assert len(task.classes) == 11
    for index in (0, 7):
        assert task.read(index).size == (96, 96)
        assert task.target(index).shape == (96, 96)
    seen = np.concatenate([np.unique(task.target(i)) for i in range(60)])
    assert set(seen) == set(range(11))
    again = PastedGarments()
    np.testing.assert_array_equal(np.asarray(again.read(7)), np.asarray(task.read(7)))
    assert not np.array_equal(np.asarray(PastedGarments(seed=1).read(7)), np.asarray(task.read(7)))
    part = task.subset(np.array([9, 7]))
    np.testing.assert_array_equal(part.target(1), task.target(7))
    assert part.fingerprint() != task.fingerprint() == again.fingerprint()
    background = np.mean([(task.target(i) == 0).mean() for i in range(60)])
    assert 0.7 < background < 0.9
    with pytest.raises(DataError, match="must fit in"):
        PastedGarments(size=40)


def test_the_test_part_is_made_of_other_things():
    train, test = PastedGarments(), PastedGarments(test=True)
    assert len(test) == 200
    photos = [{photo.tobytes() for photo in part.photos} for part in (train, test)]
    assert [len(found) for found in photos] == [15, 6]
    assert not photos[0] & photos[1]
    assert not {x.tobytes() for x in train.garments} & {x.tobytes() for x in test.garments}
    assert (
        open_segmented("embedded:pasted_garments", None, None, None, LabelForm(), test=True).fingerprint()
        == test.fingerprint()
    )
    with pytest.raises(DataError, match="no embedded images 'cats'"):
        open_segmented("embedded:cats", None, None, None, LabelForm(), test=True)


# --- how often files are opened ----------------------------------------------------------------------------------


def test_an_image_with_its_map_is_opened_once(tmp_path, monkeypatch):
    """A loader asks for the image and then for its map, whose turning depends on the image's file."""
    images, maps = write_segmented(tmp_path)
    found = LabelledFolders(images, maps, NAMES)
    expected = [found.target(index) for index in range(len(found))]
    opened: list[str] = []
    whole = Image.open

    def noting(path, *arguments, **keywords):
        opened.append(str(path))
        return whole(path, *arguments, **keywords)

    monkeypatch.setattr(Image, "open", noting)
    for index in range(len(found)):
        found.read(index)
        np.testing.assert_array_equal(found.target(index), expected[index])
    assert sorted(opened) == sorted([*found.paths, *found.maps])
    opened.clear()
    found.read(0)
    np.testing.assert_array_equal(found.target(1), expected[1])  # of another image than the last one read
    found.read(0)
    np.testing.assert_array_equal(found.subset(np.array([2])).target(0), expected[2])


# --- names of label maps -----------------------------------------------------------------------------------------


def write_pairs(folder, images, maps):
    for place, names in (("images", images), ("maps", maps)):
        for name in names:
            path = folder / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4)).save(path)
    return folder / "images", folder / "maps"


def stems(found):
    return [(os.path.basename(a), os.path.basename(b)) for a, b in zip(*found, strict=True)]


@pytest.mark.parametrize(
    ("images", "maps", "suffix", "said"),
    [
        (["a/1.jpg", "a/10.jpg"], ["a/1_mask.png", "a/10_mask.png"], None, "maps without _mask"),
        (["1.jpg", "1_b.jpg"], ["1_L.png", "1_b_L.png"], None, "maps without _L"),
        (["1.jpg", "2.jpg"], ["1_L.png", "2_L.png", "1_other.png"], "_L.png", ""),
        (["1.jpg", "2.jpg"], ["1_L.png", "2_L.png", "1_L.tif"], "_L.png", ""),
        (["1.jpg", "2.jpg"], ["1_L.png", "2_L.bmp"], "_L", ""),
        (
            ["u/u_1_leftImg8bit.png", "u/u_2_leftImg8bit.png"],
            ["u/u_1_gt_labelIds.png", "u/u_2_gt_labelIds.png", "u/u_1_gt_color.png", "u/u_2_gt_color.png"],
            "_gt_labelIds.png",
            "images without _leftImg8bit",
        ),
        (
            ["u_1_x_left.png", "u_1_y_left.png"],
            ["u_1_x_gt.png", "u_1_y_gt.png"],
            None,
            "maps without _gt, images without _left",
        ),
    ],
)
def test_maps_with_other_endings(tmp_path, caplog, images, maps, suffix, said):
    found = stems(partners(*write_pairs(tmp_path, images, maps), suffix))
    assert [image for image, _ in found] == [os.path.basename(name) for name in images]
    for (image, label), wanted in zip(found, maps, strict=False):
        assert label == os.path.basename(wanted)
        assert image[:1] == label[:1]
    assert said in caplog.text
    assert bool(said) == ("are matched" in caplog.text)


def test_images_and_masks_in_one_folder(tmp_path):
    images, _ = write_pairs(tmp_path, ["1.png", "1_mask.png", "2.png", "2_mask.png"], [])
    assert stems(partners(images, images, "_mask.png")) == [("1.png", "1_mask.png"), ("2.png", "2_mask.png")]


@pytest.mark.parametrize(
    ("images", "maps", "suffix", "message"),
    [
        (
            ["1.png", "2.png"],
            ["1_a.png", "2_a.png", "1_b.png", "2_b.png"],
            None,
            "end with _a, _b. Say which .* --mask-suffix _a",
        ),
        (
            ["1.png", "2.png"],
            ["1_a.png", "2_b.png"],
            None,
            "2 images have no label map and 2 .*no image(.|\n)*--mask-suffix _mask.png",
        ),
        (
            ["1.png", "2.png"],
            ["1_a.png", "2_a.png", "3_a.png"],
            None,
            "0 images have no label map and 1 label maps no image",
        ),
        (
            ["1.png", "2.png"],
            ["1.png", "2.png", "1_x.png", "2_x.png"],
            None,
            "0 images have no label map and 2 label maps no",
        ),
        (["1.png", "11.png"], ["10.png", "110.png"], None, "2 images have no label map"),
        (
            ["1.png", "2.png"],
            ["1_a.png", "2_a.png"],
            "_L.png",
            r"No image file in .* ends with _L.png; there is .*1_a.png",
        ),
        (["1.png", "2.png"], ["1_a.png"], "_a.png", "1 images have no label map"),
    ],
)
def test_endings_that_leave_doubt_are_refused(tmp_path, images, maps, suffix, message):
    with pytest.raises(DataError, match=message):
        partners(*write_pairs(tmp_path, images, maps), suffix)


@pytest.mark.parametrize("kind", ["bmp", "tif", "tiff", "gif"])
def test_maps_in_other_lossless_formats(folders, kind):
    images, maps = folders
    expected = LabelledFolders(images, maps, NAMES).target(0)
    (maps / "a/00.png").unlink()
    Image.fromarray(expected.astype(np.uint8)).save(maps / f"a/00.{kind}")
    found = LabelledFolders(images, maps, NAMES)
    np.testing.assert_array_equal(found.target(0), expected)
    assert sorted(found.look(0).numbers) == [0, 1, 2]


def test_a_tiff_file_with_jpeg_inside(folders):
    images, maps = folders
    (maps / "a/00.png").unlink()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(maps / "a/00.tif", compression="jpeg")
    for act in (lambda found: found.target(0), lambda found: found.look(0)):
        with pytest.raises(InputError, match=r"00\.tif is compressed as JPEG, which changes class numbers"):
            act(LabelledFolders(images, maps, NAMES))

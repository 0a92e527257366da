"""RandAugment, 3-Augment and the crops of fine-tuning, by hand and against Pillow and torchvision."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from beit.core.errors import ConfigError
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import FolderImages
from beit.data.transforms.augment import OPERATIONS, draw_operations, rand_augment, three_augment
from beit.data.transforms.colours import jitter_colours
from beit.data.transforms.crops import centre_crop, crop_box, simple_crop, view
from beit.data.transforms.erasing import erase_rectangle
from beit.data.transforms.finetune import FinetuneViews
from beit.data.transforms.mixing import mixup
from beit.data.transforms.pixels import normalise
from beit.data.transforms.sample_seed import SampleSeed
from beit.train.settings import FinetuneSettings

GREY = (128, 128, 128)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode and np.array_equal(np.asarray(one), np.asarray(other))


def same_arrays(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


@pytest.fixture(scope="module")
def reference() -> Any:
    """torchvision's functions."""
    return pytest.importorskip("torchvision.transforms.v2.functional")


class Scripted:
    """Stands for a Generator and returns given numbers."""

    def __init__(self, **values: Any) -> None:
        self.values = {name: list(each) for name, each in values.items()}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *rest, **more: self.values[name].pop(0)


# --- the operations ----------------------------------------------------------------------------------------------


def test_amount_0_changes_nothing_where_there_is_an_amount():
    image = picture()
    expected = {
        "autocontrast": ImageOps.autocontrast(image),
        "equalise": ImageOps.equalize(image),
        "invert": ImageOps.invert(image),
        "posterise": image.point(lambda value: value & 0b11110000),  # four bits are the most that are kept
    }
    assert len(OPERATIONS) == 15
    for name, operation in OPERATIONS.items():
        assert same(operation.apply(image, 0.0, GREY), expected.get(name, image)), name
        if name in ("autocontrast", "equalise", "invert"):
            assert operation.most == 0


def test_operations_at_magnitude_9_are_pillows():
    """Ranges by hand: 90 % of 30 degrees, .3, .45, four bits, 256, 110 and .9."""
    image = picture()
    affine, bicubic = Image.Transform.AFFINE, Image.Resampling.BICUBIC

    def moved(*matrix: float) -> Image.Image:
        return image.transform(image.size, affine, matrix, bicubic, fillcolor=(1, 2, 3))

    expected = {
        "rotate": image.rotate(27, bicubic, fillcolor=(1, 2, 3)),
        "posterise": ImageOps.posterize(image, 1),
        "solarise": ImageOps.solarize(image, 26),
        "solarise_add": image.point([min(v + 99, 255) if v < 128 else v for v in range(256)] * 3),
        "saturation": ImageEnhance.Color(image).enhance(1.81),
        "contrast": ImageEnhance.Contrast(image).enhance(1.81),
        "brightness": ImageEnhance.Brightness(image).enhance(1.81),
        "sharpness": ImageEnhance.Sharpness(image).enhance(1.81),
        "shear_x": moved(1, 0.27, 0, 0, 1, 0),
        "shear_y": moved(1, 0, 0, 0.27, 1, 0),
        "shift_x": moved(1, 0, 0.405 * 40, 0, 1, 0),
        "shift_y": moved(1, 0, 0, 0, 1, 0.405 * 30),
    }
    for name, wanted in expected.items():
        operation = OPERATIONS[name]
        assert same(operation.apply(image, 9 / 10 * operation.most, (1, 2, 3)), wanted), name
    factors = [1 + sign * 0.9 * magnitude / 10 for magnitude in (9, 10) for sign in (1, -1)]
    assert factors == pytest.approx([1.81, 0.19, 1.9, 0.1])
    for name, kind in (("brightness", ImageEnhance.Brightness), ("sharpness", ImageEnhance.Sharpness)):
        assert same(OPERATIONS[name].apply(image, -0.81, GREY), kind(image).enhance(1 - 0.81))
        assert same(OPERATIONS[name].apply(image, -0.99, GREY), kind(image).enhance(0.1))  # never less


def test_colours_and_rotations_are_torchvisions(reference):
    """Pixel by pixel, on a PIL image."""
    image = picture()
    operations = {name: operation.apply for name, operation in OPERATIONS.items()}
    bicubic = reference.InterpolationMode.BICUBIC
    for name in ("autocontrast", "equalize", "invert"):
        assert same(operations[name.replace("ize", "ise")](image, 0.0, GREY), getattr(reference, name)(image))
    for angle in (-27.5, 30):
        expected = reference.rotate(image, angle, bicubic, fill=[1, 2, 3])
        assert same(operations["rotate"](image, angle, (1, 2, 3)), expected)
    assert same(operations["posterise"](image, 2.7, GREY), reference.posterize(image, 2))
    assert same(operations["solarise"](image, 100.5, GREY), reference.solarize(image, 156))
    for name in ("saturation", "contrast", "brightness", "sharpness"):
        change = getattr(reference, f"adjust_{name}")
        for amount in (-0.81, 0.4):
            assert same(operations[name](image, amount, GREY), change(image, 1 + amount))
    grey, solarised = (three_augment(image, Scripted(integers=[kind], permutation=[[]])) for kind in (0, 1))
    assert same(grey, reference.rgb_to_grayscale(image, num_output_channels=3))
    assert same(solarised, reference.solarize(image, 128))
    changes = [reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation]
    for order in ([0, 1, 2], [2, 0, 1]):
        expected = image
        for i, factor in zip(order, (0.7, 1.3, 1.1), strict=True):
            expected = changes[i](expected, factor)
        found = jitter_colours(image, 0.4, Scripted(permutation=[order], uniform=[0.7, 1.3, 1.1]))
        assert same(found, expected)


def test_shifts_go_both_ways_and_fill():
    image = picture()
    left = np.asarray(OPERATIONS["shift_x"].apply(image, 0.25, (9, 8, 7)))
    right = np.asarray(OPERATIONS["shift_x"].apply(image, -0.25, (9, 8, 7)))
    own = np.asarray(image)
    assert np.array_equal(left[:, :30], own[:, 10:])
    assert (left[:, 30:] == (9, 8, 7)).all()
    assert np.array_equal(right[:, 10:], own[:, :30])
    assert (right[:, :10] == (9, 8, 7)).all()


def test_at_magnitude_10_nothing_is_left_of_a_posterised_picture():
    assert same(OPERATIONS["posterise"].apply(picture(), 4.0, GREY), Image.new("RGB", (40, 30)))
    assert same(OPERATIONS["solarise"].apply(picture(), 256.0, GREY), ImageChops.invert(picture()))


@given(
    st.sampled_from(sorted(OPERATIONS)), st.integers(1, 30), st.integers(1, 30), st.floats(-1, 1), st.integers(0, 50)
)
def test_any_size_keeps_its_size(name, width, height, part, seed):
    image = picture(width, height, seed)
    operation = OPERATIONS[name]
    found = operation.apply(image, (part if operation.signed else abs(part)) * operation.most, GREY)
    assert (found.mode, found.size) == ("RGB", (width, height))
    assert same(image, picture(width, height, seed))  # the caller's stays as it is


# --- what is drawn -----------------------------------------------------------------------------------------------


def test_two_operations_by_even_chance_around_magnitude_9():
    rng = np.random.default_rng(0)
    drawn = [draw_operations(rng) for _ in range(8000)]
    lengths = np.bincount([len(each) for each in drawn], minlength=3) / len(drawn)
    assert lengths == pytest.approx([0.25, 0.5, 0.25], abs=0.025)
    flat = [pair for each in drawn for pair in each]
    counts = {name: sum(found == name for found, _ in flat) for name in OPERATIONS}
    assert sum(counts.values()) == len(flat)
    assert min(counts.values()) > 430  # of 533 expected
    assert max(counts.values()) < 640
    assert any(len(each) == 2 and each[0][0] == each[1][0] for each in drawn)  # with replacement
    magnitudes = [abs(amount) / OPERATIONS[name].most * 10 for name, amount in flat if OPERATIONS[name].most]
    assert np.mean(magnitudes) == pytest.approx(9, abs=0.03)
    assert np.std(magnitudes) == pytest.approx(0.5, abs=0.03)
    assert max(magnitudes) == 10  # cut there, one in 44
    assert 0.01 < np.mean(np.array(magnitudes) == 10) < 0.04
    signs = [amount < 0 for name, amount in flat if OPERATIONS[name].signed]
    assert np.mean(signs) == pytest.approx(0.5, abs=0.03)
    assert all(amount >= 0 for name, amount in flat if not OPERATIONS[name].signed)


def test_rand_augment_does_what_was_drawn():
    image, changed = picture(), 0
    for key in range(60):
        found = rand_augment(image, SampleSeed(0, 0, key).rng(), MEAN)
        expected = image
        for name, amount in draw_operations(SampleSeed(0, 0, key).rng()):
            expected = OPERATIONS[name].apply(expected, amount, (124, 116, 104))  # 255 times the mean
        assert same(found, expected)
        changed += not same(found, image)
    assert 35 < changed < 55  # three of four get an operation


def test_three_augment_is_one_of_three_and_jitter():
    image, kinds = picture(), set()
    for key in range(30):
        found = three_augment(image, SampleSeed(0, 0, key).rng(), 0.3)
        rng = SampleSeed(0, 0, key).rng()
        kind = int(rng.integers(3))
        kinds.add(kind)
        if kind == 0:
            expected = ImageOps.grayscale(image).convert("RGB")
        elif kind == 1:
            expected = ImageOps.solarize(image, 128)
        else:
            expected = image.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * rng.random()))
        assert same(found, jitter_colours(expected, 0.3, rng))
    assert kinds == {0, 1, 2}
    # A flat grey picture shows the brightness factor: within .3 of 1 (and solarise leaves what is below 128).
    flat = Image.new("RGB", (4, 4), (100, 100, 100))
    values = [np.asarray(three_augment(flat, SampleSeed(1, 0, key).rng())).mean() for key in range(200)]
    assert 69 <= min(values) < 73
    assert 127 < max(values) <= 131


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "RGB", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 2)])
def test_modes_become_rgb(mode, size):
    image = picture(*size).convert(mode)
    for key in range(12):
        for found in (
            rand_augment(image, SampleSeed(0, 0, key).rng(), MEAN),
            three_augment(image, SampleSeed(0, 0, key).rng()),
        ):
            assert (found.mode, found.size) == ("RGB", size)


def test_only_the_callers_generator_is_used():
    image = picture()
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), pickle.dumps(np.random.get_state())
    first = [rand_augment(image, SampleSeed(0, 0, key).rng(), MEAN) for key in range(20)]
    three = [three_augment(image, SampleSeed(0, 0, key).rng()) for key in range(20)]
    assert random.getstate() == before[0]
    assert pickle.dumps(np.random.get_state()) == before[1]
    random.seed(2)
    np.random.seed(2)
    assert all(same(one, rand_augment(image, SampleSeed(0, 0, key).rng(), MEAN)) for key, one in enumerate(first))
    assert all(same(one, three_augment(image, SampleSeed(0, 0, key).rng())) for key, one in enumerate(three))
    assert not all(same(one, rand_augment(image, SampleSeed(0, 1, key).rng(), MEAN)) for key, one in enumerate(first))


# --- crops -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [(40, 30), (30, 40), (16, 16), (20, 61), (9, 5)])
@pytest.mark.parametrize("target", [(16, 16), (24, 24), (12, 20)])
def test_simple_crop_is_resize_pad_crop(reference, own, target):
    """torchvision's Resize, reflecting Pad and Crop. Pillow rounds between its two passes, whose order depends on the size:
    a part resized alone may differ by two steps of the 8 bits."""
    image = picture(*own)
    places = set()
    for key in range(12):
        found = simple_crop(image, target, SampleSeed(0, 0, key).rng())
        scale = max(target[1] / own[0], target[0] / own[1])
        width, height = max(int(own[0] * scale + 1e-9), target[1]), max(int(own[1] * scale + 1e-9), target[0])
        whole = reference.pad(image.resize((width, height), Image.Resampling.BICUBIC), [4] * 4, padding_mode="reflect")
        rng = SampleSeed(0, 0, key).rng()
        left, top = int(rng.integers(0, width + 8 - target[1] + 1)), int(rng.integers(0, height + 8 - target[0] + 1))
        places.add((left, top))
        expected = np.asarray(whole.crop((left, top, left + target[1], top + target[0]))).astype(int)
        assert found.size == (target[1], target[0])
        assert np.abs(np.asarray(found) - expected).max() <= 2
    assert len(places) > 6


@pytest.mark.parametrize("own", [(400, 300), (300, 400), (100, 100)])
def test_centre_crop_is_the_authors_evaluation(reference, own):
    image = picture(*own)
    short = min(own)
    resized = image.resize((256 * own[0] // short, 256 * own[1] // short), Image.Resampling.BICUBIC)
    expected = np.asarray(reference.center_crop(resized, [224, 224])).astype(int)
    found = np.asarray(centre_crop(image, (224, 224)))
    assert found.shape == (224, 224, 3)
    assert np.abs(found - expected).max() <= 2


def test_crops_of_the_oddest_pictures():
    for own in ((1, 1), (1, 20_000), (20_000, 1), (3, 2)):
        image = Image.new("RGB", own, (10, 20, 30))
        for found in (simple_crop(image, (8, 6), SampleSeed(0, 0, 1).rng()), centre_crop(image, (8, 6))):
            assert found.size == (6, 8)
            assert (np.asarray(found) == (10, 20, 30)).all()
    for target in ((1, 1), (2, 3)):  # narrower than the margin
        for key in range(20):
            assert simple_crop(picture(), target, SampleSeed(0, 0, key).rng()).size == target[::-1]


# --- in fine-tuning ----------------------------------------------------------------------------------------------


def settings(**changes: Any) -> FinetuneSettings:
    return FinetuneSettings(**{"images": "x", "output": "y", "model": "z", **changes})


def views(size: tuple[int, int] = (16, 16), **changes: Any) -> FinetuneViews:
    return FinetuneViews(settings(**changes), size, MEAN, STD)


def test_without_settings_nothing_is_new():
    """The default settings: random resized crop and flip, nothing else."""
    image = picture()
    for key in range(8):
        found = views().one(image, 3, SampleSeed(0, 0, key))
        rng = SampleSeed(0, 0, key).rng()
        box = crop_box(rng, image.size, (0.08, 1.0), (3 / 4, 4 / 3))
        expected = view(image, box, (16, 16), Image.Resampling.BICUBIC, bool(rng.random() < 0.5))
        assert same_arrays(found["pixel_values"], normalise(expected, MEAN, STD))
        assert int(found["labels"]) == 3


@pytest.mark.parametrize("crop", ["resized", "simple", "centre"])
@pytest.mark.parametrize("augment", ["none", "rand", "three"])
def test_crop_flip_augment_normalise(crop, augment):
    image = picture()
    for key in range(6):
        found = views(crop=crop, augment=augment, jitter=0.4).one(image, 0, SampleSeed(0, 0, key))["pixel_values"]
        rng = SampleSeed(0, 0, key).rng()
        if crop == "resized":
            box = crop_box(rng, image.size, (0.08, 1.0), (3 / 4, 4 / 3))
            cropped = image.crop(box).resize((16, 16), Image.Resampling.BICUBIC)
        else:
            cropped = simple_crop(image, (16, 16), rng) if crop == "simple" else centre_crop(image, (16, 16))
        if rng.random() < 0.5:
            cropped = ImageOps.mirror(cropped)
        if augment == "rand":
            cropped = rand_augment(cropped, rng, MEAN)
        else:
            cropped = three_augment(cropped, rng, 0.4) if augment == "three" else jitter_colours(cropped, 0.4, rng)
        mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
        expected = (np.asarray(cropped) / np.float32(255) - mean) / std
        assert found.dtype == expected.dtype == np.float32
        np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=1.3e-6, atol=1e-5)


def test_rand_augment_leaves_no_room_for_jitter():
    one, other = (views(augment="rand", jitter=jitter) for jitter in (0.0, 0.4))
    for key in range(10):
        pair = [each.one(picture(), 0, SampleSeed(0, 0, key))["pixel_values"] for each in (one, other)]
        assert same_arrays(*pair)


@pytest.mark.parametrize("changes", [{"augment": "rand"}, {"augment": "three"}, {"crop": "simple"}, {"crop": "centre"}])
def test_a_batch_in_memory_meets_the_same(changes):
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)
    images = arrays.transpose(0, 3, 1, 2) / np.float32(255)
    draws = [SampleSeed(0, 0, key) for key in range(5)]
    found = views(**changes, erase=0.5).batch(images, np.arange(5), draws)
    assert found["labels"].tolist() == [0, 1, 2, 3, 4]
    assert found["labels"].dtype == np.int64
    for array, draw, pixels in zip(arrays, draws, found["pixel_values"], strict=True):
        one = views(**changes, erase=0.5).one(Image.fromarray(array), 0, draw)
        assert same_arrays(pixels, one["pixel_values"])


def test_workers_give_the_same(tmp_path):
    for index in range(8):
        folder = tmp_path / "ab"[index % 2]
        folder.mkdir(exist_ok=True)
        picture(seed=index).save(folder / f"{index}.png")
    source = FolderImages(tmp_path, labelled=True)
    found = []
    for workers in (0, 2):
        order, ready = Order(8, 4, 5), views(augment="rand", crop="simple", erase=0.25)
        found.append(list(Loader(source, ready, order, BadImages(8), workers).batches(0, 4)))
    for one, other in zip(*found, strict=True):
        assert same_arrays(one["pixel_values"], other["pixel_values"])
    one, other = found[0][0]["pixel_values"], found[0][2]["pixel_values"]
    assert not same_arrays(np.sort(one, 0), np.sort(other, 0))  # another pass, other draws


@pytest.mark.parametrize(
    "changes", [{"augment": "auto"}, {"crop": "random"}, {"mix_probability": 1.5}, {"mix_probability": -0.1}]
)
def test_impossible_settings(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        settings(**changes)


# --- mixing and erasing, by hand ---------------------------------------------------------------------------------


def levels(*values: float, height: int, width: int) -> np.ndarray:
    """float32 `(B, 3, height, width)`: images of one grey each, which cannot be written to."""
    return np.broadcast_to(np.array(values, np.float32).reshape(-1, 1, 1, 1), (len(values), 3, height, width))


def test_mixup_with_label_smoothing_by_hand():
    """Share .75, smoothing .1, 4 classes: .75 x .925 + .25 x .025 = .7, .25 x .925 + .75 x .025 = .25, .025 elsewhere."""
    images = levels(1, 2, 4, height=2, width=2)
    rng = Scripted(integers=[0], beta=[0.75])
    mixed, targets = mixup(images, np.eye(4, dtype=np.float32)[[2, 0, 1]], 0.8, 1.0, rng)
    assert mixed[:, 0, 0, 0].tolist() == [1.75, 2.0, 3.25]  # with the batch in reverse
    smoothed = targets * 0.9 + 0.1 / 4
    assert smoothed[0].tolist() == pytest.approx([0.025, 0.25, 0.7, 0.025])
    assert smoothed[1].tolist() == pytest.approx([0.925, 0.025, 0.025, 0.025])
    assert smoothed[2].tolist() == pytest.approx([0.025, 0.7, 0.25, 0.025])


def test_torchs_loss_smooths_mixed_labels_by_hand():
    torch = pytest.importorskip("torch")
    labels = np.eye(4, dtype=np.float32)[[2, 1]]
    _, targets = mixup(levels(1, 2, height=2, width=2), labels, 0.8, 1.0, Scripted(integers=[0], beta=[0.75]))
    logits = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    by_hand = -((targets[:1] * 0.9 + 0.1 / 4) * (logits - np.log(np.exp(logits).sum()))).sum()
    loss = torch.nn.functional.cross_entropy(*map(torch.from_numpy, (logits, targets[:1])), label_smoothing=0.1)
    assert float(loss) == pytest.approx(by_hand, rel=1.3e-6, abs=1e-5)


def test_cutmix_counts_what_the_border_leaves():
    """Share .75 of 8x8: a box of 4x4; around row 1, column 6 it is rows 0-2, columns 4-7, 12 of 64 pixels."""
    images, own = levels(0, 1, height=8, width=8), np.eye(2, dtype=np.float32)
    mixed, targets = mixup(images, own, 0.8, 1.0, Scripted(integers=[1, 1, 6], beta=[0.75]))
    expected = np.zeros((8, 8), np.float32)
    expected[0:3, 4:8] = 1
    assert same_arrays(mixed[0, 0], expected)
    assert same_arrays(mixed[1, 2], 1 - expected)
    assert targets.tolist() == [[1 - 12 / 64, 12 / 64], [12 / 64, 1 - 12 / 64]]
    # Sides are cut down to whole pixels: .7 of 10 x 6 keeps sides of 5.47 and 3.28; odd ones reach further down and right.
    images = levels(0, 1, height=10, width=6)
    mixed, targets = mixup(images, own, 0.8, 1.0, Scripted(integers=[1, 5, 2], beta=[0.7]))
    places = np.argwhere(mixed[0, 0])
    assert places.min(0).tolist() == [3, 1]
    assert places.max(0).tolist() == [7, 3]
    assert targets[0, 1] == pytest.approx(15 / 60)


def test_mix_probability():
    rng = np.random.default_rng(0)
    images, targets = rng.random((2, 3, 4, 4), dtype=np.float32), np.eye(2, dtype=np.float32)
    mixed = sum(mixup(images, targets, 0.8, 1.0, rng, 0.3)[0] is not images for _ in range(600))
    assert 140 < mixed < 220
    assert mixup(images, targets, 0.8, 1.0, rng, 0.0)[0] is images
    one, other = (mixup(images, targets, 0.8, 1.0, np.random.default_rng(5), *more)[1] for more in ((), (1.0,)))
    assert same_arrays(one, other)


def test_erasing_leaves_every_image_something():
    for height, width in ((1, 1), (1, 9), (2, 30), (16, 16)):
        for key in range(60):
            image = np.full((3, height, width), 9.0, np.float32)
            erase_rectangle(image, SampleSeed(0, 0, key).rng())
            changed = (image != 9).all(0)
            assert not changed.all(0).any()
            assert not changed.all(1).any()
            assert (image[:, ~changed] == 9).all()

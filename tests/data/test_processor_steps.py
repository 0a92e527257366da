"""Single steps of the image processor: one after the other they give what `preprocess` gives.

The digests are of transformers 4.37.2 with the same calls on the same arrays.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beit import BeitImageProcessor
from beit.core.errors import ConfigError, InputError

PROCESSOR = BeitImageProcessor()
PICTURE = np.random.default_rng(0).integers(0, 256, (17, 23, 3)).astype(np.uint8)
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:12]


CALLS: dict[str, Any] = {
    "resize": lambda image, **formats: PROCESSOR.resize(image, {"height": 9, "width": 12}, **formats),
    "resize, no filter": lambda image, **formats: PROCESSOR.resize(image, (30, 12), resample=None, **formats),
    "crop": lambda image, **formats: PROCESSOR.center_crop(image, {"height": 9, "width": 11}, **formats),
    "pad": lambda image, **formats: PROCESSOR.center_crop(image, {"height": 27, "width": 29}, **formats),
    "crop and pad": lambda image, **formats: PROCESSOR.center_crop(image, {"height": 27, "width": 10}, **formats),
    "rescale": lambda image, **formats: PROCESSOR.rescale(image, 1 / 255, **formats),
    "normalize": lambda image, **formats: PROCESSOR.normalize(image, MEAN, STD, **formats),
    "normalize by one": lambda image, **formats: PROCESSOR.normalize(image, 0.1, 0.3, **formats),
}
REFERENCE = {
    "resize": ("uint8", (9, 12, 3), "43a027ac49f9"),
    "resize, no filter": ("uint8", (30, 12, 3), "eb25762b9398"),
    "crop": ("uint8", (9, 11, 3), "ceec928f4fac"),
    "pad": ("uint8", (27, 29, 3), "816f0236a0a3"),
    "crop and pad": ("uint8", (27, 10, 3), "669135650bcd"),
    "rescale": ("float32", (17, 23, 3), "6393ebe06c05"),
    "normalize": ("float32", (17, 23, 3), "e611fa87e7b8"),
    "normalize by one": ("float32", (17, 23, 3), "ba119e54c1fd"),
}


@pytest.mark.parametrize("name", CALLS)
def test_bits_equal_transformers_4(name: str) -> None:
    dtype, shape, expected = REFERENCE[name]
    result = CALLS[name](PICTURE)
    assert (result.dtype.name, result.shape, digest(result)) == (dtype, shape, expected)
    first = np.ascontiguousarray(PICTURE.transpose(2, 0, 1))
    np.testing.assert_array_equal(CALLS[name](first), result.transpose(2, 0, 1))
    for image in (PICTURE, first):
        given = "channels_first" if image is first else "channels_last"
        formats = {"input_data_format": given}
        np.testing.assert_array_equal(
            CALLS[name](image, data_format="channels_first", **formats), result.transpose(2, 0, 1)
        )
        np.testing.assert_array_equal(CALLS[name](image, data_format="channels_last", **formats), result)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "uint16"])
def test_steps_give_the_result_of_preprocess(dtype: str) -> None:
    image = PICTURE.astype(dtype) * np.dtype(dtype).type(257 if dtype == "uint16" else 1)
    settings: dict[str, Any] = {"size": (20, 30), "crop_size": (16, 33)}
    one = PROCESSOR.resize(image, settings["size"])
    one = PROCESSOR.center_crop(one, settings["crop_size"])
    one = PROCESSOR.rescale(one, PROCESSOR.rescale_factor)
    one = PROCESSOR.normalize(one, PROCESSOR.image_mean, PROCESSOR.image_std, data_format="channels_first")
    np.testing.assert_array_equal(one, PROCESSOR(image, return_tensors="np", **settings).pixel_values[0])


def test_floats_are_not_resized_in_8_bits() -> None:
    scaled = PICTURE / np.float32(255)
    result = PROCESSOR.resize(scaled, (9, 12))
    assert result.dtype == np.float32
    assert np.abs(result - PROCESSOR.resize(PICTURE * np.float32(1), (9, 12)) / 255).max() < 1e-6


def test_forms_of_images_and_sizes() -> None:
    whole = PROCESSOR.resize(PICTURE, (9, 12))
    np.testing.assert_array_equal(PROCESSOR.resize(Image.fromarray(PICTURE), (9, 12), resample="bicubic"), whole)
    assert PROCESSOR.resize(PICTURE, {"shortest_edge": 8}).shape == (8, 10, 3)
    grey = PICTURE[..., 0]
    assert PROCESSOR.resize(grey, 8).shape == (8, 8)
    assert PROCESSOR.resize(grey[None], 8).shape == (1, 8, 8)
    np.testing.assert_array_equal(PROCESSOR.center_crop(grey, 8, input_data_format="none"), grey[4:12, 7:15])
    batch = np.stack([PICTURE, PICTURE])
    assert PROCESSOR.rescale(batch, 2, data_format="channels_first", dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(
        PROCESSOR.normalize(batch.transpose(0, 3, 1, 2), MEAN, STD)[1],
        PROCESSOR.normalize(PICTURE, MEAN, STD).transpose(2, 0, 1),
    )
    assert PROCESSOR.normalize(PICTURE.astype(np.float16), MEAN, STD).dtype == np.float16


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_labels_are_reduced_in_a_copy(dtype: str) -> None:
    label = np.array([[0, 1, 2], [150, 254, 255]], dtype)
    result = PROCESSOR.reduce_label(label)
    assert result.tolist() == [[255, 0, 1], [149, 253, 255]]
    assert (result.dtype.name, label[0, 0]) == (dtype, 0)
    assert PROCESSOR.reduce_label(Image.fromarray(label.astype(np.uint8))).tolist() == result.tolist()
    wide = BeitImageProcessor(semantic_loss_ignore_index=65535).reduce_label(label.astype(np.uint8))
    assert (wide.dtype, wide[0].tolist()) == (np.int64, [65535, 0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PROCESSOR.center_crop(PICTURE, {"shortest_edge": 4}), "a crop needs a height and a width"),
        (lambda: PROCESSOR.normalize(PICTURE, [1, 2], STD), "mean has 2 values for 3 channels"),
        (lambda: PROCESSOR.normalize(PICTURE, MEAN, [1, 0, 1]), "wanted numbers above 0"),
        (lambda: PROCESSOR.resize(PICTURE, 0), "size is 0"),
        (lambda: PROCESSOR.resize(PICTURE[:3], 4), "both ends could be channels"),
        (lambda: PROCESSOR.resize(PICTURE[..., :2], 4), "neither end has 1 or 3"),
        (lambda: PROCESSOR.resize(PICTURE, 4, input_data_format="none"), "means .height, width"),
        (lambda: PROCESSOR.rescale("image", 4), "got a str"),
        (lambda: PROCESSOR.rescale(PICTURE, 4, data_format="last"), "data_format is 'last'"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises((InputError, ConfigError), match=message):
        call()


def test_a_subclass_learns_that_its_step_is_not_called() -> None:
    with pytest.warns(UserWarning, match="Mine.resize is not called by preprocess"):

        class Mine(BeitImageProcessor):
            def resize(self, *arguments: Any, **keywords: Any) -> Any:
                return None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("size", 50_000),
        ("size", {"height": 10**9, "width": 4}),
        ("size", [[]]),
        ("crop_size", True),
        ("resample", {"a": 1}),
        ("resample", [1]),
        ("rescale_factor", "x"),
        ("rescale_factor", float("inf")),
        ("image_mean", [0.5, [1]]),
        ("image_mean", "abc"),
        ("image_mean", []),
        ("image_std", {"a": 1}),
        ("image_std", [0.5] * 2000),
        ("do_resize", "no"),
        ("do_normalize", []),
        ("semantic_loss_ignore_index", 10**30),
        ("semantic_loss_ignore_index", "255"),
    ],
)
def test_impossible_settings_are_refused(setting: str, value: Any, tmp_path: Path) -> None:
    """Also where they come from a file."""
    with pytest.raises((ConfigError, InputError), match=setting):
        BeitImageProcessor(**{setting: value})
    saved = {**BeitImageProcessor().to_dict(), setting: value}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(saved))
    with pytest.raises((ConfigError, InputError), match=setting):
        BeitImageProcessor.from_pretrained(tmp_path)

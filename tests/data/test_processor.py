"""The image processor: bit-equal to transformers 4.37.2 where that is right, and what it does where that fails.

Golden arrays come from tests/golden/make_processing.py.
"""

from __future__ import annotations

import enum
import importlib.util
import json
import pickle
import subprocess
import sys
import types
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beit.core.errors import CheckpointError, ConfigError, InputError, MissingExtraError
from beit.core.files import write_json
from beit.data.processor import BatchFeature, BeitFeatureExtractor, BeitImageProcessor
from beit.data.processor_sizes import box_of_crop
from beit.models.outputs import SemanticSegmenterOutput

torch = pytest.importorskip("torch")

_spec = importlib.util.spec_from_file_location(
    "make_processing", Path(__file__).parents[1] / "golden/make_processing.py"
)
assert _spec is not None
assert _spec.loader is not None
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)
picture, labels = golden.picture, golden.labels
GOLDEN = np.load(golden.FILE)

SMALL = {"size": 24, "crop_size": 16}
RAW = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}


def pixels(images: Any, **arguments: Any) -> np.ndarray:
    """pixel_values (B, C, H, W) with small sizes."""
    return BeitImageProcessor()(images, return_tensors="np", **{**SMALL, **arguments})["pixel_values"]


def formula(image: np.ndarray, size: tuple[int, int], crop: tuple[int, int], resample: int = 3) -> np.ndarray:
    """The reference's steps, one by one: (H, W, 3) uint8 → (3, *crop) float32. Crops, does not pad."""
    resized = np.asarray(Image.fromarray(image).resize((size[1], size[0]), resample))
    top, left = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
    scaled = (resized[top : top + crop[0], left : left + crop[1]] * (1 / 255)).astype(np.float32)
    half = np.array([0.5, 0.5, 0.5], dtype=np.float32)
    return ((scaled - half) / half).transpose(2, 0, 1)


# --- equal to the reference --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden.CASES)
def test_bits_equal_transformers_4(name: str) -> None:
    kind, height, width, arguments = golden.CASES[name]
    result = BeitImageProcessor()(golden.make_input(kind, height, width), return_tensors="np", **arguments).pixel_values
    expected = GOLDEN[name]
    if expected.dtype.kind == "U":
        assert golden.digest(result) == str(expected)
    else:
        assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("name", golden.LABEL_CASES)
def test_labels_equal_transformers_4_where_it_is_right(name: str) -> None:
    result = BeitImageProcessor()(
        golden.make_input("pil", 30, 41), labels(30, 41), return_tensors="np", **golden.LABEL_CASES[name]
    )
    assert result["labels"].dtype == np.int64
    np.testing.assert_array_equal(result["labels"], GOLDEN[f"labels_{name}"])


def test_default_file_is_the_references(tmp_path: Path) -> None:
    assert BeitImageProcessor().to_dict() == json.loads(str(GOLDEN["settings"]))
    assert BeitImageProcessor().to_json_string() == str(GOLDEN["settings"])


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    resample=st.sampled_from(range(6)),
    kind=st.sampled_from(["pil", "hwc", "chw"]),
    data=st.data(),
)
def test_equals_the_formula(
    height: int, width: int, size: tuple[int, int], resample: int, kind: str, data: st.DataObject
) -> None:
    crop = (data.draw(st.integers(1, size[0])), data.draw(st.integers(1, size[1])))
    array = picture(height, width, seed=height * width)
    image = {"pil": Image.fromarray(array), "hwc": array, "chw": array.transpose(2, 0, 1)}[kind]
    result = pixels(
        image,
        size=size,
        crop_size=crop,
        resample=resample,
        input_data_format={"pil": None, "hwc": "channels_last", "chw": "channels_first"}[kind],
    )
    np.testing.assert_array_equal(result[0], formula(array, size, crop, resample))


@settings(deadline=None, max_examples=25)
@given(height=st.integers(1, 40), width=st.integers(4, 40), crop=st.integers(1, 50), seed=st.integers(0, 9))
def test_shapes_range_and_callers_array(height: int, width: int, crop: int, seed: int) -> None:
    array = picture(height, width, seed)
    before = array.copy()
    result = pixels(array, crop_size=crop, input_data_format="channels_last")
    assert result.shape == (1, 3, crop, crop)
    assert result.dtype == np.float32
    assert -1 <= result.min() <= result.max() <= 1
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(("have", "want"), [(5, 8), (8, 5), (6, 8), (5, 6), (1, 4), (7, 7)])
def test_crop_gives_the_size_asked_for_also_when_the_difference_is_odd(have: int, want: int) -> None:
    array = np.full((have, have, 3), 200, np.uint8)
    result = pixels(array, **{**RAW, "do_center_crop": True}, crop_size=want, input_data_format="channels_last")[0, 0]
    assert result.shape == (want, want)
    inside = np.zeros(want, bool)
    begin = max(0, (want - have) // 2)
    inside[begin : begin + min(have, want)] = True
    np.testing.assert_array_equal(result == 200, np.outer(inside, inside))


# --- forms of input ----------------------------------------------------------------------------------------------


def test_one_and_many() -> None:
    array = picture(30, 41)
    one = pixels(array)
    assert one.shape == (1, 3, 16, 16)
    chw = array.transpose(2, 0, 1)
    for many in ([array] * 5, (array,) * 5, np.stack([array] * 5), [np.stack([array] * 2), [array] * 3]):
        np.testing.assert_array_equal(pixels(many), np.repeat(one, 5, axis=0))
    np.testing.assert_array_equal(pixels([Image.fromarray(array), array, torch.tensor(chw)]), np.repeat(one, 3, axis=0))
    np.testing.assert_array_equal(pixels(torch.tensor(np.stack([chw] * 5))), np.repeat(one, 5, axis=0))


def test_threads_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [picture(30, 41, seed) for seed in range(9)]
    assert BeitImageProcessor.max_threads is None
    together = pixels([Image.fromarray(array) for array in arrays])
    np.testing.assert_array_equal(together, np.concatenate([pixels(array) for array in arrays]))
    monkeypatch.setattr("beit.data.processor.ThreadPoolExecutor", None)
    monkeypatch.setattr(BeitImageProcessor, "max_threads", 8)
    with pytest.raises(TypeError):  # threads were asked for …
        pixels(arrays)
    image = Image.fromarray(arrays[0])  # … but one image object must not decode itself in two of them
    np.testing.assert_array_equal(pixels([image] * 9), np.repeat(together[:1], 9, axis=0))


class Threads:
    """Stands in for the pool: notes its size and runs nothing in parallel."""

    sizes: ClassVar[list[int]] = []
    map = staticmethod(map)

    def __init__(self, size: int) -> None:
        self.sizes.append(size)

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def test_as_many_threads_as_cores_but_one_in_a_data_loader_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [picture(30, 41, seed) for seed in range(9)]
    monkeypatch.setattr("beit.data.processor.ThreadPoolExecutor", Threads)
    monkeypatch.setattr(Threads, "sizes", [])
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(5)), raising=False)
    pixels(arrays)
    pixels(arrays[:3])  # too few to pay
    monkeypatch.delattr("os.sched_getaffinity")  # macOS, Windows
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    pixels(arrays)
    assert Threads.sizes == [5, 9]
    monkeypatch.setattr("torch.utils.data.get_worker_info", object)
    pixels(arrays)
    assert Threads.sizes == [5, 9]
    monkeypatch.setattr(BeitImageProcessor, "max_threads", 3)  # explicit settings hold in workers too
    pixels(arrays)
    assert Threads.sizes == [5, 9, 3]


def test_jax_arrays_and_tensors() -> None:
    jnp = pytest.importorskip("jax.numpy")
    array = picture(30, 41)
    np.testing.assert_array_equal(pixels(jnp.asarray(array)), pixels(array))
    result = BeitImageProcessor(**SMALL)(array, return_tensors="jax").pixel_values
    assert isinstance(result, jnp.ndarray)
    np.testing.assert_array_equal(np.asarray(result), pixels(array))


class ForeignArray:
    """What numpy and we see of a jax array."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.ndim, self.shape = array, array.ndim, array.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Any:
        return map(ForeignArray, self.array)


@pytest.mark.parametrize(
    ("kind", "module", "function"), [("jax", "jax.numpy", "asarray"), ("tf", "tensorflow", "convert_to_tensor")]
)
def test_arrays_and_tensors_of_frameworks_that_are_not_there(
    kind: str, module: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {module.partition(".")[0], module}:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules[module], function, ForeignArray, raising=False)
    array = picture(30, 41)
    expected = pixels([array, array])
    np.testing.assert_array_equal(pixels(ForeignArray(np.stack([array, array]))), expected)
    for layout in ("channels_first", "channels_last"):
        result = BeitImageProcessor(**SMALL)([array] * 2, [labels(30, 41)] * 2, return_tensors=kind, data_format=layout)
        assert {type(value) for value in result.values()} == {ForeignArray}
        channels = 1 if layout == "channels_first" else -1
        np.testing.assert_array_equal(np.moveaxis(result.pixel_values.array, channels, 1), expected)
        assert result["labels"].shape == (2, 16, 16)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "1", "YCbCr", "HSV", "PA", "RGBa", "LAB"])
def test_every_8_bit_mode_is_read_as_convert_rgb_reads_it(mode: str) -> None:
    base = Image.fromarray(picture(30, 41))
    steps = {"RGBa": ["RGBA", "RGBa"], "PA": ["P", "PA"]}.get(mode, [mode])
    image = base
    for step in steps:
        image = image.convert(step)
    expected = image.convert({"PA": "RGBA"}.get(mode, "RGB")).convert("RGB")
    np.testing.assert_array_equal(pixels(image), pixels(expected))


def test_transparency_is_dropped_not_blended() -> None:
    array = picture(30, 41)
    alpha = np.dstack([array, picture(30, 41, 3)[..., :1]])
    for image in (alpha, alpha.transpose(2, 0, 1), Image.fromarray(alpha)):
        np.testing.assert_array_equal(pixels(image), pixels(array))
    palette = Image.fromarray(array).convert("P")
    expected = pixels(palette.convert("RGB"))
    palette.info["transparency"] = bytes(range(256))
    np.testing.assert_array_equal(pixels(palette), expected)
    palette.info["transparency"] = 7
    np.testing.assert_array_equal(pixels(palette), expected)


def test_greyscale_has_three_equal_channels() -> None:
    grey = picture(30, 41)[..., 0]
    expected = pixels(np.dstack([grey] * 3))
    for image in (grey, grey[None], grey[..., None], Image.fromarray(grey), torch.tensor(grey)):
        np.testing.assert_array_equal(pixels(image), expected)
    np.testing.assert_array_equal(pixels(grey, input_data_format="none"), expected)
    np.testing.assert_array_equal(pixels(np.stack([grey] * 2), input_data_format="none"), np.repeat(expected, 2, 0))


def test_bool_and_1_bit_agree() -> None:
    black = picture(30, 41)[..., 0] > 128
    np.testing.assert_array_equal(pixels(black), pixels(black.astype(np.uint8) * 255))
    np.testing.assert_array_equal(pixels(Image.fromarray(black)), pixels(black))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_other_integers_are_8_bit_values(dtype: type) -> None:
    array = picture(30, 41) % 128
    np.testing.assert_array_equal(pixels(array.astype(dtype)), pixels(array))


def test_16_bit_keeps_its_precision() -> None:
    deep = picture(30, 41)[..., 0].astype(np.uint16) * 257 + 100 * (picture(30, 41)[..., 1] < 128)
    deep = np.minimum(deep, 65535).astype(np.uint16)
    expected = deep.astype(np.float64) / 65535 * 2 - 1
    for image in (deep, Image.fromarray(deep), Image.fromarray(deep.astype(np.int32)), deep[None]):
        result = pixels(image, do_resize=False, do_center_crop=False)
        np.testing.assert_allclose(result[0], np.stack([expected] * 3), atol=2e-7)
    assert Image.fromarray(deep).mode == "I;16"
    small = Image.fromarray((deep // 257).astype(np.int32))  # mode I, but 8-bit values
    np.testing.assert_array_equal(pixels(small), pixels((deep // 257).astype(np.uint8)))
    resized = pixels(deep)
    assert abs(resized - pixels((deep // 257).astype(np.uint8))).max() < 0.03
    assert not np.array_equal(np.rint((resized + 1) * 127.5), (resized + 1) * 127.5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_do_not_pass_through_8_bits(dtype: type) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (3, 30, 41)).astype(dtype)
    result = pixels(image, **RAW)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result[0], image.astype(np.float32))
    resized = pixels(image, **{**RAW, "do_resize": True})[0]
    plane = Image.fromarray(image[1].astype(np.float32)).resize((24, 24), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resized[1], np.asarray(plane))
    np.testing.assert_allclose(
        pixels(image * 255)[0], pixels(image, do_rescale=False)[0], atol=6e-3 if dtype == np.float16 else 1e-5
    )


def test_floats_above_one_and_pil_float() -> None:
    image = picture(30, 41).astype(np.float32) * 3 - 100
    assert np.isfinite(pixels(image)).all()
    plane = Image.fromarray(image[..., 0])
    assert plane.mode == "F"
    result = pixels(plane, **RAW)
    np.testing.assert_array_equal(result[0, 2], image[..., 0])


def test_tensors_of_subclasses_with_gradients() -> None:
    class Mine(torch.Tensor):
        pass

    image = torch.tensor(picture(30, 41)).permute(2, 0, 1).float().as_subclass(Mine).requires_grad_()
    np.testing.assert_array_equal(pixels(image), pixels(image.detach().numpy()))


def test_bfloat16_tensors() -> None:
    image = torch.tensor(picture(30, 41)).permute(2, 0, 1).bfloat16()
    np.testing.assert_array_equal(pixels(image), pixels(image.float().numpy()))


def test_rescaling_scaled_floats_warns_and_does_it() -> None:
    image = picture(30, 41).astype(np.float32) / 255
    with pytest.warns(UserWarning, match="do_rescale=False"):
        result = pixels(image, do_resize=False)
    assert result.max() < -0.99
    pixels(image, do_rescale=False)
    pixels(image * 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    upright = picture(30, 41)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that stores it that way
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.tiff"):
        stored.save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as image:
            np.testing.assert_array_equal(pixels(image), pixels(upright))
        np.testing.assert_array_equal(pixels(tmp_path / name), pixels(upright))
        np.testing.assert_array_equal(pixels(str(tmp_path / name)), pixels(upright))


def test_several_channels_follow_the_mean() -> None:
    four = np.dstack([picture(30, 41), picture(30, 41, 1)[..., :1]])
    result = pixels(four, image_mean=[0.5] * 4, image_std=[0.5] * 4)
    assert result.shape == (1, 4, 16, 16)
    np.testing.assert_array_equal(result[:, :3], pixels(four[..., :3]))
    np.testing.assert_array_equal(pixels(Image.fromarray(four), image_mean=[0.5] * 4, image_std=[0.5] * 4), result)
    grey = pixels(four[..., :1], image_mean=[0.5], image_std=0.5)
    np.testing.assert_array_equal(grey, pixels(four[..., 0])[:, :1])
    np.testing.assert_array_equal(pixels(Image.fromarray(four[..., 0]), image_mean=[0.5], image_std=0.5), grey)
    five = np.concatenate([four, four[..., :1]], 2)
    assert pixels(five, image_mean=[0.5] * 5, image_std=0.5).shape == (1, 5, 16, 16)


# --- settings ----------------------------------------------------------------------------------------------------


def test_no_filter_is_needed_without_resize() -> None:
    array = picture(30, 41)
    result = BeitImageProcessor(do_resize=False, resample=None, crop_size=16)(array, return_tensors="np")
    np.testing.assert_array_equal(result.pixel_values, pixels(array, do_resize=False))
    with pytest.raises(ConfigError, match="resample"):
        BeitImageProcessor(resample=None)(array)


def test_calls_override_settings_and_settings_hold() -> None:
    array = picture(30, 41)
    other = {
        "size": (20, 26),
        "crop_size": (12, 14),
        "resample": Image.Resampling.BILINEAR,
        "rescale_factor": 1 / 200,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    processor = BeitImageProcessor(**other)
    by_setting = processor(array, return_tensors="np").pixel_values
    np.testing.assert_array_equal(by_setting, pixels(array, **other))
    assert not np.array_equal(by_setting, pixels(array, **{**other, "resample": 3}))
    positional = processor.preprocess(
        array, None, False, None, None, False, None, False, None, False, None, None, None, "np"
    )
    np.testing.assert_array_equal(positional.pixel_values[0], array.transpose(2, 0, 1))
    assert positional.pixel_values.dtype == np.uint8


@pytest.mark.parametrize("resample", ["bilinear", 2, Image.Resampling.BILINEAR])
def test_filters_by_name_number_and_enum(resample: Any) -> None:
    assert BeitImageProcessor(resample=resample).to_dict()["resample"] == 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (24, {"height": 24, "width": 24}),
        ((24, 30), {"height": 24, "width": 30}),
        ([24, 30], {"height": 24, "width": 30}),
        ({"height": 24, "width": 30}, {"height": 24, "width": 30}),
        ({"height": 24, "width": 30, "shortest_edge": None}, {"height": 24, "width": 30}),
        ({"shortest_edge": 24}, {"shortest_edge": 24}),
    ],
)
def test_forms_of_size(size: Any, expected: dict[str, int]) -> None:
    assert BeitImageProcessor(size=size).size == expected


def test_shortest_edge_keeps_proportions() -> None:
    wide, high = picture(30, 60), picture(60, 30)
    assert pixels(wide, size={"shortest_edge": 24}, do_center_crop=False).shape == (1, 3, 24, 48)
    assert pixels(high, size={"shortest_edge": 24}, do_center_crop=False).shape == (1, 3, 48, 24)
    limited = {"shortest_edge": 24, "longest_edge": 40}
    assert pixels(high, size=limited, do_center_crop=False).shape == (1, 3, 40, 20)
    assert pixels([wide, high], size={"shortest_edge": 24}).shape == (2, 3, 16, 16)


class Kind(enum.Enum):
    """As transformers' TensorType and ChannelDimension."""

    NUMPY = "np"
    LAST = "channels_last"


def test_kinds_of_tensor() -> None:
    images = [picture(30, 41, seed) for seed in range(2)]
    processor = BeitImageProcessor(**SMALL)
    as_list = processor(images)["pixel_values"]
    assert isinstance(as_list, list)
    assert [item.shape for item in as_list] == [(3, 16, 16)] * 2
    tensor = processor(images, return_tensors="pt").pixel_values
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), np.stack(as_list))
    last = processor(images, return_tensors=Kind.NUMPY, data_format=Kind.LAST).pixel_values
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), np.stack(as_list))
    labelled = processor(images, [labels(30, 41)] * 2, return_tensors="pt")
    assert labelled["labels"].dtype == torch.int64
    assert labelled["labels"].shape == (2, 16, 16)


def test_missing_frameworks_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, kind, command in [
        ("torch", "pt", "beit\\[torch\\]"),
        ("jax.numpy", "jax", "beit\\[flax\\]"),
        ("tensorflow", "tf", "pip install tensorflow"),
    ]:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=command):
            BeitImageProcessor()(picture(30, 41), return_tensors=kind)


def test_ragged_results_make_a_list_but_no_batch() -> None:
    images = [picture(30, 41), picture(20, 41)]
    free = BeitImageProcessor(do_resize=False, do_center_crop=False)
    assert [item.shape for item in free(images)["pixel_values"]] == [(3, 30, 41), (3, 20, 41)]
    with pytest.raises(InputError, match=r"different shapes.*return_tensors=None"):
        free(images, return_tensors="np")


def test_imports_neither_torch_nor_jax() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'jax', 'flax', 'tensorflow', 'torchvision']))\n"
        "import numpy as np; from beit.data.processor import BeitImageProcessor as P\n"
        "x = P()(np.zeros((20, 30, 3), np.uint8), return_tensors='np').pixel_values\n"
        "assert x.shape == (1, 3, 224, 224)\n"
        "m, = P().post_process_semantic_segmentation({'logits': x}, [(5, 6)]); assert m.shape == (5, 6)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- label maps --------------------------------------------------------------------------------------------------


def prepared(label: Any, **arguments: Any) -> np.ndarray:
    result = BeitImageProcessor()(picture(30, 41), label, return_tensors="np", **{**SMALL, **arguments})
    return result["labels"][0]


def test_label_maps_invent_no_classes() -> None:
    label = np.select([labels(30, 41) < 50, labels(30, 41) < 100], [0, 7], 100).astype(np.uint8)
    nearest = Image.fromarray(label).resize((24, 24), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(prepared(label), np.asarray(nearest)[4:20, 4:20])
    assert set(np.unique(prepared(label))) == {0, 7, 100}


def test_forms_of_label_maps(tmp_path: Path) -> None:
    label = labels(30, 41)
    expected = prepared(label)
    palette = Image.fromarray(label, "L").copy()
    palette.putpalette([i % 256 for i in range(768)])
    assert palette.mode == "P"
    Image.fromarray(label).save(tmp_path / "map.png")
    forms = [
        label[None],
        label[None, None],
        [label],
        [label[None]],
        label.astype(np.int64),
        label.astype(np.float32),
        Image.fromarray(label),
        palette,
        Image.fromarray(label.astype(np.int32)),
        Image.fromarray(label.astype(np.uint16)),
        torch.tensor(label),
        torch.tensor(label)[None].long(),
        tmp_path / "map.png",
    ]
    for form in forms:
        np.testing.assert_array_equal(prepared(form), expected)
    large = prepared(label.astype(np.int32) + 70_000)
    np.testing.assert_array_equal(large, expected + 70_000)


def test_padding_is_ignored_by_the_loss() -> None:
    raw = {"do_resize": False, "crop_size": (34, 45)}
    result = prepared(labels(30, 41), **raw)
    np.testing.assert_array_equal(result[2:32, 2:43], labels(30, 41))
    result[2:32, 2:43] = 255
    assert (result == 255).all()
    assert prepared(labels(30, 41), **raw, semantic_loss_ignore_index=-100)[0, 0] == -100
    other = BeitImageProcessor(ignore_index=77, **raw)
    assert other.semantic_loss_ignore_index == 77
    assert other(picture(30, 41), labels(30, 41))["labels"][0][0, 0] == 77


@pytest.mark.parametrize("ignore", [255, -100, 3])
def test_reducing_labels(ignore: int) -> None:
    label = np.zeros((30, 41), np.int64)
    label[0, :5] = [0, 1, 2, 150, ignore]
    before = label.copy()
    keep = {"do_resize": False, "do_center_crop": False}
    result = prepared(label, do_reduce_labels=True, semantic_loss_ignore_index=ignore, **keep)
    np.testing.assert_array_equal(result[0, :5], [ignore, 0, 1, 149, ignore])
    np.testing.assert_array_equal(label, before)
    np.testing.assert_array_equal(prepared(label, **keep), label)
    assert BeitImageProcessor(do_reduce_labels=True)(picture(30, 41), label)["labels"][0].min() >= 0


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "arguments", "message"),
    [
        (None, {}, "NoneType.*wanted a PIL image"),
        (3.5, {}, "float.*wanted"),
        ([[1, 2], [3, 4]], {}, "int.*wanted"),
        ([], {}, "empty"),
        (np.zeros((0, 4, 4, 3), np.uint8), {}, "empty"),
        (np.zeros((0, 5, 3), np.uint8), {}, "empty"),
        (Image.new("RGB", (0, 5)), {}, "empty"),
        (np.zeros((2, 2, 2, 2, 3), np.uint8), {}, "5 dimensions"),
        (np.zeros(5, np.uint8), {}, "1 dimensions"),
        (np.zeros((10, 12, 2), np.uint8), {}, "neither first nor last.*input_data_format"),
        (np.zeros((3, 12, 3), np.uint8), {}, "ambiguous.*input_data_format"),
        (np.zeros((1, 12, 3), np.uint8), {}, "ambiguous.*input_data_format"),
        (np.zeros((10, 12, 2), np.uint8), {"input_data_format": "channels_last"}, "2 channels, wanted 3"),
        (np.zeros((10, 12, 3), np.uint8), {"input_data_format": "channels_first"}, "10 channels, wanted 3"),
        (np.zeros((10, 12, 3), np.int16) - 1, {}, r"-1\.\.-1.*uint16"),
        (np.full((10, 12, 3), 256), {}, r"256\.\.256.*0\.\.255"),
        (np.zeros((10, 12, 3), complex), {}, "complex"),
        (np.zeros((10, 12, 3), object), {}, "object"),
        (Image.new("La", (9, 9)), {}, "mode La"),
        (Image.new("RGB", (9, 9)), {"image_mean": [0.5] * 5, "image_std": 1}, "5 channels"),
        (picture(9, 9), {"image_mean": [0.5, 0.5], "image_std": 1}, "3 channels, wanted 2"),
        (picture(9, 9), {"image_std": [0.5, 0.5]}, "image_std has 2 values for 3"),
        (picture(9, 9), {"image_std": 0}, "image_std.*above 0"),
        (picture(9, 9), {"return_tensors": "torch"}, "'torch'.*'pt'"),
        (picture(9, 9), {"data_format": "hwc"}, "'hwc'.*'channels_last'"),
        (picture(9, 9), {"data_format": "none"}, "'none'"),
        (picture(9, 9), {"input_data_format": "chw"}, "'chw'.*'none'"),
        (picture(9, 9), {"resample": 99}, "99.*BICUBIC"),
        (picture(9, 9), {"resample": "cubic"}, "'cubic'.*BICUBIC"),
        (picture(9, 9), {"size": 0}, "size is 0"),
        (picture(9, 9), {"size": 2.5}, "size is 2.5"),
        (picture(9, 9), {"size": True}, "size is True"),
        (picture(9, 9), {"size": (1, 2, 3)}, "size is"),
        (picture(9, 9), {"size": {"longest_edge": 5}}, "shortest_edge"),
        (picture(9, 9), {"crop_size": {"shortest_edge": 5}}, "height and a width"),
        (picture(9, 9), {"ignore_index": 5}, "semantic_loss_ignore_index"),
    ],
)
def test_refused_images_and_arguments(image: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, ConfigError), match=message):
        BeitImageProcessor()(image, **arguments)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (Image.new("RGB", (41, 30)), "mode RGB.*class numbers"),
        (Image.new("RGBA", (41, 30)), "mode RGBA"),
        (picture(30, 41), "30 segmentation maps.*for 1 images"),
        ([labels(30, 41)] * 2, "2 segmentation maps for 1 images"),
        (labels(41, 30), r"\(41, 30\).*\(30, 41\)"),
        (labels(30, 41) + 0.5, "not whole numbers"),
        (labels(30, 41).astype(complex), "complex"),
        (labels(30, 41).astype(np.int64) + 2**40, "32 bits"),
        ("nowhere.png", "nowhere.png"),
        (object(), "segmentation map is"),
    ],
)
def test_refused_label_maps(label: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared(label)


def test_unreadable_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole.png"
    Image.fromarray(picture(90, 90)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    Image.fromarray(picture(90, 90)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1000])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("cut.png", "cut.jpg", "text.png", "absent.png", "."):
        with pytest.raises(InputError, match=f"image 1 .*{name}.* cannot be read"):
            pixels([whole, tmp_path / name])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(InputError, match=r"image 4 .*cut\.png"):
        pixels([picture(9, 9)] * 4 + [image])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"whole\.png.*decompression bomb"):
        pixels(whole)


def test_unknown_arguments_are_not_swallowed() -> None:
    with pytest.warns(UserWarning, match="do_rezise"):
        BeitImageProcessor(**SMALL)(picture(9, 9), do_rezise=False)
    with pytest.warns(UserWarning, match="do_rezise"):
        BeitImageProcessor.from_dict({}, do_rezise=False)


# --- BatchFeature ------------------------------------------------------------------------------------------------


def test_batch_feature() -> None:
    features = BeitImageProcessor(**SMALL)(picture(30, 41), labels(30, 41), return_tensors="pt")
    assert isinstance(features, dict)
    assert list(features) == ["pixel_values", "labels"]
    assert (lambda pixel_values, labels: pixel_values)(**features) is features.pixel_values
    with pytest.raises(AttributeError, match=r"pixels.*pixel_values, labels"):
        _ = features.pixels
    assert features.to(torch.float16) is features
    assert (features.pixel_values.dtype, features["labels"].dtype) == (torch.float16, torch.int64)
    features.to("meta", dtype=torch.float64)
    assert {value.device.type for value in features.values()} == {"meta"}
    assert features.pixel_values.dtype == torch.float64
    features = BatchFeature({"a": [np.ones(2), np.zeros(2)]}, "pt")
    assert features.a.shape == (2, 2)
    assert isinstance(features.convert_to_tensors("np").a, np.ndarray)
    with pytest.raises(InputError, match="return_tensors='pt'"):
        features.to("cpu")
    for copy in (pickle.loads(pickle.dumps(features)), features.copy(), deepcopy(features)):
        assert type(copy) is BatchFeature
        np.testing.assert_array_equal(copy.a, features.a)
        copy["b"] = 1
    assert list(features) == ["a"]


def test_data_and_attributes_of_a_batch_are_its_entries() -> None:
    features = BatchFeature({"pixel_values": 1})
    features.data["labels"] = 2
    features.pixel_values = 3
    assert dict(features) == {"pixel_values": 3, "labels": 2}
    assert features.data["pixel_values"] == features.pixel_values == 3
    features.data = {"labels": 4}
    assert dict(features) == dict(features.data) == {"labels": 4}


# --- files -------------------------------------------------------------------------------------------------------

# Written by transformers' BeitImageProcessorFast (4.5x); 5.23 writes the keys of 4.37.2 alone.
FAST = {
    "crop_size": {"height": 20, "width": 20},
    "data_format": "channels_first",
    "default_to_square": True,
    "device": None,
    "disable_grouping": None,
    "do_center_crop": False,
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_reduce_labels": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.4, 0.5, 0.6],
    "image_processor_type": "BeitImageProcessorFast",
    "image_std": [0.2, 0.3, 0.4],
    "input_data_format": None,
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "return_tensors": None,
    "size": {"height": 20, "width": 20},
}
# The oldest dialect, as on the Hub.
OLD = {
    "crop_size": 224,
    "do_center_crop": False,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "BeitFeatureExtractor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "reduce_labels": True,
    "resample": 2,
    "size": 640,
}


def test_round_trip(tmp_path: Path) -> None:
    processor = BeitImageProcessor(
        size=(20, 30),
        resample=0,
        do_center_crop=False,
        image_mean=np.array([0.1, 0.2, 0.3]),
        ignore_index=9,
        note="mine",
    )
    assert processor.save_pretrained(tmp_path / "new") == [str(tmp_path / "new/preprocessor_config.json")]
    for source in (tmp_path / "new", str(tmp_path / "new"), tmp_path / "new/preprocessor_config.json"):
        again = BeitImageProcessor.from_pretrained(source)
        assert again.to_dict() == processor.to_dict()
    assert again.note == "mine"
    assert again.semantic_loss_ignore_index == 9
    assert again.to_dict()["image_processor_type"] == "BeitImageProcessor"
    changed = BeitImageProcessor.from_pretrained(tmp_path / "new", size=12, do_rescale=False, ignore_index=4)
    assert (changed.size, changed.do_rescale) == ({"height": 12, "width": 12}, False)
    assert changed.semantic_loss_ignore_index == 4
    _, unused = BeitImageProcessor.from_pretrained(tmp_path / "new", size=12, foo=1, return_unused_kwargs=True)
    assert unused == {"foo": 1}
    same = BeitImageProcessor.from_pretrained(tmp_path / "new", size=None, use_fast=True, local_files_only=True)
    same.max_threads = 1  # of this machine, not of the model
    assert same.to_dict() == processor.to_dict()


def test_the_dict_is_plain_and_the_callers_own() -> None:
    processor = BeitImageProcessor(rescale_factor=np.float32(0.5), image_mean=(0.1, 0.2, 0.3), image_std=np.ones(3))
    fields = processor.to_dict()
    assert json.loads(processor.to_json_string()) == fields
    fields["size"]["height"] = fields["image_mean"][0] = 9
    assert processor.size["height"] == 256
    assert processor.image_mean == [0.1, 0.2, 0.3]


def test_files_of_other_versions(tmp_path: Path) -> None:
    old = BeitImageProcessor.from_dict(OLD)
    assert old.size == {"height": 640, "width": 640}
    assert (old.do_reduce_labels, old.resample, old.do_rescale) == (True, 2, True)
    assert not {"reduce_labels", "feature_extractor_type"} & old.to_dict().keys()
    write_json(tmp_path / "old/config.json", {"model_type": "beit"})
    write_json(tmp_path / "old/preprocessor_config.json", OLD)
    assert BeitImageProcessor.stored_in(tmp_path / "old").to_dict() == old.to_dict()
    with pytest.warns(FutureWarning, match="holds `reduce_labels`, the old name.*save_pretrained"):
        assert BeitImageProcessor.from_pretrained(tmp_path / "old").to_dict() == old.to_dict()
    fast = BeitImageProcessor.from_dict(FAST)
    assert (fast.do_reduce_labels, fast.do_center_crop, fast.size["height"]) == (True, False, 20)
    assert fast.to_dict()["image_processor_type"] == "BeitImageProcessor"
    assert fast(picture(30, 41), return_tensors="np").pixel_values.shape == (1, 3, 20, 20)
    write_json(tmp_path / "processor_config.json", {"processor_class": "X", "image_processor": FAST})
    assert BeitImageProcessor.from_pretrained(tmp_path).to_dict() == fast.to_dict()


def test_refused_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="preprocessor_config"):
        BeitImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        BeitImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no settings"):
        BeitImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        BeitImageProcessor().save_pretrained(tmp_path / "preprocessor_config.json")
    with pytest.raises(ConfigError, match="preprocess"):
        BeitImageProcessor.from_dict({"preprocess": 1})


def test_files_and_dicts_by_the_methods_of_transformers(tmp_path: Path) -> None:
    processor = BeitImageProcessor(size=20, do_reduce_labels=True)
    processor.to_json_file(tmp_path / "pixels.json")
    assert (tmp_path / "pixels.json").read_text() == processor.to_json_string()
    assert BeitImageProcessor.from_json_file(tmp_path / "pixels.json").to_dict() == processor.to_dict()
    fields, rest = BeitImageProcessor.get_image_processor_dict(tmp_path / "pixels.json", revision="main", size=9)
    assert (fields, rest) == (processor.to_dict(), {"size": 9})
    write_json(tmp_path / "list.json", [])
    with pytest.raises(CheckpointError, match="holds no settings"):
        BeitImageProcessor.from_json_file(tmp_path / "list.json")


def test_push_to_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def upload(folder: Any, repo_id: str, **keywords: Any) -> str:
        seen.append((repo_id, keywords, json.loads((Path(folder) / "preprocessor_config.json").read_text())))
        return "address"

    monkeypatch.setattr("beit.checkpoints.hub.upload_folder", upload)
    processor = BeitImageProcessor(size=99)
    assert processor.push_to_hub("me/model", private=True) == "address"
    processor.save_pretrained(tmp_path / "mine", push_to_hub=True)
    assert [entry[:2] for entry in seen] == [("me/model", {"private": True}), ("mine", {})]
    processor.push_to_hub("me/model", token="t", create_pr=True, max_shard_size="1GB", use_temp_dir=True, private=None)
    assert seen[-1][1] == {"token": "t", "create_pr": True}
    with pytest.warns(FutureWarning, match="use `token`"):
        processor.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/other", use_auth_token="t")
    assert seen[-1][:2] == ("me/other", {"token": "t"})
    with pytest.warns(UserWarning, match="ignored, unknown to an upload: tags"):
        processor.push_to_hub("me/model", tags=["a"])
    with pytest.warns(FutureWarning), pytest.raises(CheckpointError, match="both given"):
        processor.push_to_hub("me/model", token="t", use_auth_token="t")
    del seen[2:]
    assert seen[0][2] == seen[1][2] == processor.to_dict()


def test_deprecated_names() -> None:
    with pytest.warns(FutureWarning, match="BeitImageProcessor"):
        old = BeitFeatureExtractor(size=20)
    assert isinstance(old, BeitImageProcessor)
    assert old.to_dict()["image_processor_type"] == "BeitImageProcessor"
    with pytest.warns(FutureWarning, match="do_reduce_labels"):
        assert BeitImageProcessor(reduce_labels=True).do_reduce_labels
    with pytest.warns(FutureWarning, match="do_reduce_labels"):
        assert BeitImageProcessor.from_dict({}, reduce_labels=True).do_reduce_labels


def test_transformers_reads_our_file_and_agrees(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("transformers", exc_type=ImportError).BeitImageProcessor
        ours = BeitImageProcessor(size=(20, 30), crop_size=16, do_reduce_labels=True, image_mean=[0.1, 0.2, 0.3])
        ours.save_pretrained(tmp_path)
        read = theirs.from_pretrained(tmp_path)
        read.save_pretrained(tmp_path / "theirs")
    back = BeitImageProcessor.from_pretrained(tmp_path / "theirs")
    for key, value in ours.to_dict().items():
        assert back.to_dict()[key] == value


# --- segmentation results ----------------------------------------------------------------------------------------


class Output:
    def __init__(self, logits: Any) -> None:
        self.logits = logits


@pytest.mark.parametrize("chunk", [1, 500, 1 << 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_post_processing_equals_the_plain_formula(chunk: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beit.data.postprocess.torch.CHUNK", chunk)
    logits = torch.randn(3, 7, 9, 12, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    sizes = [(30, 20), (5, 40), (9, 12)]
    expected = [
        torch.nn.functional.interpolate(logits[i][None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)
        for i, size in enumerate(sizes)
    ]
    for target in (sizes, torch.tensor(sizes), np.array(sizes)):
        maps = BeitImageProcessor().post_process_semantic_segmentation(Output(logits), target)
        assert [m.dtype for m in maps] == [torch.int64] * 3
        for ours, plain in zip(maps, expected, strict=True):
            assert torch.equal(ours, plain)
    plain = BeitImageProcessor().post_process_semantic_segmentation({"logits": logits})
    assert torch.equal(torch.stack(plain), logits.argmax(1))


def test_post_processing_in_the_steps_of_a_pipeline() -> None:
    output = SemanticSegmenterOutput(logits=torch.rand(1, 3, 4, 4))
    output["target_size"] = [(9, 12)]
    moved = {name: value for name, value in output.items()}  # noqa: C416  (what other pipelines make of a dict)
    for outputs in (output, moved, type(output)(moved)):
        (found,) = BeitImageProcessor().post_process_semantic_segmentation(outputs, target_sizes=outputs["target_size"])
        assert found.shape == (9, 12)


def test_ties_go_to_the_first_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beit.data.postprocess.torch.CHUNK", 1)
    for logits in (torch.zeros(1, 5, 3, 3), np.zeros((1, 5, 3, 3))):
        assert int(BeitImageProcessor().post_process_semantic_segmentation(logits, [(6, 6)])[0].max()) == 0


def test_post_processing_of_numpy_scores() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 6, 9, 12)).astype(np.float32)
    for size in ((30, 20), (5, 40), (9, 12), (1, 1)):
        maps = BeitImageProcessor().post_process_semantic_segmentation(Output(logits), [size, size])
        resized = torch.nn.functional.interpolate(torch.tensor(logits), size=size, mode="bilinear", align_corners=False)
        top = resized.topk(2, dim=1).values
        clear = (top[:, 0] - top[:, 1] > 1e-5).numpy()
        assert clear.mean() > 0.99
        assert maps[0].dtype == np.int64
        np.testing.assert_array_equal(np.stack(maps)[clear], resized.argmax(1).numpy()[clear])
    unresized = BeitImageProcessor().post_process_semantic_segmentation(Output(logits))
    np.testing.assert_array_equal(np.stack(unresized), logits.argmax(1))


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ((2, 5, 3, 3), [(6, 6)], "1 target sizes for 2"),
        ((5, 3, 3), None, "wanted \\(batch, labels"),
        ((1, 5, 3, 3), [(6, 6, 6)], "no \\(height, width\\)"),
        ((1, 5, 3, 3), [(0, 6)], "no \\(height, width\\)"),
        ((1, 5, 3, 3), [(2.5, 6)], "no \\(height, width\\)"),
    ],
)
def test_refused_scores(shape: tuple[int, ...], sizes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BeitImageProcessor().post_process_semantic_segmentation(Output(torch.zeros(shape)), sizes)


@pytest.mark.parametrize("filter_", [Image.BICUBIC, Image.BILINEAR, Image.LANCZOS, Image.BOX])
def test_resizing_only_what_the_crop_keeps_gives_the_same_bits(filter_: int) -> None:
    rng = np.random.default_rng(int(filter_))
    taken = 0
    for trial in range(60):
        width, height = (int(n) for n in rng.integers(1, 900, 2))
        size = (256, 256) if trial % 2 else tuple(int(n) for n in rng.integers(16, 300, 2))
        window = tuple(int(rng.integers(1, n + 1)) for n in size)
        corner = tuple((n - w) // 2 for n, w in zip(size, window, strict=True))
        box = box_of_crop((width, height), size, corner, window)
        if box is None:
            continue
        taken += 1
        for mode, shape in (("RGB", (height, width, 3)), ("L", (height, width))):
            image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            assert image.mode == mode
            whole = image.resize(size, filter_).crop((*corner, corner[0] + window[0], corner[1] + window[1]))
            np.testing.assert_array_equal(np.asarray(image.resize(window, filter_, box)), np.asarray(whole))
    assert taken >= 15
    assert box_of_crop((640, 480), (256, 256), (16, 16), (224, 224)) is not None

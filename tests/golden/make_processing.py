"""Writes processing.npz: what transformers 4.37.2 makes of small pictures, for tests/test_processing.py.

Run in an environment with transformers==4.37.2 and numpy<2, from the root of the repository:

    python tests/golden/make_processing.py

The pictures are plain arithmetic (`picture`), so the test makes them again instead of reading them. They are clearly
wider than high on purpose: for high pictures the bits depend on the Pillow version (13 sometimes resizes the columns
first), and there the tests compare with the formula instead.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FILE = Path(__file__).with_name("processing.npz")
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}

# name: (input kind, height, width, arguments). Kinds: pil, hwc, chw (uint8), int (int64 hwc), f32 (float32 hwc, 0..1),
# f255 (float32 chw, 0..255 in quarters), batch (uint8, 2 × chw).
CASES: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "pil": ("pil", 30, 41, {"size": 24, "crop_size": 16}),
    "hwc": ("hwc", 30, 41, {"size": 24, "crop_size": 16}),
    "chw": ("chw", 30, 41, {"size": 24, "crop_size": 16}),
    "int": ("int", 30, 41, {"size": 24, "crop_size": 16}),
    "batch": ("batch", 30, 41, {"size": 24, "crop_size": 16}),
    "enlarge": ("pil", 9, 31, {"size": 24, "crop_size": 16}),
    "strip": ("pil", 5, 200, {"size": (20, 28), "crop_size": (11, 18)}),
    "rectangle": ("hwc", 33, 70, {"size": {"height": 20, "width": 29}, "crop_size": {"height": 13, "width": 22}}),
    "padded": ("pil", 30, 41, {"size": 14, "crop_size": 20}),
    "padded_rows": ("chw", 30, 41, {"size": (12, 24), "crop_size": (18, 15)}),
    "same_size": ("pil", 24, 30, {"size": (24, 30), "crop_size": 16}),
    "no_resize": ("hwc", 30, 41, {"do_resize": False, "crop_size": 16}),
    "no_crop": ("pil", 30, 41, {"size": 18, "do_center_crop": False}),
    "no_resize_no_crop": ("chw", 14, 19, {"do_resize": False, "do_center_crop": False}),
    "no_rescale": ("pil", 30, 41, {"size": 24, "crop_size": 16, "do_rescale": False}),
    "no_normalize": ("pil", 30, 41, {"size": 24, "crop_size": 16, "do_normalize": False}),
    "pixels_only": ("pil", 30, 41, {"size": 24, "crop_size": 16, "do_rescale": False, "do_normalize": False}),
    "factor": ("pil", 30, 41, {"size": 24, "crop_size": 16, "rescale_factor": 1 / 127.5}),
    "imagenet": ("pil", 30, 41, {"size": 24, "crop_size": 16, **IMAGENET}),
    "imagenet_chw": ("chw", 30, 41, {"size": 24, "crop_size": 16, **IMAGENET}),
    "one_mean": ("pil", 30, 41, {"size": 24, "crop_size": 16, "image_mean": 0.3, "image_std": 0.7}),
    "last": ("chw", 30, 41, {"size": 24, "crop_size": (16, 12), "data_format": "channels_last"}),
    "as_input_pil": ("pil", 30, 41, {"size": 24, "crop_size": (16, 12), "data_format": None}),
    "as_input_chw": ("chw", 30, 41, {"size": 24, "crop_size": (16, 12), "data_format": None}),
    "input_format": ("hwc", 3, 41, {"size": 24, "crop_size": 16, "input_data_format": "channels_last"}),
    "float_no_resize": ("f32", 20, 30, {"do_resize": False, "crop_size": 16, "do_rescale": False, **IMAGENET}),
    "float255_no_resize": ("f255", 20, 30, {"do_resize": False, "crop_size": 16, **IMAGENET}),
    **{f"resample_{i}": ("pil", 30, 41, {"size": 24, "crop_size": 16, "resample": i}) for i in range(6)},
    **{f"resample_up_{i}": ("hwc", 10, 21, {"size": 24, "crop_size": 16, "resample": i}) for i in range(6)},
    "default": ("pil", 480, 640, {}),  # too large to keep: its hash
    "default_small": ("pil", 100, 177, {}),
}
LABEL_CASES: dict[str, dict[str, Any]] = {
    "plain": {"do_resize": False, "crop_size": 16},
    "reduced": {"do_resize": False, "crop_size": 16, "do_reduce_labels": True},
    "nearest": {"size": 24, "crop_size": 16, "resample": 0},
}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: smooth waves and noise, all values 0..255, no random numbers."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    value = (y * 3 + x * 5 + c * 71 + seed * 37) + (x * 7919 + y * 104729 + c * 1299709 + seed * 15485863) % 97
    return (value % 256).astype(np.uint8)


def labels(height: int, width: int) -> np.ndarray:
    """(height, width) uint8 class numbers 0..149, and some 255."""
    y, x = np.mgrid[:height, :width]
    return np.where((x + y) % 11 == 0, 255, (x * 7 + y * 3) % 150).astype(np.uint8)


def make_input(kind: str, height: int, width: int) -> Any:
    """The picture in one of the forms of `CASES`."""
    array = picture(height, width)
    chw = np.ascontiguousarray(array.transpose(2, 0, 1))
    forms: dict[str, Any] = {
        "pil": Image.fromarray(array),
        "hwc": array,
        "chw": chw,
        "int": array.astype(np.int64),
        "f32": array.astype(np.float32) / np.float32(255),
        "f255": chw.astype(np.float32) - np.float32(0.25) * (chw > 0),
        "batch": np.stack([chw, picture(height, width, seed=1).transpose(2, 0, 1)]),
    }
    return forms[kind]


def digest(array: np.ndarray) -> str:
    """SHA-256 of dtype, shape and bytes."""
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def main() -> None:
    import transformers
    from transformers import BeitImageProcessor

    assert transformers.__version__ == "4.37.2", transformers.__version__
    arrays = {}
    for name, (kind, height, width, arguments) in CASES.items():
        result = BeitImageProcessor()(make_input(kind, height, width), return_tensors="np", **arguments)["pixel_values"]
        arrays[name] = np.array(digest(result)) if result.nbytes > 50_000 else result
    for name, arguments in LABEL_CASES.items():
        result = BeitImageProcessor()(make_input("pil", 30, 41), labels(30, 41), return_tensors="np", **arguments)
        arrays[f"labels_{name}"] = result["labels"].astype(np.uint8)
    arrays["settings"] = np.array(BeitImageProcessor().to_json_string())
    np.savez_compressed(FILE, **arrays)
    print(f"{FILE.name}: {len(arrays)} results, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()

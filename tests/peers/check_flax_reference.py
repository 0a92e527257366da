"""Our folders in the transformers library's Flax classes, which only its versions 4 have.

    PYTHONPATH= <environment with transformers 4.37.2, jax 0.4.23, flax 0.8.0>/bin/python tests/peers/check_flax_reference.py \
        --ours PYTHON

The two need different versions of JAX, so PYTHON, of our environment, first writes the folders (`--write FOLDER`): every
class and several settings, saved by our Flax as `flax_model.msgpack` and as `model.safetensors`, and by our PyTorch; and
beside them inputs and the outputs of ours. Then the reference opens each without a flag, must find all tensors and no others,
and computes. Its PyTorch classes open the msgpack too (`from_flax=True`). Prints a table of the largest differences of
outputs and exits with 1 when one is above 5e-5. The other direction is tested on stored folders (`test_flax_reference.py`).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 5e-5
CLASSES = ("BeitModel", "BeitForMaskedImageModeling", "BeitForImageClassification")
SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "image_size": 32,  # one number: the reference's Flax takes square images only
    "patch_size": 8,
    "vocab_size": 19,
    "num_labels": 5,
    "use_mask_token": True,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "pre-training": {"use_shared_relative_position_bias": True},
    "fine-tuning": {"use_relative_position_bias": True},
    "cls, no scale": {"use_mean_pooling": False, "layer_scale_init_value": 0},
    "positions": {"use_absolute_position_embeddings": True, "hidden_act": "gelu_new"},
    "both tables": {
        "use_relative_position_bias": True,
        "use_shared_relative_position_bias": True,
        "hidden_act": "relu",
        "num_channels": 1,
    },
    "no mask token": {"use_mask_token": False, "layer_norm_eps": 1e-6},
}
CASES = [(label, kind) for label in SETTINGS for kind in CLASSES]


def place(folder: Path, label: str, kind: str, way: str) -> Path:
    return folder / f"{label} {kind} {way}"


# --- in our environment ----------------------------------------------------------------------------------------------


def write(folder: Path) -> None:
    """The folders, and `numbers.npz` beside them."""
    import jax

    import beit

    for number, (label, kind) in enumerate(CASES):
        rng = np.random.default_rng(number)
        config = beit.BeitConfig(**{**SMALL, **SETTINGS[label]})
        model = getattr(beit, "Flax" + kind)(config)
        # Every parameter shows in the outputs: none stays at zero or one.
        model.params = jax.tree.map(
            lambda leaf, rng=rng: leaf + rng.normal(scale=0.2, size=leaf.shape).astype("f4"), model.params
        )
        model.save_pretrained(place(folder, label, kind, "msgpack"), safe_serialization=False)
        model.save_pretrained(place(folder, label, kind, "safetensors"))
        in_torch = getattr(beit, kind).from_pretrained(place(folder, label, kind, "safetensors"))
        in_torch.save_pretrained(place(folder, label, kind, "PyTorch"))

        size = config.image_size
        inputs = {"pixel_values": rng.normal(size=(2, config.num_channels, size, size)).astype("f4")}
        if config.use_mask_token and kind != "BeitForImageClassification":
            inputs["bool_masked_pos"] = rng.random((2, config.num_patches)) < 0.5
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
        named = {f"input {name}": value for name, value in inputs.items()}
        named |= {f"output {name}": value for name, value in one_by_one(output).items()}
        np.savez(place(folder, label, kind, "numbers.npz"), **named)


def one_by_one(output: Any) -> dict[str, np.ndarray]:
    """Name → array of an output, tuples of arrays one by one."""
    named = {}
    for name in output.keys():  # noqa: SIM118  (the reference's outputs are dictionaries, ours are not)
        items = output[name] if isinstance(output[name], tuple) else (output[name],)
        named.update({f"{name}.{number}": np.asarray(item) for number, item in enumerate(items)})
    return named


# --- in the reference's ----------------------------------------------------------------------------------------------


class Remarks(logging.Handler):
    """Collects what the reference says of tensors that it lacks or does not know: it does not raise."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "were not" in text:  # "not used", "not initialized"
            self.found.append(text)


def difference(wanted: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> float:
    assert wanted.keys() == got.keys(), (list(wanted), list(got))
    worst = 0.0
    for name, value in wanted.items():
        assert got[name].shape == value.shape, (name, got[name].shape, value.shape)
        worst = max(worst, float((np.abs(got[name] - value) / (1 + np.abs(value))).max()))
    return worst


def check(folder: Path) -> list[tuple[str, str, str, float]]:
    """(settings, class, way, largest difference) of every pairing."""
    import torch
    import transformers

    remarks = Remarks()
    transformers.logging.disable_default_handler()
    transformers.logging.get_logger("transformers").addHandler(remarks)
    rows = []
    for label, kind in CASES:
        with np.load(place(folder, label, kind, "numbers.npz")) as file:
            inputs, wanted = (
                {name.removeprefix(start): file[name] for name in file.files if name.startswith(start)}
                for start in ("input ", "output ")
            )
        asked = {"output_hidden_states": True, "output_attentions": True}
        for way in ("msgpack", "safetensors", "PyTorch"):
            where = place(folder, label, kind, way)
            model = getattr(transformers, "Flax" + kind).from_pretrained(where)
            worst = difference(wanted, one_by_one(model(**inputs, **asked)))
            rows.append((label, kind, f"{way} → its Flax", worst))
        if (
            label != "positions" or kind == "BeitForImageClassification"
        ):  # the others mask: its PyTorch drops positions there
            model = getattr(transformers, kind).from_pretrained(place(folder, label, kind, "msgpack"), from_flax=True)
            tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
            with torch.no_grad():
                worst = difference(wanted, one_by_one(model.eval()(**tensors, **asked)))
            rows.append((label, kind, "msgpack → its PyTorch", worst))
        assert not remarks.found, (label, kind, remarks.found)
        architectures = json.loads((place(folder, label, kind, "msgpack") / "config.json").read_text())["architectures"]
        assert architectures == [kind], architectures  # what the reference's Flax writes; its pipelines go by it
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", metavar="PYTHON", help="interpreter of our environment")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="only write the folders (in our environment)")
    parser.add_argument("--folder", type=Path, help="with the folders that --write wrote, instead of --ours")
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.write)
        return 0
    if (arguments.ours is None) == (arguments.folder is None):
        parser.error("give --ours PYTHON, or --folder FOLDER")

    import jax
    import transformers

    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = arguments.folder or Path(temporary)
        if arguments.ours:
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
            subprocess.run([arguments.ours, __file__, "--write", str(folder)], check=True, env=environment)
        rows = check(folder)
    print(f"transformers {transformers.__version__}, jax {jax.__version__}, {len(rows)} pairings")
    for label, kind, way, worst in rows:
        print(f"{label:14} {kind:28} {way:24} {worst:.1e}{'' if worst <= TOLERANCE else '   TOO LARGE'}")
    worst = max(row[-1] for row in rows)
    print(f"largest difference {worst:.1e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())

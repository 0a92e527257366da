"""Golden outputs of the reference's Flax models, and folders as its own `save_pretrained` writes them.

    PYTHONPATH= <environment with transformers 4.37.2, jax 0.4.23, flax 0.8.0>/bin/python tests/golden/make_flax.py

writes `flax.npz` and the folders in `flax/` beside this file, in the manner of `make_models.py`: weights are drawn by their
names on disk and reach the reference through a safetensors file, so that its own converter lays them out for Flax. The
reference's Flax takes square images only, given as one number, knows no `selu`, and has neither labels nor a loss.

A masked patch keeps its position there, other than in its PyTorch: its config.json does not say so, our
`mask_keeps_position` does.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

try:
    from golden import make_models as base
except ImportError:  # run as a script
    import make_models as base  # type: ignore[no-redef]

FILE = Path(__file__).with_name("flax.npz")
FOLDERS = Path(__file__).with_name("flax")
CASES = 30
_MOST = 300  # values stored of one output

_TINY = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "vocab_size": 11,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 16,
    "patch_size": 8,
    "num_channels": 1,
    "use_mask_token": True,
}
# Folder → (class, what is special in its config, how it is saved).
_SAVED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "model": (
        "BeitModel",
        {
            "use_mean_pooling": False,
            "use_absolute_position_embeddings": True,
            "use_relative_position_bias": True,
            "use_shared_relative_position_bias": True,
        },
        {},
    ),
    "masked": ("BeitForMaskedImageModeling", {"use_shared_relative_position_bias": True}, {}),
    "classifier": ("BeitForImageClassification", {"use_relative_position_bias": True, "num_labels": 3}, {}),
    "shards": (
        "BeitForImageClassification",
        {"hidden_size": 8, "num_hidden_layers": 1, "layer_scale_init_value": 0, "num_labels": 3},
        {"max_shard_size": "3KB"},
    ),
    "safetensors": (  # its names and layouts are those of Flax, and its metadata says so
        "BeitModel",
        {"hidden_size": 8, "num_hidden_layers": 1, "use_relative_position_bias": True},
        {"safe_serialization": True},
    ),
    "bfloat16": (
        "BeitForMaskedImageModeling",
        {"hidden_size": 8, "num_hidden_layers": 1, "use_shared_relative_position_bias": True},
        {},
    ),
}


def draw_cases() -> list[dict[str, Any]]:
    """Settings of all cases: kind, config, call, and of some the folder in which the model was saved."""
    rng = np.random.RandomState(20211129)
    one, chance = base.choosing(rng)
    cases = []
    for number in range(CASES):
        kind = base.KINDS[number % 3]
        heads, patch = one(1, 2, 4), one(2, 4)
        config = {
            "hidden_size": heads * one(8, 12),
            "num_attention_heads": heads,
            "num_hidden_layers": int(rng.randint(1, 4)),
            "intermediate_size": one(12, 32),
            "vocab_size": one(7, 19),
            "hidden_act": ("gelu", "relu", "gelu_new")[number // 3 % 3],
            "layer_norm_eps": one(1e-12, 1e-6, 1e-3),
            "image_size": patch * int(rng.randint(1, 5)),
            "patch_size": patch,
            "num_channels": one(1, 3, 4),
            "use_mask_token": chance(0.7),
            "use_absolute_position_embeddings": chance(0.4),
            "use_relative_position_bias": chance(0.5),
            "use_shared_relative_position_bias": chance(0.5),
            "layer_scale_init_value": one(0, 0.1),
            "use_mean_pooling": chance(0.5),
            "drop_path_rate": one(0.0, 0.2),
            "hidden_dropout_prob": one(0.0, 0.1),
            "attention_probs_dropout_prob": one(0.0, 0.1),
        }
        masked = config["use_mask_token"] and kind != "BeitForImageClassification" and chance(0.85)
        arguments = {"add_pooling_layer": chance(0.7)} if kind == "BeitModel" else {}
        if kind == "BeitForImageClassification":
            config["num_labels"] = one(1, 3)
        call = {"batch": int(rng.randint(1, 4)), "mask": one("bool", "int") if masked else None, "head_mask": None}
        cases.append({"kind": kind, "seed": 2000 + number, "config": config, "arguments": arguments, "call": call})
    for number, (folder, (kind, changes, _)) in enumerate(_SAVED.items()):
        mask = None if kind == "BeitForImageClassification" else "bool"
        call = {"batch": 2, "mask": mask, "head_mask": None}
        case = {"kind": kind, "seed": 3000 + number, "config": {**_TINY, **changes}, "arguments": {}, "call": call}
        cases.append({**case, "folder": folder})
    return cases


def draw_inputs(case: dict[str, Any]) -> dict[str, np.ndarray]:
    """pixel_values and bool_masked_pos of one call."""
    arrays = base.draw_inputs(case)
    del arrays["weight"]
    return arrays


def sample(array: Any) -> np.ndarray:
    """What is stored of an output."""
    return base.sample(np.asarray(array), _MOST)


def load() -> list[dict[str, Any]]:
    """The stored cases: settings, `shapes` of the weights on disk, `outputs` (name → shape and sample)."""
    return base.load(FILE)


def reference_model(case: dict[str, Any]) -> Any:
    """The reference's Flax model with the weights of a case; checks that it took every one of them."""
    import transformers
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import save_file

    config = transformers.BeitConfig(**case["config"])
    torch_model = getattr(transformers, case["kind"])(config, **case["arguments"])  # knows the shapes on disk
    case["shapes"] = {name: list(value.shape) for name, value in torch_model.state_dict().items()}
    weights = base.draw_weights(case["shapes"], case["seed"])
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        model = getattr(transformers, "Flax" + case["kind"]).from_pretrained(folder, **case["arguments"])
    mine, its = ({name: np.abs(a).sum(dtype=np.float64) for name, a in tree.items()} for tree in (
        weights, {".".join(path): np.asarray(array) for path, array in flatten_dict(model.params).items()},
    ))  # fmt: skip
    renamed = {n.replace("kernel", "weight").replace(".scale", ".weight"): total for n, total in its.items()}
    assert set(renamed) == set(mine), set(renamed) ^ set(mine)
    for name, total in mine.items():
        assert np.isclose(renamed[name], total, rtol=1e-6), name
    return model


def save(model: Any, folder: str) -> Any:
    """Save as `_SAVED` says, and return the model as the reference reads it back."""
    where, arguments = FOLDERS / folder, _SAVED[folder][2]
    if folder == "bfloat16":
        model.params = model.to_bf16(model.params)
    model.save_pretrained(where, **arguments)
    return type(model).from_pretrained(where)


def main() -> None:
    import transformers

    assert transformers.__version__ == "4.37.2", transformers.__version__
    transformers.logging.set_verbosity_error()
    shutil.rmtree(FOLDERS, ignore_errors=True)
    values = base.Values()
    cases = draw_cases()
    for case in cases:
        model = reference_model(case)
        if "folder" in case:
            model = save(model, case["folder"])
        output = model(**draw_inputs(case), output_attentions=True, output_hidden_states=True)
        named = {name: np.asarray(value) for name, value in base.flatten(output).items() if value is not None}
        assert all(array.dtype == np.float32 for array in named.values())
        case["outputs"] = [values.store(name, array, _MOST) for name, array in named.items()]
        case["gradients"] = []
    values.write(FILE, cases)
    size = sum(path.stat().st_size for path in FOLDERS.rglob("*") if path.is_file())
    print(f"{len(_SAVED)} folders, {size / 1e6:.2f} MB in {FOLDERS}")


if __name__ == "__main__":
    main()

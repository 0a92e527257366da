"""Our folders in the transformers library and its folders in ours, both ways, with real files.

    PYTHONPATH=src <environment with transformers>/bin/python tests/peers/check_transformers.py

For every class and several settings: save with ours and load with theirs (`ours → theirs`), and save with theirs and
load with ours (`theirs → ours`: one safetensors file, shards, and in 4.x pytorch_model.bin). Prints a table of the
largest differences of outputs and exits with 1 when one is above 1e-5. Run with 4.37.2 and with 5.x.
"""

from __future__ import annotations

import inspect
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

import beit

TOLERANCE = 1e-5
CLASSES = (
    "BeitModel",
    "BeitForMaskedImageModeling",
    "BeitForImageClassification",
    "BeitForSemanticSegmentation",
    "BeitBackbone",
)
DENSE = CLASSES[3:]  # four layers for four maps; and `batch_norm_eps`, which 4.37.2 wants and its config lacks
FOUR = {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "auxiliary_channels": 8, "batch_norm_eps": 1e-5}
SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "vocab_size": 19,
    "num_labels": 5,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "pre-training": {"use_mask_token": True, "use_shared_relative_position_bias": True},
    "fine-tuning": {"use_relative_position_bias": True, "use_mask_token": True},
    "cls, no scale": {"use_mean_pooling": False, "layer_scale_init_value": 0, "use_mask_token": True},
    "positions": {"use_absolute_position_embeddings": True, "use_mask_token": True, "hidden_act": "gelu_new"},
    "both tables": {
        "use_relative_position_bias": True,
        "use_shared_relative_position_bias": True,
        "use_mask_token": True,
        "hidden_act": "relu",
        "num_channels": 1,
    },
    "named": {"use_relative_position_bias": True, "id2label": {0: "cat", 1: "dog"}, "layer_norm_eps": 1e-6},
    "rectangle": {"use_shared_relative_position_bias": True, "image_size": (16, 48), "use_mask_token": True},
}
NORM = ("weight", "bias")
IS_5 = not transformers.__version__.startswith("4")
# What 5.x (seen in 5.23) does differently from 4.37.2, whose numbers we follow:
# - it reshapes the relative-position table (W, H) where it is laid out (H, W), wrong for rectangular images: left out;
BROKEN_IN_5 = ("rectangle",)
# - it adds absolute positions after the mask token, as the authors do: our `mask_keeps_position`;
if IS_5:
    SETTINGS["positions"]["mask_keeps_position"] = True
# - loading masked image modelling in CLS mode, it swaps beit.layernorm and layernorm, of its own files too;
# - its backbone in CLS mode has a final norm, which 4.37.2's has not, and which changes no feature map;
# - it refuses whole numbers in config.json for fields that are floats (`layer_scale_init_value: 0`): we write 0.0.


def unswap_norms(theirs: Any, ours: Any) -> None:
    """Put back what 5.x swaps; fails when it did something else."""
    with torch.no_grad():
        for part in ("weight", "bias"):
            one, other = getattr(theirs.beit.layernorm, part), getattr(theirs.layernorm, part)
            want, want_other = getattr(ours.beit.layernorm, part), getattr(ours.layernorm, part)
            if not torch.equal(one, want):
                assert torch.equal(one, want_other)
                assert torch.equal(other, want)
                one.copy_(want)
                other.copy_(want_other)


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every parameter shows in the outputs: none stays at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.2 if parameter.ndim < 4 else parameter[0].numel() ** -0.5  # sums of convolutions are long
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return model.eval()


def difference(a: Any, b: Any, config: Any, kind: str) -> float:
    """Largest difference of all outputs of two models on the same images."""
    generator = torch.Generator().manual_seed(1)
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    pixels = torch.randn(2, config.num_channels, height, width, generator=generator)
    arguments: dict[str, Any] = {"pixel_values": pixels, "output_hidden_states": True}
    if kind == "BeitForImageClassification":
        arguments["labels"] = torch.tensor([0, 1])
    elif kind == "BeitForSemanticSegmentation":
        arguments["labels"] = torch.randint(0, config.num_labels, (2, height, width), generator=generator)
    elif kind == "BeitBackbone":
        pass
    elif config.use_mask_token:
        patch = config.patch_size
        mask = torch.rand(2, (height // patch) * (width // patch), generator=generator) < 0.5
        arguments["bool_masked_pos"] = mask
        if kind == "BeitForMaskedImageModeling":
            arguments["labels"] = torch.arange(int(mask.sum())) % config.vocab_size
    with torch.no_grad():
        one, other = a(**arguments), b(**arguments)
    assert list(one.keys()) == list(other.keys()), (list(one.keys()), list(other.keys()))
    worst = 0.0
    for name in one.keys():  # noqa: SIM118  (the reference's outputs are dictionaries, ours are not)
        x, y = one[name], other[name]
        for u, v in zip(x, y, strict=True) if isinstance(x, tuple) else ((x, y),):
            assert u.shape == v.shape, (name, u.shape, v.shape)
            worst = max(worst, ((u - v).abs() / (1 + v.abs())).max().item())
    return worst


def ways_of_theirs() -> dict[str, dict[str, Any]]:
    """How their models are saved: name → arguments of save_pretrained."""
    ways: dict[str, dict[str, Any]] = {"safetensors": {}, "shards": {"max_shard_size": "20KB"}}
    if "safe_serialization" in inspect.signature(transformers.PreTrainedModel.save_pretrained).parameters:
        ways["safetensors"] = {"safe_serialization": True}
        ways["shards"] = {"max_shard_size": "20KB", "safe_serialization": True}
        if not IS_5:
            ways["bin"] = {"safe_serialization": False}
            ways["bin shards"] = {"safe_serialization": False, "max_shard_size": "20KB"}
    return ways


def as_floats(values: dict[str, Any]) -> dict[str, float]:
    """5.x takes no 0 for 0.0."""
    return {name: float(values[name]) for name in ("layer_scale_init_value",) if name in values}


def check(folder: Path) -> list[tuple[str, str, str, float]]:
    """(settings, class, way, largest difference) of every pairing."""
    rows = []
    for label, settings in SETTINGS.items():
        if label in BROKEN_IN_5 and IS_5:
            continue
        values = {**SMALL, **settings}
        if "id2label" in values:
            del values["num_labels"]
        for kind in CLASSES:
            if kind in DENSE and label == "rectangle":
                continue  # 4.37.2 cannot
            if kind in DENSE:
                values = {**SMALL, **settings, **FOUR, "add_fpn": label in ("fine-tuning", "pre-training")}
                values = {
                    name: value for name, value in values.items() if name != "num_labels" or "id2label" not in values
                }
            norm_of_5 = IS_5 and kind == "BeitBackbone" and not values.get("use_mean_pooling", True)
            ours_class, theirs_class = getattr(beit, kind), getattr(transformers, kind)

            place = folder / f"ours {label} {kind}"
            ours = randomise(ours_class(beit.BeitConfig(**values)), seed=len(rows))
            for way, arguments in {"one file": {}, "shards": {"max_shard_size": "20KB"}}.items():
                ours.save_pretrained(place, **arguments)
                theirs, info = theirs_class.from_pretrained(place, output_loading_info=True)
                problems = {name: found for name, found in info.items() if found}
                if norm_of_5 and set(problems.get("missing_keys", ())) == {f"beit.layernorm.{part}" for part in NORM}:
                    del problems["missing_keys"]
                assert not problems, f"{label}, {kind}: {problems}"
                assert theirs.config.id2label == ours.config.id2label
                if IS_5 and kind == "BeitForMaskedImageModeling" and not ours.config.use_mean_pooling:
                    unswap_norms(theirs, ours)
                rows.append((label, kind, f"ours → theirs, {way}", difference(ours, theirs.eval(), ours.config, kind)))

            theirs = randomise(theirs_class(transformers.BeitConfig(**{**values, **as_floats(values)})), seed=len(rows))
            for way, arguments in ways_of_theirs().items():
                place = folder / f"theirs {label} {kind} {way}"
                theirs.save_pretrained(place, **arguments)
                assert ("shards" in way) == any(path.name.endswith(".index.json") for path in place.iterdir())
                ours = ours_class.from_pretrained(place, mask_keeps_position=values.get("mask_keeps_position", False))
                expected = (
                    "final layernorm: in the file, not used" if norm_of_5 else "every tensor of the file has its place"
                )
                assert str(ours.load_report).startswith(expected), f"{label}, {kind}: {ours.load_report}"
                assert type(beit.load(place)) is ours_class
                assert ours.config.id2label == theirs.config.id2label
                rows.append((label, kind, f"theirs → ours, {way}", difference(ours, theirs, ours.config, kind)))
    return rows


def main() -> int:
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = check(Path(folder))
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {len(rows)} pairings")
    for label, kind, way, worst in rows:
        print(f"{label:14} {kind:28} {way:28} {worst:.1e}{'' if worst <= TOLERANCE else '   TOO LARGE'}")
    worst = max(row[-1] for row in rows)
    print(f"largest difference {worst:.1e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())

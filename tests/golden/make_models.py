"""Golden outputs of the reference: random small models, random inputs, what transformers 4.37.2 makes of them.

    PYTHONPATH= <environment with transformers 4.37.2>/bin/python tests/golden/make_models.py

writes `models.npz` beside this file. Weights and inputs are not stored: both sides draw them from numpy's RandomState
(frozen by numpy's promise), one stream a tensor, by its name on disk. Outputs are stored whole when small, and as every
k-th value when large, besides their sum.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("models.npz")
CASES = 96
KINDS = ("BeitModel", "BeitForMaskedImageModeling", "BeitForImageClassification")
_MOST = 240  # values stored of one output


def stream(seed: int, name: str) -> np.random.RandomState:
    return np.random.RandomState((zlib.crc32(name.encode()) ^ (seed * 2654435761)) & 0xFFFFFFFF)


def draw_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Weights by disk name, such that every tensor shows in the outputs (none is zero or one)."""
    tensors = {}
    for name, shape in shapes.items():
        values = stream(seed, name).standard_normal(shape)
        if "layernorm" in name and name.endswith("weight"):
            values = 1 + 0.2 * values
        elif "lambda_" in name:
            values = 0.6 + 0.2 * values
        elif len(shape) == 2 and name.endswith("weight"):
            values *= 1.4 / np.sqrt(shape[1])
        elif len(shape) == 4:
            values /= np.sqrt(np.prod(shape[1:]))
        elif name.endswith("bias"):
            values *= 0.3
        tensors[name] = values.astype(np.float32)
    return tensors


def choosing(rng: np.random.RandomState) -> tuple[Callable[..., Any], Callable[[float], bool]]:
    """(one of its arguments at random, True with a probability)."""

    def one(*choices: Any) -> Any:
        return choices[rng.randint(len(choices))]

    def chance(p: float) -> bool:
        return bool(rng.rand() < p)

    return one, chance


def draw_cases() -> list[dict[str, Any]]:
    """Settings of all cases: kind, config, call."""
    rng = np.random.RandomState(20220622)
    one, chance = choosing(rng)
    cases = []
    for number in range(CASES):
        kind = KINDS[number % 3]
        heads = one(1, 2, 4)
        layers = int(rng.randint(1, 4))
        patch = one(4, 4, (4, 2), (2, 4))
        ph, pw = (patch, patch) if isinstance(patch, int) else patch
        h, w = int(rng.randint(1, 5)), int(rng.randint(1, 5))
        if chance(0.3):
            h = w = int(rng.randint(2, 4))
        square = h * ph == w * pw
        config = {
            "hidden_size": heads * one(4, 8),
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "intermediate_size": one(12, 32),
            "vocab_size": one(7, 19),
            "hidden_act": ("gelu", "relu", "selu", "gelu_new")[(number // 3) % 4],
            "layer_norm_eps": one(1e-12, 1e-6, 1e-3),
            "image_size": h * ph if square and chance(0.5) else [h * ph, w * pw],
            "patch_size": patch if isinstance(patch, int) else list(patch),
            "num_channels": one(1, 3, 4),
            "use_mask_token": kind != "BeitForImageClassification" and chance(0.75),
            "use_absolute_position_embeddings": chance(0.5),
            "use_relative_position_bias": chance(0.5),
            "use_shared_relative_position_bias": chance(0.5),
            "layer_scale_init_value": one(0, 0.1),
            "use_mean_pooling": chance(0.5),
            "drop_path_rate": one(0.0, 0.2),
            "hidden_dropout_prob": one(0.0, 0.1),
        }
        batch = int(rng.randint(1, 4))
        call: dict[str, Any] = {
            "batch": batch,
            "head_mask": one(None, None, None, "1d", "2d"),
            "output_attentions": chance(0.4),
            "output_hidden_states": chance(0.4),
            "return_dict": chance(0.7),
            "mask": one("bool", "int") if config["use_mask_token"] and chance(0.85) else None,
        }
        arguments: dict[str, Any] = {}
        if kind == "BeitModel":
            arguments["add_pooling_layer"] = chance(0.7)
        elif kind == "BeitForMaskedImageModeling":
            call["labels"] = "tokens" if call["mask"] and chance(0.8) else None
        else:
            config["num_labels"], config["problem_type"], call["labels"] = one(
                (1, None, "floats"),
                (1, "regression", "floats"),
                (3, "regression", "floats"),
                (3, None, "classes"),
                (3, "single_label_classification", "classes"),
                (3, None, "several"),
                (3, "multi_label_classification", "several"),
                (3, None, None),
                (0, None, None),
            )
        cases.append({"kind": kind, "seed": number, "config": config, "arguments": arguments, "call": call})
    return cases


def draw_inputs(case: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of one call: pixel_values, bool_masked_pos, head_mask, labels, and `weight`, which makes a scalar of the
    bare model's last hidden state."""
    config, call = case["config"], case["call"]

    def pair(size: Any) -> tuple[int, int]:
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    (height, width), (ph, pw) = pair(config["image_size"]), pair(config["patch_size"])
    batch, patches = call["batch"], (height // ph) * (width // pw)
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]

    def rng(name: str) -> np.random.RandomState:
        return stream(case["seed"], f"input {name}")

    arrays = {
        "pixel_values": rng("pixels").standard_normal((batch, config["num_channels"], height, width)).astype("f4"),
        "weight": rng("weight").standard_normal((batch, 1 + patches, config["hidden_size"])).astype("f4"),
    }
    if call["mask"]:
        mask = rng("mask").rand(batch, patches) < 0.5
        mask[0, 0] = True
        arrays["bool_masked_pos"] = mask if call["mask"] == "bool" else mask.astype("i8")
    if call["head_mask"]:
        shape = (heads,) if call["head_mask"] == "1d" else (layers, heads)
        arrays["head_mask"] = rng("head").choice([0.0, 1.0, 1.0, 0.5], shape).astype("f4")
    labels = call.get("labels")
    if labels == "tokens":
        arrays["labels"] = rng("labels").randint(0, config["vocab_size"], int(arrays["bool_masked_pos"].sum()))
    elif labels == "classes":
        arrays["labels"] = rng("labels").randint(0, config["num_labels"], batch)
    elif labels == "several":
        arrays["labels"] = rng("labels").randint(0, 2, (batch, config["num_labels"])).astype("f4")
    elif labels == "floats":
        shape = (batch,) if config["num_labels"] == 1 else (batch, config["num_labels"])
        arrays["labels"] = rng("labels").standard_normal(shape).astype("f4")
    return arrays


def sample(array: np.ndarray, most: int = _MOST) -> np.ndarray:
    """All values of a small array; every k-th of a large one, k odd. The sum of all comes last."""
    flat = np.asarray(array, np.float64).ravel()
    step = -(-flat.size // most) | 1 if flat.size > most else 1
    return np.append(flat[::step], flat.sum()).astype(np.float32)


def scalar(kind: str, output: Any, weight: Any) -> Any:
    """What gradients are taken of: the loss; without one, a weighted sum of the main output."""
    if kind == "BeitModel":
        return (output.last_hidden_state * weight).sum()
    return output.loss if output.loss is not None else output.logits.square().sum()


def flatten(output: Any) -> dict[str, Any]:
    """Output object → (name → tensor), tuples of tensors one by one."""
    named: dict[str, Any] = {}
    for name, value in output.items():
        if isinstance(value, tuple):
            named.update({f"{name}.{i}": item for i, item in enumerate(value)})
        else:
            named[name] = value
    return named


def load(path: Path = FILE) -> list[dict[str, Any]]:
    """The stored cases: settings, `shapes` of the weights, `outputs`, `gradients`, `tuple_shapes`."""
    with np.load(path) as file:
        cases, values = json.loads(str(file["cases"])), file["values"]
    for case in cases:
        for part in ("outputs", "gradients"):
            case[part] = {name: (shape, values[at : at + size]) for name, shape, at, size in case[part]}
    return cases


class Values:
    """Collects the values of all cases, and writes them with the cases."""

    def __init__(self) -> None:
        self.chunks: list[np.ndarray] = []
        self.size = 0

    def store(self, name: str, array: np.ndarray, most: int) -> list[Any]:
        """A sample of an array → [name, shape, where it begins, how long it is]."""
        self.chunks.append(sample(array, most))
        begin, self.size = self.size, self.size + self.chunks[-1].size
        return [name, list(array.shape), begin, self.chunks[-1].size]

    def run(self, case: dict[str, Any], model: Any, inputs: dict[str, Any], scalar: Any) -> None:
        """Call the reference's model and store outputs, gradients of `scalar(output)`, and the shapes of its tuple."""
        asked = {name: case["call"][name] for name in ("output_attentions", "output_hidden_states")}
        output = model(**inputs, **asked, return_dict=True)
        scalar(output).backward()
        case["outputs"] = [self.store(name, value.detach().numpy(), _MOST) for name, value in flatten(output).items()]
        case["gradients"] = [
            self.store(name, value.grad.numpy(), 8)
            for name, value in model.named_parameters()
            if value.grad is not None
        ]
        plain = model(**inputs, **asked, return_dict=False)
        case["tuple_shapes"] = [
            [list(item.shape) for item in value] if isinstance(value, tuple) else list(value.shape) for value in plain
        ]

    def write(self, path: Path, cases: list[dict[str, Any]]) -> None:
        """Write the file and say how large it is."""
        np.savez_compressed(path, cases=json.dumps(cases), values=np.concatenate(self.chunks))
        print(f"{len(cases)} cases, {self.size} values, {path.stat().st_size / 1e6:.2f} MB in {path}")


def main() -> None:
    import torch
    import transformers

    assert transformers.__version__ == "4.37.2", transformers.__version__
    torch.set_num_threads(1)
    values = Values()
    cases = draw_cases()
    for case in cases:
        kind = case["kind"]
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in case["config"].items()}
        if settings["hidden_act"] == "selu":  # its documentation names it, its table of activations lacks it
            settings["hidden_act"] = torch.nn.functional.selu
        config = transformers.BeitConfig(**settings)
        model = getattr(transformers, kind)(config, **case["arguments"]).eval()
        case["shapes"] = {name: list(value.shape) for name, value in model.state_dict().items()}
        weights = draw_weights(case["shapes"], case["seed"])
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        inputs = {name: torch.from_numpy(array) for name, array in draw_inputs(case).items()}
        weight = inputs.pop("weight")
        if "labels" in inputs and "bool_masked_pos" in inputs:
            inputs["bool_masked_pos"] = inputs["bool_masked_pos"].bool()  # the reference would index with integers
        values.run(case, model, inputs, lambda output, kind=kind, weight=weight: scalar(kind, output, weight))
    values.write(FILE, cases)


if __name__ == "__main__":
    main()

"""Random models saved by ours and by the reference: equal config.json and tensors, opened by the other, and saved again equal.

    PYTHONPATH=src:tests <environment with transformers 4.37.2>/bin/python tests/peers/check_round_trips.py [--count 200] [--seed 0]

For each random config: both build a model and save it. The two config.json must have the same keys and values, the two weight
files the same names, shapes and types; each side opens the other's folder, gives the other's outputs to 1e-5, and saves it again
as it was: config.json and tensors equal. The reference leaves out what is its default; ours writes these fields, and its own
(`DEFAULTS`), which counts as equal as long as they say the default. Prints the first differences, and exits with 1 when there
are any.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

import beit
from peers.check_transformers import CLASSES, DENSE, TOLERANCE, difference, randomise

# The version of the library that wrote the file and where it was: nothing that a model is.
LEFT_OUT = {"transformers_version", "_name_or_path"}
# What a file means that lacks these.
DEFAULTS: dict[str, Any] = {
    "return_dict": True,
    "output_attentions": False,
    "output_hidden_states": False,
    "problem_type": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "mask_keeps_position": False,
    "pad_to_patch": False,
    "segmentation_layers": None,
    "decode_dropout_prob": 0.0,
}


def draw(rng: random.Random, kind: str) -> dict[str, Any]:
    """Arguments of `BeitConfig` for a small model of this class; about half of the fields are left at their defaults."""
    dense = kind in DENSE
    heads = rng.choice([1, 2, 4])
    patch = rng.choice([4, 8])
    rows, columns = rng.choice([2, 4]), rng.choice([2, 4])
    values: dict[str, Any] = {
        "hidden_size": 8 * heads * rng.choice([1, 2]),
        "num_attention_heads": heads,
        "num_hidden_layers": rng.choice([4, 5, 6]) if dense else rng.choice([1, 2, 3]),
        "intermediate_size": rng.choice([16, 24]),
        "image_size": patch * rows if dense or rng.random() < 0.7 else (patch * rows, patch * columns),
        "patch_size": patch,
        "vocab_size": rng.choice([7, 19]),
        "use_mask_token": rng.random() < 0.5,
        "use_absolute_position_embeddings": rng.random() < 0.4,
        "use_relative_position_bias": rng.random() < 0.5,
        "use_shared_relative_position_bias": rng.random() < 0.4,
    }
    maybe: dict[str, Any] = {
        "hidden_act": rng.choice(["gelu", "relu", "gelu_new"]),  # of selu the reference only writes
        "hidden_dropout_prob": rng.choice([0.0, 0.1]),
        "attention_probs_dropout_prob": rng.choice([0.0, 0.1]),
        "initializer_range": rng.choice([0.02, 0.05]),
        "layer_norm_eps": rng.choice([1e-12, 1e-6]),
        "num_channels": rng.choice([1, 3, 4]),
        "layer_scale_init_value": rng.choice([0.1, 1e-5, 0.0]),
        "drop_path_rate": rng.choice([0.0, 0.1, 0.2]),
        "use_mean_pooling": rng.random() < 0.5,
        "pool_scales": rng.choice([[1, 2], [1, 2, 3, 6]]),
        "use_auxiliary_head": rng.random() < 0.5,
        "auxiliary_loss_weight": rng.choice([0.4, 0.2]),
        "auxiliary_num_convs": rng.choice([1, 2]),
        "auxiliary_concat_input": rng.random() < 0.5,
        "semantic_loss_ignore_index": rng.choice([255, 0]),
        "reshape_hidden_states": rng.random() < 0.7,
        "problem_type": rng.choice(
            ["single_label_classification"]
            if kind == "BeitForImageClassification"  # labels of another kind: see `difference`
            else ["regression", "single_label_classification", "multi_label_classification"]
        ),
        "output_hidden_states": rng.random() < 0.5,
        "output_attentions": rng.random() < 0.3,
        "finetuning_task": "image-classification",
        "custom_field": {"a": [1, 2]},
    }
    values |= {name: value for name, value in maybe.items() if rng.random() < 0.4}
    if dense:
        values["auxiliary_channels"] = 8
    labels = rng.choice(["default", "number", "names"])
    if labels == "number":
        values["num_labels"] = rng.choice(
            [2, 3, 5] if "Segmentation" in kind or "problem_type" in values else [1, 3, 5]
        )
    elif labels == "names":
        values["id2label"] = dict(enumerate(["cat", "dog", "Vögel"]))
        values["label2id"] = {name: i for i, name in values["id2label"].items()}
    if dense or rng.random() < 0.3:
        count = 4 if dense else 1
        layers = sorted(rng.sample(range(1, values["num_hidden_layers"] + 1), count))
        if kind != "BeitForSemanticSegmentation" and rng.random() < 0.5:
            values["out_features"] = [f"stage{layer}" for layer in layers]
        else:
            values["out_indices"] = layers
    if kind == "BeitBackbone" and values.get("reshape_hidden_states", True) and rng.random() < 0.5:
        values |= {"add_fpn": True, "batch_norm_eps": 1e-5}  # 4.37.2 reads a field that its config lacks
    return values


def differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, str]:
    """Key → what the two have."""
    found = {}
    for key in sorted({*one, *other} - LEFT_OUT):
        a, b = (values.get(key, DEFAULTS.get(key, "nothing")) for values in (one, other))
        if a != b or type(a) is not type(b):
            found[key] = f"{a!r:.60} and {b!r:.60}"
    return found


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def compare_folders(what: str, one: Path, other: Path, numbers: bool) -> Iterator[str]:
    """What differs between two model folders; `numbers`: of the tensors too, and not only names, shapes and types."""
    for key, found in differing(config_of(one), config_of(other)).items():
        yield f"{what}: config.json, {key}: {found}"
    left, right = (load_file(folder / "model.safetensors") for folder in (one, other))
    if left.keys() != right.keys():
        yield f"{what}: tensors {sorted(left.keys() ^ right.keys())[:4]}"
    for name in left.keys() & right.keys():
        a, b = left[name], right[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            yield f"{what}: {name} is {tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}"
        elif numbers and not torch.equal(a, b):
            yield f"{what}: {name} has other numbers"


def one_trip(folder: Path, number: int, seed: int) -> Iterator[str]:
    """What goes wrong with the random model of this number."""
    rng = random.Random(f"{seed}/{number}")
    kind = CLASSES[number % len(CLASSES)]
    values = draw(rng, kind)
    dtype = rng.choice([torch.float32] * 4 + [torch.bfloat16, torch.float16])
    sides = {}
    for name, module in (("ours", beit), ("theirs", transformers)):
        model = getattr(module, kind)(module.BeitConfig(**values))
        sides[name] = randomise(model, seed=number).to(dtype)
        sides[name].save_pretrained(folder / name)
    yield from compare_folders("ours and theirs", folder / "ours", folder / "theirs", numbers=False)
    for source, target, module in (("ours", "theirs", transformers), ("theirs", "ours", beit)):
        way = f"{source} → {target}"
        opened = getattr(module, kind).from_pretrained(folder / source, torch_dtype="auto").eval()
        if opened.dtype != dtype:
            yield f"{way}: {opened.dtype} for {dtype}"
        opened.save_pretrained(folder / "again")
        yield from compare_folders(f"{way}, saved again", folder / source, folder / "again", numbers=True)
        worst = difference(sides[source].float(), opened.float(), opened.config, kind)
        if not worst <= TOLERANCE:
            yield f"{way}: outputs differ by {worst:.1e}"


def check(count: int, seed: int = 0) -> dict[int, list[str]]:
    """Number of the random model → what went wrong."""
    found = {}
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                problems = list(one_trip(Path(folder), number, seed))
            except Exception as error:
                problems = [f"{type(error).__name__}: {str(error).splitlines()[0]}"]
        if problems:
            found[number] = problems
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="how many random models")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check(arguments.count, arguments.seed)
    kinds: Counter[str] = Counter()
    for number, problems in found.items():
        for problem in problems:
            kind = ": ".join(problem.split(": ")[:2])
            kinds[kind] += 1
            if kinds[kind] <= 3:
                print(f"{number} ({CLASSES[number % len(CLASSES)]}) {problem}")
    for kind, times in kinds.most_common():
        print(f"{times:4} times {kind}")
    print(
        f"transformers {transformers.__version__}: {arguments.count - len(found)} of {arguments.count} round trips equal"
    )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())

"""Golden outputs of the reference's segmentation model and backbone: random small models, random inputs.

    PYTHONPATH= <environment with transformers 4.37.2>/bin/python tests/golden/make_segmentation.py

writes `segmentation.npz` beside this file, in the manner of `make_models.py`: weights and inputs are drawn anew on both
sides. The reference takes square images only here, and its `add_fpn` needs a field that its config has not; it is set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

try:
    from golden import make_models as base
except ImportError:  # run as a script
    import make_models as base  # type: ignore[no-redef]

FILE = Path(__file__).with_name("segmentation.npz")
SEGMENTATION, BACKBONES = 48, 16


def draw_weights(shapes: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """As `make_models.draw_weights`; statistics of batch norms such that they show and stay sound."""
    tensors = base.draw_weights(shapes, seed)
    for name, values in tensors.items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = np.array(7, np.int64)
        elif name.endswith("running_var"):
            tensors[name] = 0.5 + np.abs(values)
        elif name.endswith("running_mean"):
            tensors[name] = 0.3 * values
        elif (".bn." in name or "fpn1.1." in name) and name.endswith("weight"):
            tensors[name] = 1 + 0.2 * values
    return tensors


def draw_cases() -> list[dict[str, Any]]:
    """Settings of all cases: kind, config, call."""
    rng = np.random.RandomState(20231204)
    one, chance = base.choosing(rng)
    cases = []
    for number in range(SEGMENTATION + BACKBONES):
        kind = "BeitForSemanticSegmentation" if number < SEGMENTATION else "BeitBackbone"
        heads, layers, patch = one(1, 2), int(rng.randint(4, 7)), one(2, 4)
        grid = int(rng.randint(2, 6))
        chosen = sorted(int(i) + 1 for i in rng.permutation(layers)[:4])
        config: dict[str, Any] = {
            # With 4 channels the reference's own rounding, of a layer norm of four numbers, can exceed 1e-5.
            "hidden_size": heads * one(8, 12),
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "intermediate_size": one(12, 32),
            "layer_norm_eps": one(1e-12, 1e-6),
            "image_size": grid * patch,
            "patch_size": patch,
            "num_channels": one(1, 3, 4),
            "use_absolute_position_embeddings": chance(0.5),
            "use_relative_position_bias": chance(0.6),
            "use_shared_relative_position_bias": chance(0.4),
            "layer_scale_init_value": one(0, 0.1),
            "use_mean_pooling": chance(0.5),
            "drop_path_rate": 0.0,
        }
        call: dict[str, Any] = {
            "batch": int(rng.randint(1, 4)),
            "head_mask": None,
            "output_attentions": chance(0.4),
            "output_hidden_states": chance(0.4),
            "mask": None,
        }
        if kind == "BeitForSemanticSegmentation":
            config |= {
                "num_labels": one(2, 3, 7),
                "pool_scales": one([1, 2, 3, 6], [1], [2, 4]),
                "use_auxiliary_head": chance(0.75),
                "auxiliary_loss_weight": one(0.4, 1.0),
                "auxiliary_channels": one(3, 6),
                "auxiliary_num_convs": one(1, 1, 2, 3),
                "auxiliary_concat_input": chance(0.4),
                "semantic_loss_ignore_index": one(255, 1),
                "out_indices": chosen,
            }
            call |= {
                "labels": one(None, "image", "image", "other size"),
                "head_mask": one(None, None, "1d", "2d"),
                "train": False,
            }
        else:
            fpn = chance(0.5)
            picked = chosen if fpn else sorted(int(i) for i in rng.permutation(layers + 1)[: rng.randint(1, 4)])
            config |= {"add_fpn": fpn, "reshape_hidden_states": fpn or chance(0.6)}
            way = one("indices", "features") if fpn else one("indices", "features", "neither")
            if way == "indices":
                config["out_indices"] = picked
            elif way == "features":
                config["out_features"] = ["stem" if i == 0 else f"stage{i}" for i in picked]
        cases.append({"kind": kind, "seed": 1000 + number, "config": config, "call": call})
    # Batch statistics, dropout nowhere: the only difference between training and evaluation is batch norm.
    for number in range(0, SEGMENTATION, 6):
        cases[number]["call"].update(train=True, labels="image", batch=3)
    return cases


def draw_inputs(case: dict[str, Any]) -> dict[str, np.ndarray]:
    """pixel_values, head_mask, labels of one call."""
    config, call = case["config"], case["call"]
    arrays = base.draw_inputs({**case, "call": {**call, "labels": None}})
    del arrays["weight"]
    if call.get("labels"):
        side = config["image_size"] + (3 if call["labels"] == "other size" else 0)
        random = base.stream(case["seed"], "input labels")
        labels = random.randint(0, config["num_labels"], (call["batch"], side, side))
        labels[random.rand(*labels.shape) < 0.3] = config["semantic_loss_ignore_index"]
        arrays["labels"] = labels
    return arrays


def scalar(output: Any) -> Any:
    """What gradients are taken of."""
    if hasattr(output, "feature_maps"):
        return sum(x.square().sum() for x in output.feature_maps)
    return output.loss if output.loss is not None else output.logits.square().sum()


def load() -> list[dict[str, Any]]:
    """The stored cases, as `make_models.load` gives them."""
    return base.load(FILE)


def main() -> None:
    import torch
    import transformers

    assert transformers.__version__ == "4.37.2", transformers.__version__
    torch.set_num_threads(1)
    values = base.Values()
    cases = draw_cases()
    for case in cases:
        config = transformers.BeitConfig(**case["config"])
        config.batch_norm_eps = 1e-5
        model = getattr(transformers, case["kind"])(config).train(case["call"].get("train", False))
        case["shapes"] = {name: list(value.shape) for name, value in model.state_dict().items()}
        weights = draw_weights(case["shapes"], case["seed"])
        model.load_state_dict({name: torch.from_numpy(np.asarray(array)) for name, array in weights.items()})
        inputs = {name: torch.from_numpy(array) for name, array in draw_inputs(case).items()}
        values.run(case, model, inputs, scalar)
    values.write(FILE, cases)


if __name__ == "__main__":
    main()

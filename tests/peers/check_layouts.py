"""What `beit convert` writes, opened by the projects whose layout it is: timm and the authors' code.

    PYTHONPATH=src:tests <environment with timm>/bin/python tests/peers/check_layouts.py
    PYTHONPATH=src:tests <environment of golden/make_foreign.py unilm>/bin/python tests/peers/check_layouts.py PATH/TO/unilm

Models of ours with random weights, written by `checkpoints.write`, loaded there with `strict=True`, and the largest difference
of outputs. Prints a table and exits with 1 when one is above 1e-5. What transformers makes of our folders: check_transformers.py.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import beit
from beit import BeitConfig
from beit.checkpoints import names as weights
from beit.export.layouts import Layout, write

TOLERANCE = 1e-5
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
    "vocab_size": 19,
    "layer_norm_eps": 1e-6,
    "num_labels": 5,
}
OWN = {"use_relative_position_bias": True}
SHARED = {"use_shared_relative_position_bias": True}
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "tables of layers": OWN,
    "a shared table": SHARED,
    "cls token": {**OWN, "use_mean_pooling": False},
    "positions, no scale": {"use_absolute_position_embeddings": True, "layer_scale_init_value": 0.0},
    "rectangle": {**OWN, "image_size": (64, 96)},
}
Row = tuple[str, str, float]


def drawn(kind: str, **changes: Any) -> Any:
    """A model whose every tensor is random."""
    torch.manual_seed(0)
    model = getattr(beit, kind)(BeitConfig(**{**SIZES, **changes}))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=0.2)
            if tensor.ndim == 1 and name.endswith("weight"):
                tensor.add_(1)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model.eval()


def written(model: Any, to: Layout, folder: Path) -> Path:
    path = folder / ("model" if to == "timm" else "model.pth")
    config = model.config.replace(architectures=[type(model).__name__])
    write(path, to, weights.to_state_dict(model.disk_tensors())[0], config, {"image_mean": [0.4] * 3, "resample": 3})
    return path


def images(model: Any) -> torch.Tensor:
    size = model.config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def largest(ours: Any, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape, f"{ours.shape} against {theirs.shape}"
    return float((ours - theirs).abs().max())


# --- timm ------------------------------------------------------------------------------------------------------------


def check_timm(folder: Path) -> Iterator[Row]:
    import timm

    for name, changes in CLASSIFIERS.items():
        model = drawn("BeitForImageClassification", **changes)
        path = written(model, "timm", folder / name.replace(" ", "_").replace(",", ""))
        other = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
        assert list(other.pretrained_cfg["mean"]) == [0.4] * 3
        x = images(model)
        yield "classifier", name, largest(model(x).logits, other(x))
    encoder = drawn("BeitModel", **OWN)
    path = written(encoder, "timm", folder / "encoder")
    other = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    x = images(encoder)
    yield "encoder", "tables of layers", largest(encoder(x).pooler_output, other(x))


# --- the authors -----------------------------------------------------------------------------------------------------


def check_unilm(folder: Path, checkout: Path) -> Iterator[Row]:
    from golden import make_foreign

    make_foreign._stand_ins()
    finetune = make_foreign._authors_module(checkout / "beit", "modeling_finetune")
    for name, changes in CLASSIFIERS.items():
        model = drawn("BeitForImageClassification", **changes)
        pools = model.config.use_mean_pooling
        other = finetune.VisionTransformer(**arguments(model.config), num_classes=5, use_mean_pooling=pools)
        other.load_state_dict(torch.load(written(model, "unilm", folder))["model"], strict=True)
        x = images(model)
        yield "classifier", name, largest(model(x).logits, other.eval()(x))
    pretrain = make_foreign._authors_module(checkout / "beit", "modeling_pretrain")
    for name, changes in (("a shared table", SHARED), ("positions", {"use_absolute_position_embeddings": True})):
        model = drawn("BeitForMaskedImageModeling", use_mask_token=True, mask_keeps_position=True, **changes)
        other = pretrain.VisionTransformerForMaskedImageModeling(**arguments(model.config), vocab_size=19)
        other.load_state_dict(torch.load(written(model, "unilm", folder))["model"], strict=True)
        x, mask = images(model), torch.rand(2, 16, generator=torch.Generator().manual_seed(2)) < 0.5
        yield "pre-training", name, largest(model(x, mask).logits, other.eval()(x, mask, return_all_tokens=True))


def arguments(config: BeitConfig) -> dict[str, Any]:
    return {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
        "qkv_bias": True,
        "init_values": config.layer_scale_init_value,
        "use_abs_pos_emb": config.use_absolute_position_embeddings,
        "use_rel_pos_bias": config.use_relative_position_bias,
        "use_shared_rel_pos_bias": config.use_shared_relative_position_bias,
        "norm_layer": functools.partial(torch.nn.LayerNorm, eps=1e-6),
    }


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        rows = check_unilm(Path(folder), Path(sys.argv[1])) if len(sys.argv) > 1 else check_timm(Path(folder))
        found = list(rows)
    for kind, name, difference in found:
        print(f"{kind:14} {name:24} {difference:.1e}")
    return int(any(difference > TOLERANCE for *_, difference in found))


if __name__ == "__main__":
    sys.exit(main())

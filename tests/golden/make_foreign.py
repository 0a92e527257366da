"""Checkpoint files as other projects write them, each by its own code with random weights, and what they answer.

    PYTHONPATH= <environment with transformers 4.37.2, jax 0.4.23, flax 0.8.0>/bin/python tests/golden/make_foreign.py hf4
    PYTHONPATH= <environment with transformers 5.24>/bin/python tests/golden/make_foreign.py hf5
    PYTHONPATH= <environment with timm 1.0.31>/bin/python tests/golden/make_foreign.py timm
    PYTHONPATH= <environment below>/bin/python tests/golden/make_foreign.py unilm <checkout of microsoft/unilm>
    PYTHONPATH= <environment below>/bin/python tests/golden/make_foreign.py openmmlab

The last two need torch, mmengine 0.10.7, mmcv-lite 2.1.0, mmsegmentation 1.2.2 and mmpretrain 1.2.0 with numpy < 2, ftfy and
regex. The
authors' models import a few functions of timm 0.4, and their segmentation some of mmsegmentation 0.11; as much of those as
matters without training stands here. Their segmentation heads are those of mmsegmentation 1.2.2, whose names are the same.

Each command writes its files into `foreign/` beside this file, and their outputs into `foreign.npz` under `<name>/<what>`,
where the outputs of the other commands stay. Inputs are drawn by `inputs()`. Every number is drawn by its tensor's name, so
that a wrong name or a transposed matrix shows. Models have 4 layers of 12 channels and 3 heads, on 4 by 4 patches.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import logging
import shutil
import sys
import types
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

try:
    from golden import make_models as base
except ImportError:  # run as a script
    import make_models as base  # type: ignore[no-redef]

FILE = Path(__file__).with_name("foreign.npz")
FOLDER = Path(__file__).with_name("foreign")

HIDDEN, HEADS, LAYERS, MLP, PATCH, SIDE, VOCABULARY, CLASSES = 12, 3, 4, 2, 8, 32, 16, 5
NAMES = ("wall", "building", "sky", "floor", "tree")
PALETTE = [[120, 120, 120], [180, 120, 120], [6, 230, 230], [80, 50, 50], [4, 200, 3]]


def inputs() -> dict[str, np.ndarray]:
    """`pixel_values` (2, 3, 32, 32) float32, `mask` (2, 16) bool, True is masked; `pixel_values_64` (2, 3, 64, 64) float32
    for `unilm_segment`: the authors' pyramid has its published form at 16 pixels a patch only."""
    return {
        "pixel_values": np.random.default_rng(0).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32),
        "mask": np.random.default_rng(1).random((2, (SIDE // PATCH) ** 2)) < 0.4,
        "pixel_values_64": np.random.default_rng(2).standard_normal((2, 3, 64, 64)).astype(np.float32),
    }


def load() -> dict[str, np.ndarray]:
    """`<name>/<what>` → output, float32."""
    with np.load(FILE) as stored:
        return {name: stored[name] for name in stored.files}


# ---------------------------------------------------------------------------------------------- random weights


def draw(file: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of one tensor of one file, float32: none is zero or one, variances are positive."""
    values = base.stream(zlib.crc32(file.encode()), name).standard_normal(shape)
    last = name.rsplit(".", 1)[-1]
    if last == "running_var":
        values = 0.5 + np.abs(values)
    elif last.startswith(("gamma_", "lambda_")):
        values = 0.5 + 0.1 * values
    elif last == "relative_position_bias_table":
        pass
    elif last in ("cls_token", "mask_token", "pos_embed", "position_embeddings"):
        values = 0.5 * values
    elif last == "scale" or (last == "weight" and len(shape) == 1):  # of a norm
        values = 1 + 0.2 * values
    elif len(shape) >= 2:
        inputs = np.prod(shape[:-1]) if last == "kernel" else np.prod(shape[1:])
        values = values * np.clip(1.2 / np.sqrt(inputs), 0.05, 0.3)
    else:
        values = 0.2 * values
    return values.astype(np.float32)


def fill(model: Any, file: str) -> Any:
    """The PyTorch model, with drawn weights, ready to answer."""
    import torch

    tensors = model.state_dict()
    for name, tensor in tensors.items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(7)
        elif tensor.is_floating_point():
            tensors[name] = torch.from_numpy(draw(file, name, tuple(tensor.shape)))
    model.load_state_dict(tensors)
    return model.eval()


class Outputs:
    """Collects outputs, and writes them among those of the other commands."""

    def __init__(self) -> None:
        self.found: dict[str, np.ndarray] = {}

    def add(self, file: str, **outputs: Any) -> None:
        for what, value in outputs.items():
            self.found[f"{file}/{what}"] = np.asarray(value.detach() if hasattr(value, "detach") else value, np.float32)

    def write(self) -> None:
        kept = load() if FILE.exists() else {}
        ours = {name.split("/")[0] for name in self.found}
        kept = {name: value for name, value in kept.items() if name.split("/")[0] not in ours}
        np.savez_compressed(FILE, **dict(sorted((kept | self.found).items())))
        for name, value in self.found.items():
            print(f"{name:40} {value.shape!s:18} std {value.std():.3f}  largest {np.abs(value).max():.3f}")


def tensors() -> tuple[Any, Any, Any]:
    """(`pixel_values`, `mask`, `pixel_values_64`) for PyTorch."""
    import torch

    given = inputs()
    return tuple(torch.from_numpy(given[name]) for name in ("pixel_values", "mask", "pixel_values_64"))  # type: ignore


# ------------------------------------------------------------------------------------------------ transformers

_HF = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": HIDDEN * MLP,
    "image_size": SIDE,
    "patch_size": PATCH,
    "drop_path_rate": 0.1,
}
_SHARED = {"use_shared_relative_position_bias": True}
_RELATIVE = {"use_relative_position_bias": True}
_ABSOLUTE = {"use_absolute_position_embeddings": True}
_LABELS = {
    "id2label": dict(enumerate(NAMES)),
    "label2id": {name: i for i, name in enumerate(NAMES)},
}
_SEGMENT = {**_RELATIVE, **_LABELS, "out_indices": [1, 2, 3, 4], "auxiliary_channels": 6}
# Folder → (class, what is special in its config, how it is saved). The settings are those of the published models; of those,
# DiT's and data2vec's are in PyTorch's own format.
_HF4: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "hf4_mim": (
        "BeitForMaskedImageModeling",
        {**_SHARED, "use_mask_token": True, "vocab_size": VOCABULARY},
        {},
    ),
    "hf4_classify": ("BeitForImageClassification", {**_RELATIVE, **_LABELS}, {}),
    "hf4_segment": ("BeitForSemanticSegmentation", _SEGMENT, {}),
    "hf4_backbone": ("BeitBackbone", {**_RELATIVE, "out_features": ["stage2", "stage4"]}, {}),
    "hf4_dit": (
        "BeitForMaskedImageModeling",
        {**_ABSOLUTE, "use_mask_token": True, "vocab_size": VOCABULARY},
        {"safe_serialization": False},
    ),
    "hf4_dit_classify": ("BeitForImageClassification", {**_ABSOLUTE, **_LABELS}, {"safe_serialization": False}),
    "hf4_data2vec": ("Data2VecVisionModel", {**_SHARED, "use_mean_pooling": False}, {}),
    "hf4_data2vec_classify": (
        "Data2VecVisionForImageClassification",
        {**_RELATIVE, **_LABELS},
        {"safe_serialization": False},
    ),
    "hf4_data2vec_segment": ("Data2VecVisionForSemanticSegmentation", _SEGMENT, {}),
    "hf4_flax": ("FlaxBeitForImageClassification", {**_RELATIVE, **_LABELS}, {}),
}
_HF5 = {
    "hf5_classify": ("BeitForImageClassification", {**_RELATIVE, **_LABELS}, {}),
    "hf5_segment": ("BeitForSemanticSegmentation", _SEGMENT, {}),
    "hf5_data2vec_classify": ("Data2VecVisionForImageClassification", {**_RELATIVE, **_LABELS}, {}),
}


def _hf_outputs(model: Any, kind: str) -> dict[str, Any]:
    pixel_values, mask, _ = tensors()
    if kind == "BeitForMaskedImageModeling":
        return {
            "logits": model(pixel_values, bool_masked_pos=mask).logits,
            "logits_no_mask": model(pixel_values).logits,
        }
    if kind.endswith("SemanticSegmentation"):
        auxiliary = []
        model.auxiliary_head.register_forward_hook(lambda _module, _given, output: auxiliary.append(output))
        logits = model(pixel_values).logits
        return {"logits": logits, "auxiliary_logits": auxiliary[0]}
    answer = model(pixel_values)
    if kind == "BeitBackbone":
        return {f"stage_{i}": maps for i, maps in enumerate(answer.feature_maps)}
    if "logits" in answer:
        return {"logits": answer.logits}
    return {"last_hidden_state": answer.last_hidden_state}


def make_hf(cases: dict[str, tuple[str, dict[str, Any], dict[str, Any]]]) -> None:
    import transformers

    found = Outputs()
    for file, (kind, special, saved) in cases.items():
        family = "Data2VecVisionConfig" if kind.startswith("Data2Vec") else "BeitConfig"
        config = getattr(transformers, family)(**_HF, **special)
        shutil.rmtree(FOLDER / file, ignore_errors=True)
        if kind.startswith("Flax"):
            from flax.traverse_util import flatten_dict, unflatten_dict

            model = getattr(transformers, kind)(config)
            flat = flatten_dict(model.params, sep=".")
            model.params = unflatten_dict({n: draw(file, n, tuple(v.shape)) for n, v in flat.items()}, sep=".")
            found.add(file, logits=model(inputs()["pixel_values"]).logits)
        else:
            model = fill(getattr(transformers, kind)(config), file)
            found.add(file, **_hf_outputs(model, kind))
        model.save_pretrained(FOLDER / file, **saved)
    found.write()


# --------------------------------------------------------------------------------------------------------- timm


def make_timm() -> None:
    import timm
    import torch
    from safetensors.torch import save_file
    from timm.models import save_for_hf
    from timm.models.beit import Beit

    found, (pixel_values, _, _) = Outputs(), tensors()
    sizes = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": HIDDEN, "depth": LAYERS, "num_heads": HEADS}
    sizes |= {"mlp_ratio": MLP, "num_classes": CLASSES}

    model = fill(Beit(**sizes, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1), "timm_beit")
    save_file(model.state_dict(), FOLDER / "timm_beit.safetensors")
    found.add("timm_beit", logits=model(pixel_values))

    model = fill(Beit(**sizes, use_abs_pos_emb=True, init_values=0.1), "timm_beit_abs")
    torch.save(model.state_dict(), FOLDER / "timm_beit_abs.pth")
    found.add("timm_beit_abs", logits=model(pixel_values))

    model = fill(timm.create_model("beitv2_base_patch16_224", **sizes), "timm_beitv2")
    shutil.rmtree(FOLDER / "timm_beitv2", ignore_errors=True)
    save_for_hf(model, FOLDER / "timm_beitv2", safe_serialization=True)
    found.add("timm_beitv2", logits=model(pixel_values))
    found.write()


# ---------------------------------------------------------------------------------------------- microsoft/unilm


class _Any(types.ModuleType):
    """In place of mmcv's compiled operations, which mmcv-lite has not: there when asked for, and never called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class _Registry:
    """In place of a registry: leaves classes and functions as they are."""

    def register_module(self) -> Any:
        return lambda found: found


def _stand_ins() -> None:
    """As much of timm 0.4, of mmsegmentation 0.11 and of the authors' additions to mmcv as their models ask for."""
    sys.modules["mmcv._ext"] = _Any("mmcv._ext")
    import mmseg.models.builder
    import mmseg.utils
    import torch

    mmseg.models.builder.BACKBONES = _Registry()
    mmseg.utils.get_root_logger = logging.getLogger
    modules: dict[str, dict[str, Any]] = {
        "timm": {},
        "timm.models": {},
        "timm.models.layers": {
            "drop_path": lambda x, *_: x,  # without training
            "to_2tuple": lambda x: x if isinstance(x, tuple) else (x, x),
            "trunc_normal_": torch.nn.init.trunc_normal_,
        },
        "timm.models.registry": {"register_model": lambda function: function},
        "mmcv_custom": {"load_checkpoint": None},
    }
    for name, members in modules.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)


def _authors_module(folder: Path, name: str) -> Any:
    """A module of a folder of the checkout; modules of the same name in other folders are forgotten."""
    for known in ("modeling_finetune", "modeling_pretrain", "beit"):
        sys.modules.pop(known, None)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def _authors_arguments(script: Path) -> argparse.Namespace:
    """What their training script puts beside the weights: its defaults."""
    (function,) = (
        node
        for node in ast.parse(script.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "get_args"
    )
    names: dict[str, Any] = {"argparse": argparse}
    exec(compile(ast.Module([function], []), str(script), "exec"), names)
    given, sys.argv = sys.argv, [str(script)]
    try:
        return names["get_args"]()
    finally:
        sys.argv = given


def _heads(channels: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two heads of the authors' configuration, for mmsegmentation."""
    both = {
        "num_classes": CLASSES,
        "dropout_ratio": 0.1,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "align_corners": False,
    }
    loss = {"type": "CrossEntropyLoss", "use_sigmoid": False}
    decode = {
        "type": "UPerHead",
        "in_channels": [channels] * 4,
        "in_index": [0, 1, 2, 3],
        "pool_scales": (1, 2, 3, 6),
        "channels": channels,
        "loss_decode": {**loss, "loss_weight": 1.0},
        **both,
    }
    auxiliary = {
        "type": "FCNHead",
        "in_channels": channels,
        "in_index": 2,
        "channels": 6,
        "num_convs": 1,
        "concat_input": False,
        "loss_decode": {**loss, "loss_weight": 0.4},
        **both,
    }
    return decode, auxiliary


def make_unilm(checkout: Path) -> None:
    from functools import partial

    import torch
    from torch import nn

    _stand_ins()
    from mmseg.registry import MODELS

    found, (pixel_values, mask, pixel_values_64) = Outputs(), tensors()
    norm = partial(nn.LayerNorm, eps=1e-6)  # in each of their constructors
    sizes = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": HIDDEN, "depth": LAYERS, "num_heads": HEADS}
    sizes |= {"mlp_ratio": MLP, "qkv_bias": True, "norm_layer": norm}
    arguments = _authors_arguments(checkout / "beit" / "run_beit_pretraining.py")
    arguments.input_size = SIDE

    # BEiT, pre-trained: as published, and with the settings of the model of 800 epochs.
    pretrain = _authors_module(checkout / "beit", "modeling_pretrain")
    for file, special in {
        "unilm_pretrain": {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": False, "init_values": 0.1},
        "unilm_pretrain_abs": {"use_shared_rel_pos_bias": False, "use_abs_pos_emb": True, "init_values": 0},
    }.items():
        model = pretrain.VisionTransformerForMaskedImageModeling(**sizes, vocab_size=VOCABULARY, **special)
        model = fill(model, file)
        arguments.rel_pos_bias = special["use_shared_rel_pos_bias"]
        arguments.abs_pos_emb = special["use_abs_pos_emb"]
        arguments.layer_scale_init_value = special["init_values"]
        torch.save({"model": model.state_dict(), "args": arguments, "epoch": 3}, FOLDER / f"{file}.pth")
        found.add(
            file,
            logits=model(pixel_values, mask, return_all_tokens=True),
            logits_no_mask=model(pixel_values, torch.zeros_like(mask), return_all_tokens=True),
        )

    # BEiT, fine-tuned.
    finetune = _authors_module(checkout / "beit", "modeling_finetune")
    relative = {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.1}
    for file, special in {
        "unilm_finetune": relative,
        "unilm_finetune_shared": {**relative, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
        "unilm_finetune_cls": {**relative, "use_mean_pooling": False},
        "unilm_22k": {**relative, "num_classes": 50},
    }.items():
        model = fill(finetune.VisionTransformer(**{**sizes, "num_classes": CLASSES, **special}), file)
        saved = {"model": model.state_dict()}
        if file == "unilm_22k":  # as distributed training leaves it
            saved = {"module": {f"module.{name}": value for name, value in model.state_dict().items()}}
        torch.save(saved, FOLDER / f"{file}.pth")
        found.add(file, logits=model(pixel_values))

    # BEiT v2.
    pretrain = _authors_module(checkout / "beit2", "modeling_pretrain")
    model = pretrain.VisionTransformerForMaskedImageModelingCLS(
        **sizes,
        vocab_size=VOCABULARY,
        use_abs_pos_emb=False,
        use_shared_rel_pos_bias=True,
        init_values=0.1,
        early_layers=3,  # 9 of the published 12
        head_layers=2,
    )
    model = fill(model, "unilm_v2_pretrain")
    torch.save({"model": model.state_dict()}, FOLDER / "unilm_v2_pretrain.pth")
    logits, early = model(pixel_values, mask, return_all_tokens=True)
    logits_no_mask, early_no_mask = model(pixel_values, return_all_tokens=True)
    found.add(
        "unilm_v2_pretrain",
        logits=logits,
        early_logits=early,
        logits_no_mask=logits_no_mask,
        early_logits_no_mask=early_no_mask,
    )
    finetune = _authors_module(checkout / "beit2", "modeling_finetune")
    model = fill(finetune.VisionTransformer(**sizes, num_classes=CLASSES, **relative), "unilm_v2_finetune")
    torch.save({"model": model.state_dict()}, FOLDER / "unilm_v2_finetune.pth")
    found.add("unilm_v2_finetune", logits=model(pixel_values))

    # Segmentation.
    class Segmentation(nn.Module):
        """Parts and their names as in mmsegmentation's EncoderDecoder."""

        def __init__(self) -> None:
            super().__init__()
            backbone = _authors_module(checkout / "beit" / "semantic_segmentation" / "backbone", "beit")
            self.backbone = backbone.BEiT(
                **{**sizes, "img_size": 64, "patch_size": 16}, **relative, out_indices=[0, 1, 2, 3]
            )
            self.backbone = plain_norms(self.backbone)
            decode, auxiliary = _heads(HIDDEN)
            self.decode_head, self.auxiliary_head = MODELS.build(decode), MODELS.build(auxiliary)

    def plain_norms(module: nn.Module) -> nn.Module:
        """Their norm over several devices refuses a CPU; without training it is an ordinary one."""
        for name, part in module.named_children():
            if isinstance(part, nn.SyncBatchNorm):
                setattr(module, name, nn.BatchNorm2d(part.num_features, eps=part.eps))
            else:
                plain_norms(part)
        return module

    model = fill(Segmentation(), "unilm_segment")
    meta = {"mmseg_version": "0.11.0", "iter": 160000, "epoch": 64, "CLASSES": NAMES, "PALETTE": PALETTE}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, FOLDER / "unilm_segment.pth")
    features = model.backbone(pixel_values_64)
    found.add(
        "unilm_segment", logits=model.decode_head(features), auxiliary_logits=model.auxiliary_head(list(features))
    )
    found.write()


# ---------------------------------------------------------------------------------------------------- OpenMMLab


def _mm_save(model: Any, file: str, meta: dict[str, Any]) -> None:
    from mmengine.runner.checkpoint import get_state_dict, save_checkpoint, weights_to_cpu

    meta = {"epoch": 100, "iter": 1000, "mmengine_version": "0.10.7", "experiment_name": "beit", **meta}
    state = {"meta": meta, "state_dict": weights_to_cpu(get_state_dict(model))}
    save_checkpoint(state, str(FOLDER / f"{file}.pth"))


def make_openmmlab() -> None:
    sys.modules["mmcv._ext"] = _Any("mmcv._ext")
    import mmpretrain.models
    import mmpretrain.registry
    import mmseg.models
    import mmseg.registry

    found, (pixel_values, mask, _) = Outputs(), tensors()
    arch = {
        "embed_dims": HIDDEN,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "feedforward_channels": HIDDEN * MLP,
    }
    build = mmpretrain.registry.MODELS.build

    file = "mmpretrain_classify"
    backbone = {
        "type": "BEiTViT",
        "arch": arch,
        "img_size": SIDE,
        "patch_size": PATCH,
        "drop_path_rate": 0.1,
        "out_type": "avg_featmap",
        "use_abs_pos_emb": False,
        "use_rel_pos_bias": True,
        "use_shared_rel_pos_bias": False,
    }
    head = {"type": "LinearClsHead", "num_classes": CLASSES, "in_channels": HIDDEN}
    model = fill(build({"type": "ImageClassifier", "backbone": backbone, "neck": None, "head": head}), file)
    _mm_save(model, file, {"dataset_meta": {"classes": NAMES}})
    found.add(file, logits=model.head(model.extract_feat(pixel_values)))

    file = "mmpretrain_pretrain"
    backbone = {
        "type": "BEiTPretrainViT",
        "arch": arch,
        "img_size": SIDE,
        "patch_size": PATCH,
        "drop_path_rate": 0.1,
        "final_norm": True,
        "out_type": "raw",
        "layer_scale_init_value": 0.1,
    }
    head = {
        "type": "BEiTV1Head",
        "embed_dims": HIDDEN,
        "num_embed": VOCABULARY,
        "loss": {"type": "CrossEntropyLoss"},
    }
    tokenizer = {"type": "DALL-E", "n_hid": 8, "n_blk_per_group": 1, "vocab_size": VOCABULARY}
    model = {"type": "BEiT", "backbone": backbone, "neck": None, "head": head, "target_generator": tokenizer}
    model = fill(build(model), file)
    _mm_save(model, file, {})

    def logits(given: Any) -> Any:
        (states,) = model.backbone(pixel_values, given)
        return model.head.cls_head(states[:, 1:])

    found.add(file, logits=logits(mask), logits_no_mask=logits(mask & False))

    file = "mmseg_segment"
    decode, auxiliary = _heads(HIDDEN)
    backbone = {
        "type": "BEiT",
        "img_size": (SIDE, SIDE),
        "patch_size": PATCH,
        "embed_dims": HIDDEN,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "mlp_ratio": MLP,
        "out_indices": (0, 1, 2, 3),
        "qv_bias": True,
        "drop_path_rate": 0.1,
        "norm_cfg": {"type": "LN", "eps": 1e-6},
        "init_values": 0.1,
    }
    neck = {
        "type": "Feature2Pyramid",
        "embed_dim": HIDDEN,
        "rescales": [4, 2, 1, 0.5],
        "norm_cfg": {"type": "BN", "requires_grad": True},
    }
    whole = {
        "type": "EncoderDecoder",
        "backbone": backbone,
        "neck": neck,
        "decode_head": decode,
        "auxiliary_head": auxiliary,
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }
    model = fill(mmseg.registry.MODELS.build(whole), file)
    _mm_save(model, file, {"dataset_meta": {"classes": NAMES, "palette": PALETTE}})
    features = model.extract_feat(pixel_values)
    found.add(file, logits=model.decode_head(features), auxiliary_logits=model.auxiliary_head(list(features)))
    found.write()


def main() -> None:
    warnings.simplefilter("ignore")
    FOLDER.mkdir(exist_ok=True)
    match sys.argv[1:]:
        case ["hf4"]:
            make_hf(_HF4)
        case ["hf5"]:
            make_hf(_HF5)
        case ["timm"]:
            make_timm()
        case ["unilm", checkout]:
            make_unilm(Path(checkout))
        case ["openmmlab"]:
            make_openmmlab()
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()

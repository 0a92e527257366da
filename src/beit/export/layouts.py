"""A model in memory names → a layout on disk: transformers' folder, the authors' file, timm's folder, Flax, OpenMMLab's file.

hf         folder: config.json, model.safetensors, preprocessor_config.json
flax       folder: the same with flax_model.msgpack, as transformers' Flax models wrote it
timm       folder: timm's config.json, model.safetensors; timm.create_model("local-dir:…") reads it
unilm      file: {"model": …}, for segmentation {"state_dict": …} with `backbone.`, as the authors saved
openmmlab  file: {"state_dict": …, "meta": …}, as mmpretrain and mmsegmentation 1.x save
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from beit.checkpoints import hub
from beit.checkpoints import names as weights
from beit.checkpoints.names import Dialect
from beit.checkpoints.write_weights import remove_other_weights, write_tensors, write_weights
from beit.config import BeitConfig
from beit.core import geometry
from beit.core.errors import CheckpointError, require
from beit.core.files import atomic_path, write_json

Layout = Literal["hf", "unilm", "timm", "flax", "openmmlab"]
Tensors = Mapping[str, np.ndarray]
FOLDERS = ("hf", "timm", "flax")
_THEIR_EPS = 1e-6  # in the code of the authors, timm and OpenMMLab
_TABLE = "relative_position_bias_table"


def write(
    destination: Path,
    to: Layout,
    memory: Tensors,
    config: BeitConfig,
    pixels: Mapping[str, Any] | None,
    extra: Tensors | None = None,
) -> list[str]:
    """Write a model, each file atomically.

    Args:
        destination: folder of `hf`, `timm` and `flax`; file of `unilm` and `openmmlab`.
        to: the layout.
        memory: tensors by their names in memory, with the `beit.` prefix.
        config: its settings; `architectures` names the class.
        pixels: settings of the image processor.
        extra: tensors that no model here has, by their names in this layout; `unilm` and `openmmlab` keep them.

    Returns:
        What this layout cannot say, in plain sentences.

    Raises:
        CheckpointError: the layout has no place for this model; or it could not be written.
    """
    if to in FOLDERS and destination.is_file():
        raise CheckpointError(f"{destination} is a file; {to} is a folder. Give another name.")
    if to not in FOLDERS and destination.is_dir():
        raise CheckpointError(f"{destination} is a folder; {to} is one file. Give another name.")
    architecture = (config.architectures or ["BeitModel"])[0]
    lost = _lost(to, config, pixels)
    if to in ("hf", "flax"):
        _write_folder(destination, to, memory, config, pixels, architecture)
    elif to == "timm":
        _write_timm(destination, memory, config, pixels or {}, architecture)
    else:
        dialect: Dialect = "unilm" if to == "unilm" else "openmmlab"
        _write_file(destination, dialect, memory, config, architecture, extra or {})
    return lost


def _write_folder(
    folder: Path, to: str, memory: Tensors, config: BeitConfig, pixels: Mapping[str, Any] | None, architecture: str
) -> None:
    bare = architecture in ("BeitModel", "BeitBackbone")
    disk = weights.to_disk({name.removeprefix("beit.") if bare else name: array for name, array in memory.items()})
    if to == "flax":
        from beit.checkpoints.msgpack import write_msgpack

        write_msgpack(folder / hub.MSGPACK, disk)
        remove_other_weights(folder, hub.MSGPACK)
    else:
        write_weights(folder, disk)
    config.save_pretrained(folder)
    if pixels is not None:
        from beit.data.processor import BeitImageProcessor

        BeitImageProcessor.from_dict(pixels).save_pretrained(folder)


def _write_file(
    path: Path, to: Dialect, memory: Tensors, config: BeitConfig, architecture: str, extra: Tensors
) -> None:
    torch = require("torch", "torch", f"writing {path.name}")
    disk = {**weights.to_disk(memory, to), **extra}
    segments = architecture == "BeitForSemanticSegmentation"
    index = geometry.relative_position_index(config.grid)
    tables = [name for name in disk if name.endswith(_TABLE)]
    disk |= {name.replace(_TABLE, "relative_position_index"): index for name in tables}  # their models want it
    if to == "unilm" and segments:
        of_head = ("decode_head.", "auxiliary_head.")
        disk = {name if name.startswith(of_head) else f"backbone.{name}": array for name, array in disk.items()}
    names = tuple(config.id2label[i] for i in range(config.num_labels))
    content: dict[str, Any] = {name: torch.from_numpy(np.array(array)) for name, array in disk.items()}
    if to == "openmmlab":
        content = {"state_dict": content, "meta": {"dataset_meta": {"classes": names}}}
    else:
        content = {"state_dict": content, "meta": {"CLASSES": names}} if segments else {"model": content}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # its zip writer's, when the disk is full
            raise OSError(errno.ENOSPC, "its writer stopped; is the disk full?") from error


def _write_timm(
    folder: Path, memory: Tensors, config: BeitConfig, pixels: Mapping[str, Any], architecture: str
) -> None:
    if architecture not in ("BeitForImageClassification", "BeitModel"):
        raise CheckpointError(
            f"timm has classifiers and encoders; this is a {architecture}. Convert it to hf or unilm, or fine-tune it first."
        )
    disk = weights.to_disk({name: array for name, array in memory.items() if not name.endswith("mask_token")}, "unilm")
    height, width = geometry.pair(config.image_size)
    classes = config.num_labels if "head.weight" in disk else 0
    size = "large" if config.num_hidden_layers > 12 else "base"
    edge = (pixels.get("size") or {}).get("shortest_edge") or (pixels.get("size") or {}).get("height") or height
    arguments = {
        "img_size": [height, width],
        "patch_size": list(geometry.pair(config.patch_size)),
        "in_chans": config.num_channels,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
        "use_abs_pos_emb": config.use_absolute_position_embeddings,
        "use_rel_pos_bias": config.use_relative_position_bias,
        "use_shared_rel_pos_bias": config.use_shared_relative_position_bias,
        "init_values": config.layer_scale_init_value or None,
        "global_pool": "avg" if config.use_mean_pooling else "token",
    }
    about: dict[str, Any] = {
        "architecture": f"beit_{size}_patch16_224",
        "num_classes": classes,
        "num_features": config.hidden_size,
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [config.num_channels, height, width],
            "fixed_input_size": True,
            "interpolation": "bilinear" if pixels.get("resample") == 2 else "bicubic",
            "crop_pct": min(height / edge, 1.0),
            "crop_mode": "center",
            "mean": list(pixels.get("image_mean") or (0.5, 0.5, 0.5)),
            "std": list(pixels.get("image_std") or (0.5, 0.5, 0.5)),
            "num_classes": classes,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    if classes:
        about["label_names"] = [config.id2label[i] for i in range(classes)]
    write_tensors(folder / hub.SAFETENSORS, disk)
    write_json(folder / "config.json", about)


def _lost(to: Layout, config: BeitConfig, pixels: Mapping[str, Any] | None) -> list[str]:
    lost = []
    if to not in ("hf", "flax") and config.layer_norm_eps != _THEIR_EPS:
        lost.append(
            f"Their code has the epsilon {_THEIR_EPS:g} in its layer norms, this model {config.layer_norm_eps:g}; results differ "
            "by about as much."
        )
    if to in ("unilm", "openmmlab"):
        mean = None if pixels is None else pixels.get("image_mean")
        here = f" (here: image_mean {mean})" if mean else ""
        lost.append(f"The file does not say how pixels are normalised{here}; tell its reader.")
    if to in ("hf", "flax") and config.segmentation_layers is not None:
        lost.append(
            f"transformers cannot read the layers {config.segmentation_layers} that this model's heads were trained on (it never "
            "reads the last), so its logits differ there; beit reads them."
        )
    if to in ("hf", "flax") and config.mask_keeps_position and config.use_absolute_position_embeddings:
        lost.append("transformers replaces the position of a masked patch too; its logits with a mask differ there.")
    return lost

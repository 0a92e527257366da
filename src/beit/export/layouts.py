"""A model → a layout on disk: transformers' folder, the authors' file, timm's folder, a Flax folder, OpenMMLab's file.

hf         folder: config.json, model.safetensors, preprocessor_config.json
flax       folder: the same with flax_model.msgpack, as transformers' Flax models wrote it
timm       folder: timm's config.json, model.safetensors; timm.create_model("local-dir:…") reads it
unilm      file: {"model": …}, for segmentation {"state_dict": …} with `backbone.`, as the authors saved
openmmlab  file: {"state_dict": …, "meta": …}, as mmpretrain and mmsegmentation 1.x save
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from beit.checkpoints import hub, names
from beit.checkpoints.dialects import DIALECTS, timm
from beit.checkpoints.dialects.dialect import Dialect
from beit.checkpoints.msgpack import write_msgpack
from beit.checkpoints.write_weights import remove_other_weights, write_tensors, write_weights
from beit.config import BeitConfig
from beit.core import geometry
from beit.core.errors import CheckpointError, require
from beit.core.files import write_json
from beit.core.text import printable
from beit.data.processor import BeitImageProcessor

Layout = Literal["hf", "unilm", "timm", "flax", "openmmlab"]
Tensors = Mapping[str, np.ndarray]
FOLDERS = ("hf", "timm", "flax")
_TABLE = "relative_position_bias_table"


def write(
    destination: Path,
    to: Layout,
    state_dict: Tensors,
    config: BeitConfig,
    pixels: Mapping[str, Any] | None,
    extra: Tensors | None = None,
) -> list[str]:
    """Write a model, each file atomically.

    Args:
        destination: a folder for `hf`, `timm` and `flax`; a file for `unilm` and `openmmlab`.
        to: the layout.
        state_dict: tensors by parameter name, with the `beit.` prefix.
        config: the model's settings; `architectures` names the class.
        pixels: settings of the image processor.
        extra: tensors that no model here has, by their names in this layout; `unilm` and `openmmlab` keep them.

    Returns:
        What this layout cannot express, one plain sentence each.

    Raises:
        CheckpointError: the layout has no place for this model; or it could not be written.
        MissingExtraError: the layout needs torch or msgpack, which is not installed.
    """
    if to in FOLDERS and destination.is_file():
        raise CheckpointError(f"{destination} is a file; {to} is a folder. Give another name.")
    if to not in FOLDERS and destination.is_dir():
        raise CheckpointError(f"{destination} is a folder; {to} is one file. Give another name.")
    architecture = (config.architectures or ["BeitModel"])[0]
    losses = [*_losses(to, config, pixels), *_unsaid(to, state_dict, config, pixels)]
    if to in ("hf", "flax"):
        _write_folder(destination, to, state_dict, config, pixels, architecture)
    elif to == "timm":
        _write_timm(destination, state_dict, config, pixels or {}, architecture)
    else:
        _write_file(destination, DIALECTS[to], state_dict, config, architecture, extra or {})
    return losses


def _write_folder(
    folder: Path, to: str, state_dict: Tensors, config: BeitConfig, pixels: Mapping[str, Any] | None, architecture: str
) -> None:
    bare = architecture in ("BeitModel", "BeitBackbone")
    disk = {name.removeprefix("beit.") if bare else name: array for name, array in state_dict.items()}
    if to == "flax":
        write_msgpack(folder / hub.MSGPACK, disk)
        remove_other_weights(folder, hub.MSGPACK)
    else:
        write_weights(folder, disk)
    config.save_pretrained(folder)
    if pixels is not None:
        BeitImageProcessor.from_dict(pixels).save_pretrained(folder)


def _write_file(
    path: Path, dialect: Dialect, state_dict: Tensors, config: BeitConfig, architecture: str, extra: Tensors
) -> None:
    require("torch", "torch", f"writing {path.name}")
    from beit.checkpoints.torch import write_pickle

    assert dialect.pack is not None
    disk = {**names.to_disk(state_dict, dialect.name), **extra}
    # Their models want the index beside each table, although it is computed from the grid.
    index = geometry.relative_position_index(config.grid)
    tables = [name for name in disk if name.endswith(_TABLE)]
    disk |= {name.replace(_TABLE, "relative_position_index"): index for name in tables}
    classes = tuple(config.class_names)
    write_pickle(path, dialect.pack(disk, architecture == "BeitForSemanticSegmentation", classes))


def _write_timm(
    folder: Path, state_dict: Tensors, config: BeitConfig, pixels: Mapping[str, Any], architecture: str
) -> None:
    if architecture not in ("BeitForImageClassification", "BeitModel"):
        raise CheckpointError(
            f"timm has classifiers and encoders; this is a {architecture}. Convert it to hf or unilm, or fine-tune it first."
        )
    kept = {name: array for name, array in state_dict.items() if not name.endswith("mask_token")}
    disk = names.to_disk(kept, "unilm")
    classes = config.class_names if "head.weight" in disk else None
    write_tensors(folder / hub.SAFETENSORS, disk)
    write_json(folder / "config.json", timm.config_json(config.to_dict(), pixels, classes))


def _losses(to: Layout, config: BeitConfig, pixels: Mapping[str, Any] | None) -> list[str]:
    losses = []
    theirs = DIALECTS["unilm" if to == "timm" else to].layer_norm_eps if to not in ("hf", "flax") else None
    if theirs is not None and config.layer_norm_eps != theirs:
        losses.append(
            f"Their code has the epsilon {theirs:g} in its layer norms, this model {config.layer_norm_eps:g}; results differ "
            "by about as much."
        )
    if to in ("unilm", "openmmlab"):
        mean = None if pixels is None else pixels.get("image_mean")
        here = f" (here: image_mean {mean})" if mean else ""
        losses.append(f"The file does not say how pixels are normalised{here}; tell its reader.")
    if to in ("hf", "flax") and config.segmentation_layers is not None:
        losses.append(
            f"transformers cannot read the layers {config.segmentation_layers} that this model's heads were trained on (it never "
            "reads the last), so its logits differ there; beit reads them."
        )
    if to in ("hf", "flax") and config.mask_keeps_position and config.use_absolute_position_embeddings:
        losses.append(
            "PyTorch's models of transformers replace the position of a masked patch too; their logits with a mask differ."
        )
    return losses


def _unsaid(to: Layout, state_dict: Tensors, config: BeitConfig, pixels: Mapping[str, Any] | None) -> list[str]:
    """What config.json and preprocessor_config.json say and a layout without them has no place for."""
    if to in ("hf", "flax"):
        return []
    unsaid = []
    segments = "decode_head.classifier.weight" in state_dict
    if (segments or "classifier.weight" in state_dict) and to == "unilm" and _named(config):
        first = ", ".join(f"{number} = {printable(name, 40)}" for number, name in enumerate(config.class_names[:3]))
        more = ", …" if config.num_labels > 3 else ""
        unsaid.append(
            f"The file has no place for the names of the {config.num_labels} classes ({first}{more}); keep config.json, or list them "
            "in a text file."
        )
    if "classifier.weight" in state_dict and config.problem_type not in (None, "single_label_classification"):
        unsaid.append(
            f"It does not say that this is a {config.problem_type}; its reader will take it for one class per image."
        )
    if config.hidden_act != "gelu":
        unsaid.append(f"Their code has the activation gelu, this model {config.hidden_act}; results differ.")
    if config.pad_to_patch:
        unsaid.append("It does not say that images are padded to whole patches (pad_to_patch).")
    if segments and config.semantic_loss_ignore_index != 255:
        unsaid.append(
            f"It does not say that {config.semantic_loss_ignore_index} in label maps means no label; 255 is common."
        )
    if segments and (pixels or {}).get("do_reduce_labels"):
        unsaid.append("It does not say that label maps count classes from 1 (do_reduce_labels); tell its reader.")
    if to == "timm" and any(name.endswith("mask_token") for name in state_dict):
        unsaid.append("timm's models have no mask token; it is left out, so the result cannot go on with pre-training.")
    return unsaid


def _named(config: BeitConfig) -> bool:
    """Whether the classes have names of their own."""
    return any(name not in (f"LABEL_{number}", str(number)) for number, name in enumerate(config.class_names))

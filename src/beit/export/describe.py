"""What a checkpoint holds, as plain values and as text, for `beit inspect`."""

from __future__ import annotations

from typing import Any

import numpy as np

from beit.checkpoints import Checkpoint, dialects, locate
from beit.checkpoints.read_pickle import AVERAGES
from beit.config import BeitConfig
from beit.core.errors import CheckpointError
from beit.core.notebook import html_table, one_line
from beit.models.parameters import shapes_of

_SHOWN = (
    "image_size patch_size num_channels hidden_size num_hidden_layers num_attention_heads intermediate_size num_labels "
    "vocab_size use_mask_token use_absolute_position_embeddings use_relative_position_bias use_shared_relative_position_bias "
    "use_mean_pooling layer_norm_eps layer_scale_init_value mask_keeps_position segmentation_layers"
).split()
_TASKS = {
    "BeitModel": "encoder without a head",
    "BeitBackbone": "encoder that gives feature maps",
    "BeitForMaskedImageModeling": "pre-trained: predicts visual tokens",
    "BeitForImageClassification": "classifier",
    "BeitForSemanticSegmentation": "semantic segmentation",
}


class Description(dict[str, Any]):
    """What a checkpoint holds: a dictionary that a prompt or a notebook shows in short."""

    def _rows(self) -> list[tuple[str, str]]:
        rows = [
            ("source", self["source"]),
            ("what", f"{self['class']}: {self['task']}"),
            ("parameters", f"{self['parameters'] / 1e6:.1f} million"),
            ("names of", self["names_of"]),
            ("format", self["format"]),
            ("published", self["published"] or "not in the catalogue"),
        ]
        rows += [(name, _value(value)) for name, value in self["settings"].items()]
        rows += [(f"guessed {guess['name']}", f"{_value(guess['value'])}: {guess['why']}") for guess in self["guessed"]]
        return rows

    def __repr__(self) -> str:
        return one_line("Description", self._rows())

    def _repr_html_(self) -> str:
        return html_table("Checkpoint", self._rows())


def describe(checkpoint: Checkpoint) -> Description:
    """Everything that `beit inspect` shows, as values that JSON can hold.

    Raises:
        CheckpointError: as `Checkpoint`.
    """
    config = BeitConfig.from_pretrained(checkpoint)
    state_dict = checkpoint.state_dict
    settings = {name: getattr(config, name) for name in _SHOWN}
    if "decode_head.classifier.weight" not in state_dict:
        del settings["segmentation_layers"], settings["num_labels"]
        if "classifier.weight" in state_dict:
            settings["num_labels"] = config.num_labels
    if "lm_head.weight" not in state_dict:
        del settings["vocab_size"]
    missing, extra = _against_model(checkpoint, config)
    guesses = [*checkpoint.guesses, *checkpoint.pixel_guesses]
    pixels = checkpoint.pixels
    entry = checkpoint.published
    names = config.class_names
    return Description(
        {
            "source": str(checkpoint.source),
            "files": [_about_file(path) for path in checkpoint.files],
            "format": checkpoint.format + (f", weights under {checkpoint.container!r}" if checkpoint.container else ""),
            "names_of": dialects.DIALECTS[checkpoint.dialect].project,
            "class": checkpoint.architecture,
            "task": _TASKS.get(checkpoint.architecture, "unknown"),
            "parameters": sum(array.size for array in state_dict.values()),
            "types": sorted({str(array.dtype) for array in state_dict.values()}),
            "grid": list(config.grid),
            "settings": settings,
            "classes": names
            if names != [f"LABEL_{i}" for i in range(len(names))] and "num_labels" in settings
            else None,
            "image_mean": pixels.get("image_mean"),
            "image_std": pixels.get("image_std"),
            "guessed": [{"name": name, "value": value, "why": why} for name, value, why in guesses],
            "missing": missing,
            "left_over": extra + checkpoint.left_over,
            "beside_the_weights": sorted(checkpoint.more),
            "averaged_weights": checkpoint.more.get(AVERAGES, []),
            "published": None if entry is None else entry.name,
        }
    )


def _about_file(path: Any) -> dict[str, Any]:
    try:
        digest, note = locate.check_hash(path, path.name), ""
    except CheckpointError as error:
        digest, note = locate.sha256(path), str(error)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest, "note": note}


def _against_model(checkpoint: Checkpoint, config: BeitConfig) -> tuple[list[str], list[str]]:
    """(parameters of the class that the file lacks or has in other shapes, tensors that the class does not use)."""
    wanted = shapes_of(config, checkpoint.architecture)
    state_dict = checkpoint.state_dict
    missing = [name for name in wanted if name not in state_dict]
    extra = [name for name in state_dict if name not in wanted and not name.endswith("num_batches_tracked")]
    wrong = [
        f"{name} (is {state_dict[name].shape}, wanted {wanted[name]})"
        for name in wanted
        if name in state_dict and tuple(state_dict[name].shape) != wanted[name]
    ]
    return missing + wrong, extra


def text_of(about: dict[str, Any]) -> str:
    """The result of `describe` as text."""
    size = sum(file["bytes"] for file in about["files"])
    lines = [
        f"{about['source']}",
        f"  what       {about['class']}: {about['task']}",
        f"  names of   {about['names_of']}",
        f"  format     {about['format']}; {_bytes(size)} in {len(about['files'])} file(s), {', '.join(about['types'])}",
        f"  size       {about['parameters'] / 1e6:.1f} million parameters",
        f"  published  {about['published'] or 'not in the catalogue'}",
    ]
    if about["averaged_weights"]:
        lines.append(f"  average    {', '.join(about['averaged_weights'])} beside the weights; --weights ema takes it")
    for file in about["files"]:
        lines.append(f"  sha256     {file['sha256']}  {file['name']}")
        lines += [f"  WARNING    {file['note']}"] if file["note"] else []
    lines += ["", "Settings"]
    lines += [f"  {name:34} {_value(value)}" for name, value in about["settings"].items()]
    lines.append(f"  {'patches':34} {about['grid'][0]}x{about['grid'][1]}")
    if about["image_mean"] is not None:
        lines.append(f"  {'image_mean, image_std':34} {_value(about['image_mean'])}, {_value(about['image_std'])}")
    if about["classes"]:
        shown = ", ".join(about["classes"][:6]) + (", …" if len(about["classes"]) > 6 else "")
        lines.append(f"  {'classes':34} {shown}")
    lines += ["", "Guessed, because no file and no tensor shows it" if about["guessed"] else "Nothing was guessed."]
    lines += [f"  {guess['name']:24} {_value(guess['value'])}: {guess['why']}" for guess in about["guessed"]]
    for title, names in (("Missing", about["missing"]), ("Left over", about["left_over"])):
        lines += ["", f"{title}: {len(names)} tensors" if names else f"{title}: nothing"]
        lines += [f"  {name}" for name in names[:12]] + (["  …"] if len(names) > 12 else [])
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "[" + ", ".join(_value(item) for item in value) + "]" if isinstance(value, list | tuple) else str(value)


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


def tensors_of(checkpoint: Checkpoint) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name in the file, type, shape) of every tensor."""
    return [(name, str(np.asarray(array).dtype), tuple(array.shape)) for name, array in checkpoint.tensors.items()]

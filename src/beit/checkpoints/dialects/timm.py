"""timm's config.json, both ways. Its tensors have the names of the authors' repository: see `unilm.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from beit.core import geometry
from beit.core.errors import CheckpointError

_HALF = (0.5, 0.5, 0.5)


def is_config(stated: Mapping[str, Any]) -> bool:
    """Whether a config.json is timm's."""
    return "architecture" in stated and "model_type" not in stated


def settings_in(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `BeitConfig` that timm's config.json states and no tensor shows: the number of heads, if at all."""
    arguments = stated.get("model_args")
    if isinstance(arguments, Mapping) and isinstance(arguments.get("num_heads"), int):
        return {"num_attention_heads": arguments["num_heads"]}
    return {}


def class_names(stated: Mapping[str, Any]) -> list[str]:
    """Names of the classes; none where it names none."""
    names = stated.get("label_names")
    return list(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def pixels_in(stated: Mapping[str, Any], image_size: geometry.Size) -> dict[str, Any]:
    """Settings of a `BeitImageProcessor` for timm's evaluation: shorter side to size / crop_pct, then the central square.

    Raises:
        CheckpointError: mean or std is not one number per channel.
    """
    pretrained = stated.get("pretrained_cfg")
    about: dict[str, Any] = {**stated, **pretrained} if isinstance(pretrained, Mapping) else dict(stated)
    height, width = geometry.pair(image_size)
    fraction = about.get("crop_pct")
    fraction = float(fraction) if isinstance(fraction, int | float) and 0.1 < fraction <= 1 else 0.875
    return {
        "size": {"shortest_edge": int(min(height, width) / fraction)},
        "crop_size": {"height": height, "width": width},
        "do_center_crop": True,
        "resample": 2 if about.get("interpolation") == "bilinear" else 3,
        "image_mean": _numbers(about.get("mean"), "mean"),
        "image_std": _numbers(about.get("std"), "std"),
    }


def _numbers(value: Any, name: str) -> list[float]:
    if value is None:
        return list(_HALF)
    if not isinstance(value, list | tuple) or not all(isinstance(x, int | float) and math.isfinite(x) for x in value):
        raise CheckpointError(f"timm's config.json has {name} {value!r:.60}; wanted one number per channel.")
    return [float(x) for x in value]


def config_json(
    settings: Mapping[str, Any], pixels: Mapping[str, Any], classes: Sequence[str] | None
) -> dict[str, Any]:
    """timm's config.json, from which `timm.create_model("local-dir:…")` builds the model.

    Args:
        settings: all fields of a `BeitConfig`.
        pixels: settings of the image processor; what is missing is timm's default.
        classes: names of the classes; None for a model without a classifier.
    """
    height, width = geometry.pair(settings["image_size"])
    size = "large" if settings["num_hidden_layers"] > 12 else "base"
    edge = (pixels.get("size") or {}).get("shortest_edge") or (pixels.get("size") or {}).get("height") or height
    arguments = {
        "img_size": [height, width],
        "patch_size": list(geometry.pair(settings["patch_size"])),
        "in_chans": settings["num_channels"],
        "embed_dim": settings["hidden_size"],
        "depth": settings["num_hidden_layers"],
        "num_heads": settings["num_attention_heads"],
        "mlp_ratio": settings["intermediate_size"] / settings["hidden_size"],
        "use_abs_pos_emb": settings["use_absolute_position_embeddings"],
        "use_rel_pos_bias": settings["use_relative_position_bias"],
        "use_shared_rel_pos_bias": settings["use_shared_relative_position_bias"],
        "init_values": settings["layer_scale_init_value"] or None,
        "global_pool": "avg" if settings["use_mean_pooling"] else "token",
    }
    count = 0 if classes is None else len(classes)
    about: dict[str, Any] = {
        "architecture": f"beit_{size}_patch16_224",
        "num_classes": count,
        "num_features": settings["hidden_size"],
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [settings["num_channels"], height, width],
            "fixed_input_size": True,
            "interpolation": "bilinear" if pixels.get("resample") == 2 else "bicubic",
            "crop_pct": min(height / edge, 1.0),
            "crop_mode": "center",
            "mean": list(pixels.get("image_mean") or _HALF),
            "std": list(pixels.get("image_std") or _HALF),
            "num_classes": count,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    if classes:
        about["label_names"] = list(classes)
    return about

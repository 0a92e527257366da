"""The settings that a weight file does not state: read off its tensors where they show, else guessed, and said so.

What a tensor shows is certain: sizes, depth, number of classes, patches, kind of positions, pooling. What no tensor shows is
reported as a `Guess` with its reason: the epsilon of layer norms, the number of heads of a model without relative-position
tables, how pixels are normalised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from beit.checkpoints import grids
from beit.checkpoints.dialects.dialect import Dialect
from beit.core import geometry
from beit.core.errors import CheckpointError

Tensors = Mapping[str, np.ndarray]
# Mean and standard deviation per channel of pixels in [0, 1].
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_MODEL_TYPES = ("beit", "data2vec-vision")  # the second is the reference's name for BEiT's network trained by data2vec
_LAYER = re.compile(r"beit\.encoder\.layer\.(\d+)\.")
_FIRST = "beit.encoder.layer.0."


class Guess(NamedTuple):
    """A setting that no tensor shows.

    Attributes:
        name: the field of `BeitConfig` or of the image processor.
        value: what was chosen.
        why: the reason, in plain words.
    """

    name: str
    value: Any
    why: str


_Guessing = Callable[[str, Any, str], None]


def check_model_type(values: Mapping[str, Any]) -> None:
    """Refuse the settings of another architecture.

    Raises:
        CheckpointError: `model_type` names one.
    """
    found = values.get("model_type", "beit")
    if found not in _MODEL_TYPES:
        raise CheckpointError(
            f"This is a checkpoint of another architecture: model_type is {found!r}; wanted 'beit' or 'data2vec-vision', which has "
            "the same network."
        )


def architecture_of(state_dict: Tensors) -> str:
    """The class whose parameters these are, by their names."""
    heads = {name.partition(".")[0] for name in state_dict}
    if "decode_head" in heads:
        return "BeitForSemanticSegmentation"
    if "lm_head" in heads:
        return "BeitForMaskedImageModeling"
    return "BeitForImageClassification" if "classifier" in heads else "BeitModel"


def authors_segmentation_layers(num_hidden_layers: int) -> list[int]:
    """The layers that the authors' segmentation heads see: a third, a half, two thirds and all of the depth."""
    return [max(round(num_hidden_layers * part), 1) for part in (1 / 3, 1 / 2, 2 / 3, 1)]


def settings_of(
    state_dict: Tensors, disk: Tensors, dialect: Dialect, source: str, given: Mapping[str, Any] = {}
) -> tuple[dict[str, Any], list[Guess]]:
    """Values of a `BeitConfig`, and which of them are guesses. Of the arrays only shapes are read.

    Args:
        state_dict: the tensors by parameter name.
        disk: the same by their names in the file, where a `relative_position_index` may stand beside them.
        dialect: whose file it is.
        source: the file, for messages.
        given: fields that the caller states; they are not guessed.

    Raises:
        CheckpointError: tensors are missing, have impossible shapes, or belong to something that is no BEiT.
    """
    guesses: list[Guess] = []

    def guess(name: str, value: Any, why: str) -> None:
        if name not in given:
            values[name] = value
            guesses.append(Guess(name, value, why))

    width, channels, *patch = _shape(state_dict, "beit.embeddings.patch_embeddings.projection.weight", 4, source)
    depth = _depth(state_dict, source)
    values: dict[str, Any] = {
        "architectures": [architecture_of(state_dict)],
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch[0] if patch[0] == patch[1] else tuple(patch),
        "num_hidden_layers": depth,
        "intermediate_size": _shape(state_dict, _FIRST + "intermediate.dense.weight", 2, source)[0],
        "use_mask_token": "beit.embeddings.mask_token" in state_dict,
        "use_absolute_position_embeddings": grids.POSITIONS in state_dict,
        "use_relative_position_bias": f"{_FIRST}attention.attention{grids.TABLE}" in state_dict,
        "use_shared_relative_position_bias": f"beit.encoder{grids.TABLE}" in state_dict,
        "use_mean_pooling": "beit.layernorm.weight" not in state_dict,
    }
    if "beit.layernorm.weight" in state_dict and "beit.pooler.layernorm.weight" in state_dict:
        raise CheckpointError(
            f"{source} has a norm after its last layer and another after pooling (OpenMMLab's final_norm with avg_featmap?). No "
            "BEiT has both, so no model here would compute what it computes."
        )
    _heads(values, state_dict, source, given, guess)
    _image_size(values, state_dict, disk, source, given, guess)

    if f"{_FIRST}lambda_1" in state_dict:
        start = 1e-5 if depth > 12 else 0.1
        why = f"the scales are learned; the authors initialise them with {start:g} at this depth"
        guess("layer_scale_init_value", start, why)
    else:
        values["layer_scale_init_value"] = 0.0
    if dialect.name == "hf":
        guess("layer_norm_eps", dialect.layer_norm_eps, "there is no config.json; transformers has 1e-12")
    else:
        why = f"no tensor shows it; the authors, timm and OpenMMLab have {dialect.layer_norm_eps:g}"
        guess("layer_norm_eps", dialect.layer_norm_eps, why)
    if dialect.mask_keeps_position and values["use_absolute_position_embeddings"] and values["use_mask_token"]:
        guess("mask_keeps_position", True, "the authors add positions after the mask token")
    if "lm_head.weight" in state_dict:
        values["vocab_size"] = tokens = _shape(state_dict, "lm_head.weight", 2, source)[0]
        if tokens == width and "vocab_size" not in given:
            why = "as many outputs as channels: data2vec predicts features, not tokens; beit.BeitModel loads the encoder alone"
            guesses.append(Guess("vocab_size", tokens, why))
    if "decode_head.classifier.weight" in state_dict:
        _segmentation(values, state_dict, source, guess)
    elif "classifier.weight" in state_dict:
        values["num_labels"] = _shape(state_dict, "classifier.weight", 2, source)[0]
    return values, guesses


def _heads(
    values: dict[str, Any], state_dict: Tensors, source: str, given: Mapping[str, Any], guess: _Guessing
) -> None:
    """The number of attention heads is the width of a relative-position table; without one, only a guess."""
    table = next((array for name, array in state_dict.items() if name.endswith(grids.TABLE)), None)
    if table is not None:
        if table.ndim != 2:
            raise CheckpointError(f"{source}: a relative-position table has shape {table.shape}; wanted two axes.")
        values["num_attention_heads"] = table.shape[1]
    elif "num_attention_heads" not in given:
        width = values["hidden_size"]
        if width % 64:
            raise CheckpointError(
                f"{source} has no relative-position table, so nothing shows how many heads share its {width} channels. Say it: "
                "num_attention_heads=…"
            )
        guess("num_attention_heads", width // 64, "no tensor shows it; published models have 64 channels per head")


def _image_size(
    values: dict[str, Any],
    state_dict: Tensors,
    disk: Tensors,
    source: str,
    given: Mapping[str, Any],
    guess: _Guessing,
) -> None:
    """The image size follows from the number of positions, if there are any."""
    absolute = values["use_absolute_position_embeddings"]
    has_tables = any(name.endswith(grids.TABLE) for name in state_dict)
    grid = grids.grid_of(state_dict, disk)
    if grid is not None:
        patch = geometry.pair(values["patch_size"])
        size = grid[0] * patch[0], grid[1] * patch[1]
        values["image_size"] = size[0] if size[0] == size[1] else size
        indexed = any(name.endswith("relative_position_index") for name in disk)
        if has_tables and not indexed and not absolute:
            why = "a square has a table of this length; if it is a rectangle's, pass image_size"
            guess("image_size", values["image_size"], why)
    elif "image_size" not in given:
        if absolute or has_tables:
            raise CheckpointError(
                f"{source} has positions of a grid that is not square, and nothing in it shows which. Say it: image_size=(height, width)."
            )
        guess("image_size", 224, "the model has no positions, so it takes images of any size")


def _segmentation(values: dict[str, Any], state_dict: Tensors, source: str, guess: _Guessing) -> None:
    number, channels, *_ = _shape(state_dict, "decode_head.classifier.weight", 4, source)
    if channels != values["hidden_size"]:
        raise CheckpointError(
            f"{source} has a segmentation head of {channels} channels on an encoder of {values['hidden_size']}; here, as in "
            "the authors' models, both numbers must be the same."
        )
    if "fpn1.3.weight" not in state_dict:
        raise CheckpointError(
            f"{source} has a feature pyramid of another form (the authors' for patches of 8 pixels?); wanted fpn1.0, fpn1.1, "
            "fpn1.3 and fpn2.0."
        )
    values["num_labels"] = number
    scales = sum(bool(re.fullmatch(r"decode_head\.psp_modules\.\d+\.1\.conv\.weight", name)) for name in state_dict)
    if scales == 4:
        guess("pool_scales", [1, 2, 3, 6], "no tensor shows it; UPerNet has these")
    else:
        why = f"no tensor shows which {scales} scales these are, and the outputs depend on them"
        guess("pool_scales", list(range(1, scales + 1)), why)
    values["use_auxiliary_head"] = "auxiliary_head.classifier.weight" in state_dict
    if values["use_auxiliary_head"]:
        values["auxiliary_channels"] = state_dict["auxiliary_head.classifier.weight"].shape[1]
        convs = [name for name in state_dict if re.fullmatch(r"auxiliary_head\.convs\.\d+\.conv\.weight", name)]
        values["auxiliary_num_convs"] = len(convs)
        values["auxiliary_concat_input"] = "auxiliary_head.conv_cat.conv.weight" in state_dict
    layers = authors_segmentation_layers(values["num_hidden_layers"])
    guess("segmentation_layers", layers, "no tensor shows it; the authors take these at this depth")
    guess("decode_dropout_prob", 0.1, "used in training only; the authors have this value")


def _shape(state_dict: Tensors, name: str, ndim: int, source: str) -> tuple[int, ...]:
    if name not in state_dict:
        raise CheckpointError(f"{source} lacks {name}. It is incomplete, or no BEiT.")
    shape = state_dict[name].shape
    if len(shape) != ndim or 0 in shape:
        raise CheckpointError(f"{source}: {name} has shape {shape}; wanted {ndim} axes. It is damaged, or no BEiT.")
    return shape


def _depth(state_dict: Tensors, source: str) -> int:
    numbers = {found[1] for name in state_dict if (found := _LAYER.match(name))}
    lost = next((i for i in range(len(numbers) + 1) if str(i) not in numbers), 0)
    if lost < len(numbers) or not numbers:
        raise CheckpointError(f"{source} lacks layer {lost} of {len(numbers) + 1} or more. It is incomplete.")
    return len(numbers)


def pixels_of(
    values: Mapping[str, Any], dialect: Dialect, more: Mapping[str, Any], published: str | None
) -> tuple[dict[str, Any], list[Guess]]:
    """How images are prepared for the model: settings of a `BeitImageProcessor`, and which are guesses.

    Args:
        values: settings of the model.
        dialect: whose file it is.
        more: what the file holds beside the weights; the authors save their command line as `args`.
        published: `half` or `imagenet` for a file of the catalogue, else None.
    """
    height, width = geometry.pair(values["image_size"])
    segments = values["architectures"] == ["BeitForSemanticSegmentation"]
    args = more.get("args")
    flag = args.get("imagenet_default_mean_and_std") if isinstance(args, Mapping) else None
    if published is not None:
        chosen, why = published, "the publisher's, by the name of the file"
    elif isinstance(flag, bool):
        chosen, why = ("imagenet" if flag else "half"), "args.imagenet_default_mean_and_std in the file"
    elif segments and dialect.segments_with == "imagenet":
        chosen, why = "imagenet", "no tensor shows it; the authors segment with ImageNet's"
    else:
        why = "no tensor shows it; BEiT and DiT have 0.5. BEiT v2 has ImageNet's: pass image_mean and image_std"
        chosen = "half"
    mean, std = IMAGENET if chosen == "imagenet" else HALF
    settings: dict[str, Any] = {
        "size": {"height": height, "width": width},
        "crop_size": {"height": height, "width": width},
        "do_center_crop": False,
        "resample": 3,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    guesses = [Guess("image_mean, image_std", chosen, why)]
    if segments:
        settings["resample"] = 2
        settings["do_reduce_labels"] = values.get("num_labels") == 150
        if settings["do_reduce_labels"]:
            guesses.append(
                Guess("do_reduce_labels", True, "150 classes are those of ADE20K, whose label maps begin at 1")
            )
    elif height == width:
        # The authors evaluate on the central 7/8 below 384 pixels, and on the whole square from there on.
        edge = int(height / 0.875) if height < 384 else height
        settings |= {"size": {"shortest_edge": edge}, "do_center_crop": True}
        guesses.append(Guess("size", edge, "no tensor shows it; the authors evaluate so"))
    return settings, guesses

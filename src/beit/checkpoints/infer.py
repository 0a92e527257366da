"""The settings that a weight file does not state: from its tensors where they show, else what its publisher used, and said.

What a tensor shows is certain: sizes, depth, classes, patches, which positions, how it pools. What none shows is named as
`Guess`, with the reason: epsilon, the number of heads without tables, how pixels are normalised.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from beit.checkpoints.names import Dialect
from beit.core import geometry
from beit.core.errors import CheckpointError, ConfigError

Tensors = Mapping[str, np.ndarray]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_SIDES = {"image_size": 224, "patch_size": 16}  # of a config.json that leaves them out: the defaults of `BeitConfig`
_MODEL_TYPES = ("beit", "data2vec-vision")  # the second is the reference's name for BEiT's network trained by data2vec
_LAYER = re.compile(r"beit\.encoder\.layers\.(\d+)\.")
_TABLE = ".relative_position.table"


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


def check_model_type(values: Mapping[str, Any]) -> None:
    """Refuse settings of another architecture.

    Raises:
        CheckpointError: they say that they are.
    """
    found = values.get("model_type", "beit")
    if found not in _MODEL_TYPES:
        raise CheckpointError(
            f"This is a checkpoint of another architecture: model_type is {found!r}, wanted 'beit' or 'data2vec-vision', which is "
            "the same."
        )


def grid_of_settings(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """Patches `(h, w)` of the `image_size` and `patch_size` in `values`; None where they are impossible."""
    sides = []
    for name, default in _SIDES.items():
        value = values.get(name, default)
        pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
        if len(pair) != 2 or not all(type(side) is int for side in pair):
            return None
        sides.append(pair)
    try:
        return geometry.patch_grid(*sides)
    except ConfigError:
        return None


def authors_segmentation_layers(num_hidden_layers: int) -> list[int]:
    """The layers that the authors' segmentation heads see: a third, a half, two thirds and all of the depth."""
    return [max(round(num_hidden_layers * part), 1) for part in (1 / 3, 1 / 2, 2 / 3, 1)]


def architecture_of(memory: Tensors) -> str:
    """The class that these tensors, by their names in memory, are those of."""
    heads = {name.partition(".")[0] for name in memory}
    if "decode_head" in heads:
        return "BeitForSemanticSegmentation"
    if "lm_head" in heads:
        return "BeitForMaskedImageModeling"
    return "BeitForImageClassification" if "classifier" in heads else "BeitModel"


def settings_of(
    memory: Tensors, raw: Tensors, dialect: Dialect, source: str, given: Mapping[str, Any] = {}
) -> tuple[dict[str, Any], list[Guess]]:
    """Values of a `BeitConfig`, and which of them are guesses.

    Args:
        memory: the tensors by their names in memory.
        raw: the same by their names in the file, with what is derived (`relative_position_index`).
        dialect: whose file it is.
        source: its name, for messages.
        given: fields that the caller states; they are not looked for.

    Raises:
        CheckpointError: tensors are missing, of impossible shapes, or those of something that BEiT is not.
    """
    guesses: list[Guess] = []

    def guess(name: str, value: Any, why: str) -> None:
        if name not in given:
            values[name] = value
            guesses.append(Guess(name, value, why))

    width, channels, *patch = _shape(memory, "beit.embeddings.patch.weight", 4, source)
    depth = _depth(memory, source)
    first = "beit.encoder.layers.0."
    values: dict[str, Any] = {
        "architectures": [architecture_of(memory)],
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch[0] if patch[0] == patch[1] else tuple(patch),
        "num_hidden_layers": depth,
        "intermediate_size": _shape(memory, first + "mlp.fc1.weight", 2, source)[0],
        "use_mask_token": "beit.embeddings.mask_token" in memory,
        "use_absolute_position_embeddings": "beit.embeddings.position" in memory,
        "use_relative_position_bias": f"{first}attn{_TABLE}" in memory,
        "use_shared_relative_position_bias": f"beit.encoder{_TABLE}" in memory,
        "use_mean_pooling": "beit.layernorm.weight" not in memory,
    }
    if "beit.layernorm.weight" in memory and "beit.pooler.layernorm.weight" in memory:
        raise CheckpointError(
            f"{source} has a norm after its last layer and another after pooling (OpenMMLab's final_norm with avg_featmap?). No "
            "BEiT has both, so none here could give its numbers."
        )
    tables = [array for name, array in memory.items() if name.endswith(_TABLE)]
    if tables:
        if tables[0].ndim != 2:
            raise CheckpointError(f"{source}: a relative-position table has shape {tables[0].shape}; wanted two axes.")
        values["num_attention_heads"] = tables[0].shape[1]
    elif "num_attention_heads" not in given:
        if width % 64:
            raise CheckpointError(
                f"{source} has no relative-position table, so nothing shows how many heads share its {width} channels. Say it: "
                "num_attention_heads=…"
            )
        guess("num_attention_heads", width // 64, "no tensor shows it; published models have 64 channels a head")
    grid = grid_of(memory, raw)
    if grid is not None:
        size = grid[0] * patch[0], grid[1] * patch[1]
        values["image_size"] = size[0] if size[0] == size[1] else size
        indexed = any(name.endswith("relative_position_index") for name in raw)
        if tables and not indexed and not values["use_absolute_position_embeddings"]:
            guess(
                "image_size",
                values["image_size"],
                "a table of this length is a square's; of a rectangle's, say image_size",
            )
    elif "image_size" not in given:
        if values["use_absolute_position_embeddings"] or tables:
            raise CheckpointError(
                f"{source} has positions of a grid that is not square, and nothing in it shows which. Say it: image_size=(height, width)."
            )
        guess("image_size", 224, "the model has no positions, so it takes any size")

    if f"{first}gamma1" in memory:
        start = 1e-5 if depth > 12 else 0.1
        guess(
            "layer_scale_init_value",
            start,
            f"its scales are learned; the authors start them at {start:g} at this depth",
        )
    else:
        values["layer_scale_init_value"] = 0.0
    if dialect == "hf":
        guess("layer_norm_eps", 1e-12, "no config.json; transformers has 1e-12")
    else:
        guess("layer_norm_eps", 1e-6, "no tensor shows it; the authors, timm and OpenMMLab have 1e-6")
        if values["use_absolute_position_embeddings"] and values["use_mask_token"]:
            guess("mask_keeps_position", True, "the authors add positions after the mask token")
    if "lm_head.weight" in memory:
        values["vocab_size"] = tokens = _shape(memory, "lm_head.weight", 2, source)[0]
        if tokens == width and "vocab_size" not in given:
            why = "as many outputs as channels: data2vec's are features, and no tokens; beit.BeitModel has the encoder alone"
            guesses.append(Guess("vocab_size", tokens, why))
    if "decode_head.classifier.weight" in memory:
        _segmentation(values, memory, source, guess)
    elif "classifier.weight" in memory:
        values["num_labels"] = _shape(memory, "classifier.weight", 2, source)[0]
    return values, guesses


def _segmentation(values: dict[str, Any], memory: Tensors, source: str, guess: Any) -> None:
    number, channels, *_ = _shape(memory, "decode_head.classifier.weight", 4, source)
    if channels != values["hidden_size"]:
        raise CheckpointError(
            f"{source} has a segmentation head of {channels} channels on an encoder of {values['hidden_size']}; here, as in "
            "the authors' models, they are the same."
        )
    if "fpn1.3.weight" not in memory:
        raise CheckpointError(
            f"{source} has a feature pyramid of another form (the authors' for patches of 8 pixels?); wanted fpn1.0, fpn1.1, "
            "fpn1.3 and fpn2.0."
        )
    values["num_labels"] = number
    scales = sum(bool(re.fullmatch(r"decode_head\.psp_modules\.\d+\.1\.conv\.weight", name)) for name in memory)
    if scales == 4:
        guess("pool_scales", [1, 2, 3, 6], "no tensor shows it; UPerNet's own")
    else:
        guess(
            "pool_scales", list(range(1, scales + 1)), f"no tensor shows which {scales} scales; they decide the numbers"
        )
    values["use_auxiliary_head"] = "auxiliary_head.classifier.weight" in memory
    if values["use_auxiliary_head"]:
        values["auxiliary_channels"] = memory["auxiliary_head.classifier.weight"].shape[1]
        convs = [name for name in memory if re.fullmatch(r"auxiliary_head\.convs\.\d+\.conv\.weight", name)]
        values["auxiliary_num_convs"] = len(convs)
        values["auxiliary_concat_input"] = "auxiliary_head.conv_cat.conv.weight" in memory
    layers = authors_segmentation_layers(values["num_hidden_layers"])
    guess("segmentation_layers", layers, "no tensor shows it; the authors' for this depth")
    guess("decode_dropout_prob", 0.1, "only training uses it; the authors'")


def _shape(memory: Tensors, name: str, ndim: int, source: str) -> tuple[int, ...]:
    if name not in memory:
        raise CheckpointError(f"{source} lacks {name}. It is incomplete, or no BEiT.")
    shape = memory[name].shape
    if len(shape) != ndim or 0 in shape:
        raise CheckpointError(f"{source}: {name} has shape {shape}; wanted {ndim} axes. It is damaged, or no BEiT.")
    return shape


def _depth(memory: Tensors, source: str) -> int:
    numbers = {found[1] for name in memory if (found := _LAYER.match(name))}
    lost = next((i for i in range(len(numbers) + 1) if str(i) not in numbers), 0)
    if lost < len(numbers) or not numbers:
        raise CheckpointError(f"{source} lacks layer {lost} of {len(numbers) + 1} or more. It is incomplete.")
    return len(numbers)


def fits(grid: tuple[int, int], memory: Tensors) -> bool:
    """Whether all positions are of so many as this grid has."""
    position = memory.get("beit.embeddings.position")
    tables = [array for name, array in memory.items() if name.endswith(_TABLE)]
    rows = geometry.num_relative_distances(grid)
    return (position is None or position.shape[1:2] == (1 + grid[0] * grid[1],)) and all(
        len(table) == rows for table in tables if table.ndim
    )


def grid_of(memory: Tensors, raw: Tensors) -> tuple[int, int] | None:
    """Patches `(h, w)` that the positions belong to; None without positions, or where they may be several rectangles."""
    tables = [array for name, array in memory.items() if name.endswith(_TABLE) and array.ndim == 2]
    position = memory.get("beit.embeddings.position")
    patches = None
    if position is not None and position.ndim == 3:
        patches = position.shape[1] - 1
    index = next((array for name, array in raw.items() if name.endswith("relative_position_index")), None)
    if index is not None and index.ndim == 2 and len(index) > 2 and index.shape[0] == index.shape[1]:
        patches = len(index) - 1
        width = _width_of(index)
        if width and patches % width == 0:
            return patches // width, width
    if tables:
        rows = len(tables[0]) - 3
        side = math.isqrt(max(rows, 0))
        if side * side == rows and side % 2 == 1 and patches in (None, ((side + 1) // 2) ** 2):
            return (side + 1) // 2, (side + 1) // 2
        return None
    if patches is not None and math.isqrt(patches) ** 2 == patches:
        return (math.isqrt(patches),) * 2
    return None


def _width_of(index: np.ndarray) -> int:
    """w of a `relative_position_index`: from one key to the next its first row falls by 1 within a row of patches."""
    steps = np.diff(index[1, 1:])
    breaks = np.flatnonzero(steps != -1)
    width = int(breaks[0]) + 1 if len(breaks) else len(index) - 1
    height = (len(index) - 1) // width
    if height * width != len(index) - 1 or not np.array_equal(index, geometry.relative_position_index((height, width))):
        return 0  # of another layout, or damaged
    return width


def pixels_of(
    values: Mapping[str, Any], dialect: Dialect, more: Mapping[str, Any], known: str | None
) -> tuple[dict[str, Any], list[Guess]]:
    """How images come to the model: settings of `BeitImageProcessor`, and which are guesses.

    Args:
        values: settings of the model.
        dialect: whose file it is.
        more: what else the file holds: the authors' `args`.
        known: `half` or `imagenet`, where the file is a published one whose normalisation is known.
    """
    height, width = geometry.pair(values["image_size"])
    segments = values["architectures"] == ["BeitForSemanticSegmentation"]
    args = more.get("args")
    flag = args.get("imagenet_default_mean_and_std") if isinstance(args, Mapping) else None
    if known is not None:
        chosen, why = known, "the publisher's, by the name of the file"
    elif isinstance(flag, bool):
        chosen, why = ("imagenet" if flag else "half"), "args.imagenet_default_mean_and_std in the file"
    elif segments and dialect != "hf":
        chosen, why = "imagenet", "no tensor shows it; the authors segment with ImageNet's"
    else:
        chosen, why = (
            "half",
            "no tensor shows it; 0.5 in BEiT and DiT. BEiT v2 has ImageNet's: say image_mean and image_std",
        )
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
            guesses.append(Guess("do_reduce_labels", True, "150 classes are ADE20K's, whose maps count from 1"))
    elif height == width:
        # The authors' evaluation: the middle 7/8 below 384 pixels, the whole square from there on.
        edge = int(height / 0.875) if height < 384 else height
        settings |= {"size": {"shortest_edge": edge}, "do_center_crop": True}
        guesses.append(Guess("size", edge, "no tensor shows it; the authors' evaluation"))
    return settings, guesses

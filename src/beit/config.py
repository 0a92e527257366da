"""`BeitConfig`: the architecture that weights belong to. Fields, defaults and config.json are those of transformers 4.37.2."""

from __future__ import annotations

import copy
import difflib
import inspect
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from beit.checkpoints import Checkpoint, Source, hub, infer, keywords
from beit.checkpoints.config_json import (
    BOOKKEEPING,
    ConfigJson,
    check_json,
    dtype_name,
    settings_in,
)
from beit.checkpoints.labels import Labels, as_labels, inverse_of, warn_of_gaps, without_gaps_of_imagenet_22k
from beit.core import geometry
from beit.core.errors import CheckpointError, ConfigError
from beit.core.files import write_json

CONFIG_FILE = "config.json"
ACTIVATIONS = (
    *("gelu", "relu", "selu", "gelu_new", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_python", "gelu_pytorch_tanh"),
    *("laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh"),
)

# The sizes of the paper (table 10), and two of our own for small images and small data.
PRESETS: dict[str, dict[str, Any]] = {
    "base": {"layer_scale_init_value": 0.1},
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "layer_scale_init_value": 1e-5,
    },
    # For few images of 28 or 32 pixels. Initial weights grow as 1/sqrt(width), from the paper's .02 at 768: with .02 a network
    # trained from scratch is 4 points worse at this width. It has absolute positions besides the relative ones, because a small
    # model learns too slowly from relative ones alone.
    "tiny": {
        "hidden_size": 128,
        "initializer_range": 0.05,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "image_size": 28,
        "patch_size": 4,
        "vocab_size": 128,
        "use_absolute_position_embeddings": True,
        "mask_keeps_position": True,
    },
    # For tens of thousands of images of 64 to 128 pixels.
    "small": {
        "hidden_size": 384,
        "initializer_range": 0.03,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
        "image_size": 96,
        "patch_size": 8,
        "vocab_size": 1024,
        "use_absolute_position_embeddings": True,
        "mask_keeps_position": True,
    },
}

_FLOATS = [
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "layer_scale_init_value",
    "drop_path_rate",
    "auxiliary_loss_weight",
    "decode_dropout_prob",
]


def _without_default_stage(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Drop `out_indices` and `out_features` from `values` where `changes` would contradict them.

    They are dropped where they are the default, the last stage, because `changes` may change the depth; and where `changes`
    has one of the two, because the other follows from it.
    """
    last = values.get("num_hidden_layers", BeitConfig.num_hidden_layers)
    default = values.get("out_indices") in (None, [last]) and values.get("out_features") in (None, [f"stage{last}"])
    chosen = changes.get("out_indices") is not None or changes.get("out_features") is not None
    dropped = ("out_indices", "out_features") if default or chosen else ()
    return {name: value for name, value in values.items() if name not in dropped}


def _as_pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


def _as_float(value: Any) -> Any:
    return float(value) if type(value) is int else value  # transformers 5 refuses a config.json that has 0 for 0.0


# What a value becomes when a field is set, at construction or later.
_FORMS: dict[str, Callable[[Any], Any]] = {
    "id2label": as_labels,
    "image_size": _as_pair,
    "patch_size": _as_pair,
    **dict.fromkeys(_FLOATS, _as_float),
}


@dataclass(init=False, eq=True, repr=False)
class BeitConfig(Labels, ConfigJson):
    """Architecture of a BEiT model.

    Defaults, and the order of arguments, are those of the reference's `BeitConfig()`. Unknown keywords are kept as attributes
    and in `to_dict()`, so that fields of other libraries survive; a warning names the nearest known field, in case of a
    misspelling. Keywords that say how to load (`token`, `device_map`, …) are left out with a warning: config.json is public.

    Attributes can be set later. `out_indices` and `out_features` follow each other, `label2id` follows `id2label` until it is
    changed itself, and an attribute that is no field is saved like one. Values are checked when a model is built from the
    config and when it is saved.

    Attributes:
        vocab_size: number of different visual tokens, which pre-training predicts.
        hidden_size: width of the encoder, C.
        num_hidden_layers: number of transformer layers.
        num_attention_heads: number of heads in each attention; must divide `hidden_size`.
        intermediate_size: width of the hidden layer in each MLP.
        hidden_act: `gelu`, `relu`, `selu`, `gelu_new` (tanh approximation), or a function of one tensor.
        hidden_dropout_prob: dropout after the embeddings, the attention's output and the MLP's output, in [0, 1).
        attention_probs_dropout_prob: dropout of the attention weights, in [0, 1).
        initializer_range: standard deviation of the initial weights.
        layer_norm_eps: epsilon of layer norms.
        image_size: height and width of images in pixels; an int or `(height, width)`.
        patch_size: height and width of patches in pixels; must divide `image_size`.
        num_channels: number of channels of an image.
        use_mask_token: whether the model has a mask token, which masked image modelling needs.
        use_absolute_position_embeddings: add one learned vector per position to the patches.
        use_relative_position_bias: have a relative-position table in every layer.
        use_shared_relative_position_bias: have one relative-position table for all layers, as in pre-training.
        layer_scale_init_value: initial scale of each residual branch (.1 base, 1e-5 large); 0 for no layer scale.
        drop_path_rate: drop path (stochastic depth) of the last layer, rising linearly from 0 in the first, in [0, 1).
        use_mean_pooling: pool by the mean of the patches (True) or take the cls token (False).
        pool_scales: sides of the grids that the segmentation head pools to (pyramid pooling).
        use_auxiliary_head: whether segmentation is trained with an auxiliary head.
        auxiliary_loss_weight: weight of the auxiliary head's loss.
        auxiliary_channels: width of the auxiliary head.
        auxiliary_num_convs: number of convolutions of the auxiliary head.
        auxiliary_concat_input: whether the auxiliary head gets its input once more before its classifier.
        semantic_loss_ignore_index: label of pixels that segmentation ignores.
        out_features: names of the stages that the backbone returns (`stem`, `stage1`, …), in the order of the stages.
        out_indices: the same stages by number (0 is the stem, the embeddings). Each of the two follows from the other; without
            both, it is the last stage. For segmentation see `segmentation_layers`.
        add_fpn: whether the backbone adds a feature pyramid, which needs four stages.
        reshape_hidden_states: whether the backbone returns `(B, C, h, w)` maps (True) or `(B, 1+N, C)` tokens.
        mask_keeps_position: whether a masked patch is the mask token plus its absolute position, as in the authors' code
            (True), or the mask token alone (False). None, the default, means what the reference does: the mask token alone in
            PyTorch, with its position in Flax. Without its position, and without relative positions, a masked patch does not
            know where it lies, so models that `beit` trains set it to True. config.json has it only where it is not None.
        pad_to_patch: whether images whose sides are no multiples of the patch are padded with zeros (the mean colour after
            normalisation), below and on the right, to the next multiple; False refuses them. The model then sees the padded
            image: masks and feature maps have its grid, segmentation logits cover all of it (crop them before you resize them
            to the original image), and mean pooling includes the padded patches.
        segmentation_layers: the four layers whose outputs the segmentation heads see, counted from 1 (0 is the embeddings).
            New models take the authors' choice, 4, 6, 8, 12 of 12 (`authors_segmentation_layers`). If this is None and
            `out_indices` is given, as in folders of the reference, it is what the reference computes from them: one less than
            each index, so 2, 4, 6, 10 from 3, 5, 7, 11. The last two layers are unused there.
        decode_dropout_prob: dropout of whole channels before the classifiers of segmentation, in training, in [0, 1). The
            authors have .1, the reference has none.
        id2label: class number → name; its length is the number of classes. Default: LABEL_0, LABEL_1. Numbers may have gaps:
            see `class_names`.
        problem_type: `regression`, `single_label_classification`, `multi_label_classification`, or None to decide by the type
            of the labels.
        output_attentions: default of the argument of the same name.
        output_hidden_states: default of the argument of the same name.
        return_dict: default of the argument of the same name.

    Raises:
        ConfigError: a value is impossible; the message says what to choose.
    """

    vocab_size: int = 8192
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str | Callable[[Any], Any] = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 16
    num_channels: int = 3
    use_mask_token: bool = False
    use_absolute_position_embeddings: bool = False
    use_relative_position_bias: bool = False
    use_shared_relative_position_bias: bool = False
    layer_scale_init_value: float = 0.1
    drop_path_rate: float = 0.1
    use_mean_pooling: bool = True
    pool_scales: list[int] = field(default_factory=lambda: [1, 2, 3, 6])
    use_auxiliary_head: bool = True
    auxiliary_loss_weight: float = 0.4
    auxiliary_channels: int = 256
    auxiliary_num_convs: int = 1
    auxiliary_concat_input: bool = False
    semantic_loss_ignore_index: int = 255
    out_features: list[str] | None = None
    out_indices: list[int] | None = None
    add_fpn: bool = False
    reshape_hidden_states: bool = True
    mask_keeps_position: bool | None = None
    pad_to_patch: bool = False
    segmentation_layers: list[int] | None = None
    decode_dropout_prob: float = 0.0
    id2label: dict[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    problem_type: str | None = None
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True
    architectures: list[str] | None = None

    model_type: ClassVar[str] = "beit"

    def __init__(self, *positional: Any, **given: Any) -> None:
        given = self._named(positional, given)
        self.__dict__["extra"] = {}
        num_labels, label2id = given.pop("num_labels", None), given.pop("label2id", None)
        for name in ("model_type", "stage_names"):  # follow from the class and the depth
            given.pop(name, None)
        if "segmentation_indices" in given:
            keywords.warn("segmentation_indices is deprecated: use out_indices", FutureWarning)
            given["out_indices"] = given.pop("segmentation_indices")
        keywords.check_attention(given.pop("attn_implementation", None))
        if given.get("id2label") is None:
            given.pop("id2label", None)
            names = inverse_of(label2id) if isinstance(label2id, Mapping) else None
            if names and num_labels in (None, len(names)):
                given["id2label"] = names
        id2label_given = "id2label" in given
        for item in fields(self):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            value = given.pop(item.name, default)
            self.__dict__[item.name] = _FORMS[item.name](value) if item.name in _FORMS else value
        if num_labels is not None and num_labels != len(self.id2label):
            if id2label_given:
                raise ConfigError(f"num_labels is {num_labels}, but id2label names {len(self.id2label)} classes.")
            self.num_labels = num_labels
        if label2id is not None:
            self.label2id = label2id
        if "name_or_path" in given:
            given["_name_or_path"] = str(given.pop("name_or_path"))
        self.__dict__["extra"] = keywords.without_loader(given, "BeitConfig", BOOKKEEPING)
        for name in ("torch_dtype", "dtype"):
            if name in self.extra:
                self.extra[name] = dtype_name(self.extra[name])
        self._warn_of_unknown()
        self.validate()
        self.__dict__["out_features"], self.__dict__["out_indices"] = self.stages()
        warn_of_gaps(self.id2label)

    def _named(self, positional: Sequence[Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name; positional ones are in the order of the reference. Raises TypeError."""
        names = [item.name for item in fields(self)][:_POSITIONAL]
        if len(positional) > len(names):
            raise TypeError(
                f"BeitConfig takes {len(names)} positional arguments; got {len(positional)}. Name the others."
            )
        twice = sorted(set(names[: len(positional)]) & set(given))
        if twice:
            raise TypeError(f"BeitConfig got {twice[0]} twice, by position and by name.")
        return {**dict(zip(names, positional, strict=False)), **given}

    def _warn_of_unknown(self) -> None:
        for name in self.extra:
            if name not in BOOKKEEPING and not name.startswith("_"):
                hint = self._nearest(name, cutoff=0.6)
                keywords.warn(f"BeitConfig has no field {name}; it is kept, but has no effect.{hint}")

    def _nearest(self, name: str, cutoff: float) -> str:
        near = difflib.get_close_matches(name, self._field_names(), n=1, cutoff=cutoff)
        return f" Did you mean {near[0]}?" if near else ""

    @classmethod
    def _field_names(cls) -> list[str]:
        return [*(item.name for item in fields(cls)), "num_labels", "label2id"]

    # --- attributes ------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("out_features", "out_indices"):
            self._set_stages(name, value)
        elif name == "num_hidden_layers":
            self._set_depth(value)
        else:
            super().__setattr__(name, _FORMS[name](value) if name in _FORMS else value)

    def _is_field(self, name: str) -> bool:
        return name in self.__dataclass_fields__

    def _set_stages(self, name: str, value: Any) -> None:
        """Set `out_features` or `out_indices`; the other follows. Raises ConfigError, and changes nothing then."""
        old = self.out_features, self.out_indices
        self.__dict__.update({"out_features": None, "out_indices": None, name: value})
        try:
            self.__dict__["out_features"], self.__dict__["out_indices"] = self.stages()
        except ConfigError:
            self.__dict__["out_features"], self.__dict__["out_indices"] = old
            raise

    def _set_depth(self, value: Any) -> None:
        """Set the number of layers. Where the stages are the default, the last one, they stay the last one."""
        default = self.out_indices == [self.num_hidden_layers]
        self.__dict__["num_hidden_layers"] = value
        if default and type(value) is int:
            self.__dict__["out_features"], self.__dict__["out_indices"] = [self.stage_names[-1]], [value]

    # --- validation ------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check every value; called at construction.

        Raises:
            ConfigError: a value is impossible, or two contradict each other.
        """
        self._validate_sizes()
        self._validate_numbers()
        self.stages()
        self._validate_segmentation()

    def _validate_sizes(self) -> None:
        for name in (
            "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size num_channels "
            "auxiliary_channels"
        ).split():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least 1.")
            if value > 1_000_000:  # most likely from a damaged file; building such a model would never finish
                raise ConfigError(f"{name} is {value}; it must be at most 1,000,000.")
        if self.num_hidden_layers > 1000:
            raise ConfigError(f"num_hidden_layers is {self.num_hidden_layers}; it must be at most 1,000.")
        if self.hidden_size % self.num_attention_heads:
            near = round(self.hidden_size / self.num_attention_heads) * self.num_attention_heads
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}. "
                f"Choose for example hidden_size {max(near, self.num_attention_heads)}."
            )
        for name in ("image_size", "patch_size"):
            value = getattr(self, name)
            sides = value if isinstance(value, tuple) else (value, value)
            if len(sides) != 2 or not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides):
                raise ConfigError(f"{name} is {value!r}; it must be a number of pixels, or (height, width).")
        grid = geometry.patch_grid(self.image_size, self.patch_size)
        if grid[0] * grid[1] > 1_000_000:
            raise ConfigError(
                f"image_size {self.image_size} has {grid[0]}x{grid[1]} patches; attention compares all pairs of them, so at most "
                "1,000,000 are allowed. Choose smaller images or larger patches."
            )

    def _validate_numbers(self) -> None:
        if not callable(self.hidden_act) and self.hidden_act not in ACTIVATIONS:
            raise ConfigError(f"Unknown activation {self.hidden_act!r}. Choose from {', '.join(ACTIVATIONS)}.")
        for name in _FLOATS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"{name} is {value!r}; it must be a number.")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "decode_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie in [0, 1).")
        for name in ("initializer_range", "layer_scale_init_value"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if self.layer_norm_eps <= 0:
            raise ConfigError(f"layer_norm_eps is {self.layer_norm_eps}; it must be above 0 (the reference: 1e-12).")
        problems = (None, "regression", "single_label_classification", "multi_label_classification")
        if self.problem_type not in problems:
            raise ConfigError(f"Unknown problem_type {self.problem_type!r}. Choose from {', '.join(problems[1:])}.")
        if self.mask_keeps_position not in (None, False, True):
            raise ConfigError(f"mask_keeps_position is {self.mask_keeps_position!r}; choose True, False or None.")
        ignore = self.semantic_loss_ignore_index
        if type(ignore) is not int:
            raise ConfigError(f"semantic_loss_ignore_index is {ignore!r}; it must be a whole number, such as 255.")

    def _validate_segmentation(self) -> None:
        for name, low in (("pool_scales", 1), ("segmentation_layers", 0)):
            value = getattr(self, name)
            whole = isinstance(value, list | tuple) and all(type(n) is int and n >= low for n in value)
            if not (value is None and name == "segmentation_layers") and not (whole and value):
                raise ConfigError(f"{name} is {value!r}; it must be a list of whole numbers of at least {low}.")
        layers = self.segmentation_layers
        if layers is not None and (
            len(layers) != 4 or list(layers) != sorted(layers) or layers[-1] > self.num_hidden_layers
        ):
            raise ConfigError(
                f"segmentation_layers is {layers}; wanted four rising numbers of layers, 1 to {self.num_hidden_layers} (0: the "
                f"embeddings). The authors' for this depth: {self.authors_segmentation_layers(self.num_hidden_layers)}."
            )
        if type(self.auxiliary_num_convs) is not int or self.auxiliary_num_convs < 0:
            raise ConfigError(
                f"auxiliary_num_convs is {self.auxiliary_num_convs!r}; it must be a whole number from 0 on."
            )

    # --- derived ---------------------------------------------------------------------------------------------------

    @property
    def grid(self) -> tuple[int, int]:
        """Patches `(h, w)` of an image of `image_size`."""
        return geometry.patch_grid(self.image_size, self.patch_size)

    def grid_of(self, size: Sequence[int]) -> tuple[int, int]:
        """Patches `(h, w)` of an image of `size` (height, width) in pixels; an incomplete patch counts, see `pad_to_patch`."""
        patch = geometry.pair(self.patch_size)
        return -(-size[0] // patch[0]), -(-size[1] // patch[1])

    @property
    def num_patches(self) -> int:
        """Number of patches of an image of `image_size`, h·w."""
        return self.grid[0] * self.grid[1]

    @property
    def use_return_dict(self) -> bool:
        """`return_dict`, unless a file or script sets the reference's `torchscript`."""
        return self.return_dict and not self.torchscript

    @property
    def stage_names(self) -> list[str]:
        """Names of what the backbone can return: the embeddings (`stem`) and the output of each layer."""
        return ["stem"] + [f"stage{number}" for number in range(1, self.num_hidden_layers + 1)]

    def stages(self) -> tuple[list[str], list[int]]:
        """`out_features` and `out_indices` in agreement: one is derived from the other; without both, the last stage.

        Raises:
            ConfigError: a stage does not exist, occurs twice or out of order, or the two contradict each other.
        """
        names, features, indices = self.stage_names, self.out_features, self.out_indices
        if features is None and indices is None:
            return names[-1:], [len(names) - 1]
        known = f"The stages are stem and stage1 to {names[-1]}, in this order and each once (by number: 0 to {len(names) - 1})."
        chosen = None
        if features is not None:
            if not isinstance(features, list | tuple) or not set(features) <= set(names):
                raise ConfigError(f"out_features is {features!r}. {known}")
            chosen = [names.index(name) for name in features]
        if indices is not None:
            if not isinstance(indices, list | tuple) or not all(
                type(i) is int and -len(names) <= i < len(names) for i in indices
            ):
                raise ConfigError(f"out_indices is {indices!r}. {known}")
            numbers = [i % len(names) for i in indices]
            if chosen is not None and chosen != numbers:
                raise ConfigError(f"out_features {features} and out_indices {indices} are not the same stages. {known}")
            chosen = numbers
        assert chosen is not None
        if not chosen or chosen != sorted(set(chosen)):
            raise ConfigError(f"out_features is {features}, out_indices {indices}. {known}")
        return [names[i] for i in chosen], chosen if indices is None else list(indices)

    @staticmethod
    def authors_segmentation_layers(num_hidden_layers: int) -> list[int]:
        """A third, a half, two thirds and all of the depth: 4, 6, 8, 12 and 8, 12, 16, 24 in the authors' models."""
        return infer.authors_segmentation_layers(num_hidden_layers)

    def tapped_layers(self) -> list[int]:
        """The four layers that the segmentation heads see, counted from 1: see `segmentation_layers`.

        Raises:
            ConfigError: `out_indices` are not four, or begin with 0, the embeddings, which have no layer before them.
        """
        if self.segmentation_layers is not None:
            return list(self.segmentation_layers)
        if self.stages()[1] == [
            self.num_hidden_layers
        ]:  # the default, which the reference writes into every config.json
            return self.authors_segmentation_layers(self.num_hidden_layers)
        numbers = [i % len(self.stage_names) for i in self.stages()[1]]
        if len(numbers) != 4 or 0 in numbers:
            raise ConfigError(
                f"Segmentation needs four layers: out_indices (or out_features) is {numbers}. Give four of them above 0, such "
                "as [3, 5, 7, 11] for 12 layers, or name the layers themselves in segmentation_layers."
            )
        return [number - 1 for number in numbers]

    # --- presets and files -----------------------------------------------------------------------------------------

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> BeitConfig:
        """A size by name: `base` and `large` of the paper, `small` and `tiny` for small images and small data.

        Raises:
            ConfigError: there is no such preset.
        """
        if name not in PRESETS:
            raise ConfigError(f"Unknown preset {name!r}. Choose from {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    def replace(self, **changes: Any) -> BeitConfig:
        """A copy with other values, validated. Names that are no fields are warned of and left out.

        Raises:
            ConfigError: a value is impossible.
        """
        values = self.to_dict()
        values["hidden_act"] = self.hidden_act
        changes = self._known(changes, values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unknown fields were warned of when `self` was made
            other = self._changed(values, changes)
        if "_source" in self.__dict__:
            other.__dict__["_source"] = self.__dict__["_source"]
        return other

    @classmethod
    def _known(cls, changes: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `changes` that are fields; a warning names the others."""
        unknown = [name for name in changes if not cls._has(name, values)]
        keywords.warn_unknown(unknown, "BeitConfig", cls._field_names())
        return {name: value for name, value in changes.items() if name not in unknown}

    @classmethod
    def _changed(cls, values: Mapping[str, Any], changes: Mapping[str, Any]) -> BeitConfig:
        """A config of `values` with `changes` on top; what depends on a change follows it."""
        merged = _without_default_stage(values, changes)
        names = changes.get("id2label")
        if names is None and changes.get("num_labels") is not None:
            if len(merged.get("id2label") or (0, 1)) != changes["num_labels"]:
                merged.pop("id2label", None)  # the names belong to other classes
                merged.pop("label2id", None)
        elif names is not None:
            merged.pop("num_labels", None)
            merged.pop("label2id", None)
        if {"torch_dtype", "dtype"} & set(changes):  # two names of one field
            merged = {name: value for name, value in merged.items() if name not in ("torch_dtype", "dtype")}
            changes = {("torch_dtype" if name == "dtype" else name): value for name, value in changes.items()}
        return cls(**{**merged, **changes})

    @classmethod
    def _has(cls, name: str, values: Mapping[str, Any] = {}) -> bool:
        """Whether a keyword of a call names a field: of the class, of every config of the reference, or of a file's `values`."""
        known = name in cls._field_names() or name in BOOKKEEPING or name in values
        return (
            known or name in ("segmentation_indices", "name_or_path", "model_type")
        ) and name not in keywords.SECRETS

    def to_dict(self) -> dict[str, Any]:
        """All fields as values that JSON can hold, unknown ones included."""
        values = copy.deepcopy(self.extra)
        for item in fields(self):
            value = getattr(self, item.name)
            values[item.name] = list(value) if isinstance(value, tuple) else copy.deepcopy(value)
        if callable(self.hidden_act):
            values["hidden_act"] = getattr(self.hidden_act, "__name__", str(self.hidden_act))
        if self.mask_keeps_position is None:
            del values["mask_keeps_position"]
        values["id2label"] = dict(self.id2label)
        values["label2id"] = dict(self.label2id)
        values["stage_names"] = self.stage_names
        values["model_type"] = self.model_type
        return values

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """The inverse of `to_dict`, with `overrides` on top.

        Args:
            config_dict: as `to_dict` gives it. Fields that are unknown are kept.
            return_unused_kwargs: return `(config, unused)`: the overrides that are no fields, of which this does not warn.
            **overrides: fields. Others are warned of, and not kept.

        Raises:
            CheckpointError: `config_dict` describes another architecture.
            ConfigError: a value is impossible.
        """
        infer.check_model_type(config_dict)
        values = dict(config_dict)
        if values.get("model_type") == "data2vec-vision":
            # The reference's default is [3, 5, 7, 11] at any depth, and files may leave it out. Only segmentation uses it.
            segments = "ForSemanticSegmentation" in str(values.get("architectures"))
            default = {"out_indices": [3, 5, 7, 11]}
            values = {**default, **values} if segments else {k: v for k, v in values.items() if k not in default}
        numbered = without_gaps_of_imagenet_22k(values.get("id2label"))
        if numbered is not values.get("id2label"):
            values["id2label"] = numbered
            values.pop("label2id", None)
        unused = {name: value for name, value in overrides.items() if not cls._has(name, values)}
        if return_unused_kwargs:
            overrides = {name: value for name, value in overrides.items() if name not in unused}
            unused |= {name: overrides[name] for name in ("torch_dtype",) if name in overrides}
        config = cls._changed(values, cls._known(overrides, values))
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Source, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """The config of any BEiT checkpoint: of its config.json, or inferred from its tensors.

        Args:
            pretrained_model_name_or_path: as for `BeitModel.from_pretrained`: a folder, a weight file, an id, a URL, a name of
                the catalogue, or an open `Checkpoint`; or a JSON file.
            return_unused_kwargs: return `(config, unused)`: the keywords that are no fields.
            **kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder` say where files come from; all others
                override fields. Names that are no fields are warned of, and never saved.

        Raises:
            CheckpointError: no such folder or id; damaged files; another architecture.
            ConfigError: a value is impossible.
        """
        where, given, unused = cls._split(kwargs, return_unused_kwargs)
        path = _json_file(pretrained_model_name_or_path)
        if path is not None:
            config, more = cls.from_dict(settings_in(path), True, **given)
        else:
            checkpoint = Checkpoint.open(pretrained_model_name_or_path, given, **where)
            try:
                config, more = cls.from_dict(checkpoint.settings, True, **checkpoint.given)
            except ConfigError as error:
                if not checkpoint.inferred:
                    raise
                raise CheckpointError(f"{checkpoint.source}: its tensors are of impossible sizes. {error}") from error
        config.__dict__["_source"] = hub.without_secrets(path or checkpoint.source)
        if return_unused_kwargs:
            return config, {**unused, **more}
        keywords.warn_unknown(
            [name for name in more if name != "torch_dtype"], f"{cls.__name__}.from_pretrained", cls._field_names()
        )
        return config

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Source, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The content of config.json, or settings inferred from the tensors, and the keywords that say nothing about where it is.

        Raises:
            CheckpointError: as `from_pretrained`.
        """
        where, given, unused = cls._split(kwargs, True)
        path = _json_file(pretrained_model_name_or_path)
        settings = (
            Checkpoint.open(pretrained_model_name_or_path, **where).settings if path is None else settings_in(path)
        )
        return copy.deepcopy(settings), {**given, **unused}

    @classmethod
    def _split(cls, kwargs: Mapping[str, Any], keep: bool) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Keywords that say where files come from, fields, and, with `keep`, those that say how weights are loaded."""
        of_weights = set(keywords.OF_WEIGHTS) - {"torch_dtype", "dtype", "attn_implementation"}
        honours = {"torch_dtype", "dtype", *(of_weights if keep else ())}
        where, found, rest = keywords.split(
            kwargs, f"{cls.__name__}.from_pretrained", honours, "a config has no weights; pass it to the model"
        )
        dtypes: dict[str, Any] = {name: found.pop(name) for name in ("torch_dtype", "dtype") if name in found}
        return where, {**rest, **dtypes}, found

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **keywords_of_hub: Any
    ) -> None:
        """Write config.json into a folder, atomically.

        Args:
            save_directory: the folder, created if it does not exist.
            push_to_hub: also upload it, to `repo_id` or a repository named as the folder.
            **keywords_of_hub: `repo_id`, and those of `hub.upload_folder`.

        Raises:
            ConfigError: a field was set to an impossible value, or to one that JSON cannot hold, such as a function.
            CheckpointError: it could not be written.
        """
        if callable(self.hidden_act):
            raise ConfigError("hidden_act is a function, which config.json cannot hold. Use the name of an activation.")
        self.validate()
        values = self.to_dict()
        check_json(values)
        folder = Path(save_directory)
        write_json(folder / CONFIG_FILE, values)
        if push_to_hub:
            self.push_to_hub(keywords_of_hub.pop("repo_id", folder.name), **keywords_of_hub)


def _json_file(source: Source) -> Path | None:
    if isinstance(source, Checkpoint) or not str(source).endswith(".json"):
        return None
    path = Path(source).expanduser()
    return path if path.is_file() else None


# The reference's arguments come first, in its order; the fields after them are by name only.
_POSITIONAL = [item.name for item in fields(BeitConfig)].index("reshape_hidden_states") + 1
BeitConfig.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(
            item.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if place < _POSITIONAL else inspect.Parameter.KEYWORD_ONLY,
            default=item.default if item.default_factory is MISSING else item.default_factory(),
        )
        for place, item in enumerate(fields(BeitConfig))
    ]
    + [inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)]
)

"""`BeitConfig`: the architecture that weights belong to. Fields, defaults and config.json are those of transformers 4.37.2."""

from __future__ import annotations

import copy
import difflib
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from beit.checkpoints import Checkpoint, Source, hub, infer
from beit.core import geometry
from beit.core.errors import CheckpointError, ConfigError
from beit.core.files import write_json

CONFIG_FILE = "config.json"
ACTIVATIONS = ("gelu", "relu", "selu", "gelu_new")

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

# What the reference library writes into every config.json besides the fields below. It is kept without a warning.
_BOOKKEEPING = frozenset(
    """_attn_implementation _name_or_path _commit_hash transformers_version torch_dtype dtype use_cache is_encoder_decoder
    is_decoder add_cross_attention cross_attention_hidden_size tie_encoder_decoder tie_word_embeddings torchscript
    use_bfloat16 pruned_heads chunk_size_feed_forward tf_legacy_loss finetuning_task task_specific_params
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens tokenizer_class prefix bos_token_id pad_token_id
    eos_token_id sep_token_id decoder_start_token_id""".split()
)


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


def _without_gaps(id2label: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Renumber the names from 0 on, in the order of their numbers.

    The Hub's ImageNet-22k models number 21,843 classes but name 21,841, and their classifiers have 21,841 outputs, so the two
    numbers without a name have no output (timm has the same names in this order).
    """
    try:
        numbers = sorted(id2label, key=int)
    except (TypeError, ValueError):
        return id2label  # the constructor refuses it with a message
    if len({int(number) for number in numbers}) < len(numbers) or not numbers or int(numbers[0]) < 0:
        return id2label
    return {place: id2label[number] for place, number in enumerate(numbers)}


@dataclass(init=False, eq=True)
class BeitConfig:
    """Architecture of a BEiT model; keyword arguments only.

    Defaults are those of the reference's `BeitConfig()`. Unknown keywords are kept as attributes and in `to_dict()`, so that
    fields of other libraries survive; a warning names the nearest known field, in case of a misspelling.

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
            (True), or the mask token alone, as in the reference (False, the default, so that folders of the reference mean the
            same). Without its position, and without relative positions, a masked patch does not know where it lies, so
            models that `beit` trains set it to True.
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
        id2label: class number → name; its length is the number of classes. Default: LABEL_0, LABEL_1.
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
    mask_keeps_position: bool = False
    pad_to_patch: bool = False
    segmentation_layers: list[int] | None = None
    decode_dropout_prob: float = 0.0
    id2label: dict[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    problem_type: str | None = None
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True
    architectures: list[str] | None = None

    model_type = "beit"

    def __init__(self, **keywords: Any) -> None:
        num_labels = keywords.pop("num_labels", None)
        keywords.pop("label2id", None)  # always the inverse of id2label
        keywords.pop("model_type", None)
        keywords.pop("stage_names", None)  # follows from the depth
        if "segmentation_indices" in keywords:
            warnings.warn("segmentation_indices is deprecated: use out_indices", FutureWarning, stacklevel=2)
            keywords["out_indices"] = keywords.pop("segmentation_indices")
        id2label_given = keywords.get("id2label") is not None
        if not id2label_given:
            keywords.pop("id2label", None)
        for item in fields(self):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            setattr(self, item.name, keywords.pop(item.name, default))
        try:
            self.id2label = {int(number): str(name) for number, name in self.id2label.items()}
        except (AttributeError, ValueError) as error:
            raise ConfigError(
                f"id2label is {self.id2label!r:.80}; wanted class number → name, such as {{0: 'cat', 1: 'dog'}}."
            ) from error
        if sorted(self.id2label) != list(range(len(self.id2label))):
            raise ConfigError(
                f"id2label has the numbers {sorted(self.id2label)[:6]}; wanted 0 to the number of classes - 1."
            )
        if num_labels is not None and num_labels != len(self.id2label):
            if id2label_given:
                raise ConfigError(f"num_labels is {num_labels}, but id2label names {len(self.id2label)} classes.")
            self.num_labels = num_labels
        for name in ("image_size", "patch_size"):
            if isinstance(getattr(self, name), list):  # JSON has no tuples
                setattr(self, name, tuple(getattr(self, name)))
        for name in _FLOATS:  # transformers 5 refuses a config.json that has 0 where it wants 0.0
            if type(getattr(self, name)) is int:
                setattr(self, name, float(getattr(self, name)))
        self.extra = keywords
        self._warn_of_unknown()
        self.validate()
        self.out_features, self.out_indices = self.stages()

    def _warn_of_unknown(self) -> None:
        known = [item.name for item in fields(self)] + ["num_labels", "label2id"]
        for name in self.extra:
            if name in _BOOKKEEPING or name.startswith("_"):
                continue
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f" Did you mean {near[0]}?" if near else ""
            warnings.warn(f"BeitConfig has no field {name}; it is kept, but has no effect.{hint}", stacklevel=3)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__") and name in self.__dict__.get("extra", {}):
            return self.extra[name]
        raise AttributeError(f"BeitConfig has no field {name}")

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
    def num_labels(self) -> int:
        """Number of classes. Setting it names them LABEL_0, LABEL_1, …"""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ConfigError(f"num_labels is {number!r}; it must be a whole number, 0 for no classifier.")
        self.id2label = {i: f"LABEL_{i}" for i in range(number)}

    @property
    def label2id(self) -> dict[str, int]:
        """Name → class number, the inverse of `id2label`."""
        return {name: number for number, name in self.id2label.items()}

    @property
    def use_return_dict(self) -> bool:
        """The reference's name of `return_dict`."""
        return self.return_dict

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
        """A copy with other values, validated."""
        values = _without_default_stage(self.to_dict(), changes)
        if "num_labels" in changes and "id2label" not in changes and changes["num_labels"] != self.num_labels:
            values.pop("id2label")  # the names belong to other classes
        values["hidden_act"] = self.hidden_act
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unknown fields were warned of when `self` was made
            return type(self)(**{**values, **changes})

    def to_dict(self) -> dict[str, Any]:
        """All fields as values that JSON can hold, unknown ones included."""
        values = copy.deepcopy(self.extra)
        for item in fields(self):
            value = getattr(self, item.name)
            values[item.name] = list(value) if isinstance(value, tuple) else copy.deepcopy(value)
        if callable(self.hidden_act):
            values["hidden_act"] = getattr(self.hidden_act, "__name__", str(self.hidden_act))
        values["id2label"] = {str(number): name for number, name in self.id2label.items()}
        values["label2id"] = self.label2id
        values["model_type"] = self.model_type
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> BeitConfig:
        """The inverse of `to_dict`, with `overrides` on top.

        Raises:
            CheckpointError: `values` describes another architecture.
        """
        infer.check_model_type(values)
        if values.get("model_type") == "data2vec-vision":
            # The reference's default is [3, 5, 7, 11] at any depth, and files may leave it out. Only segmentation uses it.
            segments = "ForSemanticSegmentation" in str(values.get("architectures"))
            default = {"out_indices": [3, 5, 7, 11]}
            values = {**default, **values} if segments else {k: v for k, v in values.items() if k not in default}
        merged = _without_default_stage(values, overrides)
        if isinstance(merged.get("id2label"), Mapping):
            merged["id2label"] = _without_gaps(merged["id2label"])
        if "num_labels" in overrides and "id2label" not in overrides:
            if len(merged.get("id2label") or ()) != overrides["num_labels"]:
                merged.pop("id2label", None)  # the names belong to other classes
        elif "id2label" in overrides:
            merged.pop("num_labels", None)
        return cls(**{**merged, **overrides})

    @classmethod
    def from_pretrained(cls, id_or_folder: Source, **keywords: Any) -> BeitConfig:
        """The config of any BEiT checkpoint: of its config.json, or inferred from its tensors.

        Args:
            id_or_folder: as for `BeitModel.from_pretrained`: a folder, a weight file, an id, a URL, a name of the catalogue, or
                an open `Checkpoint`.
            **keywords: `revision`, `token`, `cache_dir`, `local_files_only` say where files come from; all others override
                fields.

        Raises:
            CheckpointError: no such folder or id; damaged files; another architecture.
            ConfigError: a value is impossible.
        """
        where, overrides = hub.split_hub_keywords(keywords)
        checkpoint = Checkpoint.open(id_or_folder, overrides, **where)
        settings = checkpoint.settings
        try:
            return cls.from_dict(settings, **checkpoint.given)
        except ConfigError as error:
            if not checkpoint.inferred:
                raise
            raise CheckpointError(f"{checkpoint.source}: its tensors are of impossible sizes. {error}") from error

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json into `folder`, atomically.

        Raises:
            ConfigError: `hidden_act` is a function, which JSON cannot hold.
            CheckpointError: it could not be written.
        """
        if callable(self.hidden_act):
            raise ConfigError("hidden_act is a function, which config.json cannot hold. Use the name of an activation.")
        write_json(os.path.join(folder, CONFIG_FILE), self.to_dict())

    def to_json_string(self) -> str:
        """config.json as text."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

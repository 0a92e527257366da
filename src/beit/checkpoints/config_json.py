"""What config.json holds beside the fields of `BeitConfig`, and the methods around it that scripts for transformers call.

Facts about the reference's format, and nothing about BEiT. `BeitConfig` stands on `ConfigJson`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

from beit.checkpoints import hub, keywords
from beit.core.errors import CheckpointError, ConfigError
from beit.core.files import atomic_path, read_json
from beit.core.notebook import html_table

# Attributes that every config of transformers 4.37.2 has, with their defaults. Scripts and libraries read them. They are not
# written unless a file or a user sets them.
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(
            """torch_dtype cross_attention_hidden_size finetuning_task tokenizer_class prefix bos_token_id pad_token_id
            eos_token_id sep_token_id decoder_start_token_id task_specific_params transformers_version bad_words_ids
            forced_bos_token_id forced_eos_token_id exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
            _commit_hash""".split()
        ),
        **dict.fromkeys(
            """torchscript use_bfloat16 tf_legacy_loss is_encoder_decoder is_decoder add_cross_attention tie_encoder_decoder
            do_sample early_stopping output_scores return_dict_in_generate remove_invalid_values""".split(),
            False,
        ),
        **dict.fromkeys("temperature top_p typical_p repetition_penalty length_penalty".split(), 1.0),
        **dict.fromkeys("num_beams num_beam_groups num_return_sequences".split(), 1),
        **dict.fromkeys(
            "chunk_size_feed_forward min_length no_repeat_ngram_size encoder_no_repeat_ngram_size".split(), 0
        ),
        "diversity_penalty": 0.0,
        "max_length": 20,
        "top_k": 50,
        "tie_word_embeddings": True,
        "pruned_heads": MappingProxyType({}),  # an edit of it would be lost; this refuses one
    }
)
# Names in a config.json that no BEiT needs and that are kept without a warning.
BOOKKEEPING = frozenset((*DEFAULTS, "_attn_implementation", "_name_or_path", "dtype", "use_cache", "auto_map"))
_DEFAULTS_OF_ALL: Mapping[str, Any] = MappingProxyType(
    {
        **DEFAULTS,
        "return_dict": True,
        "output_hidden_states": False,
        "output_attentions": False,
        "architectures": None,
        "problem_type": None,
        "id2label": {0: "LABEL_0", 1: "LABEL_1"},
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    }
)


def dtype_name(dtype: Any) -> str | None:
    """`bfloat16` from `torch.bfloat16`, `"torch.bfloat16"`, a type of numpy or JAX, or the name itself; None from None."""
    if dtype is None or isinstance(dtype, str):
        return None if dtype is None else dtype.removeprefix("torch.")
    return str(getattr(dtype, "__name__", dtype)).removeprefix("torch.")


def as_dtype(name: str | None) -> Any:
    """The `torch.dtype` of this name where PyTorch is loaded, as in the reference; else the name."""
    torch = sys.modules.get("torch")
    return name if name is None or torch is None else getattr(torch, name, name)


class ConfigJson(ABC):
    """A config's attributes that are no fields, and its JSON form, with the names and arguments of transformers 4.37.2.

    An attribute that is no field is kept in `extra` and saved like a field, except secrets.
    """

    model_type: ClassVar[str] = ""
    is_composition: ClassVar[bool] = False
    attribute_map: ClassVar[dict[str, str]] = {}

    extra: dict[str, Any]  # what is no field; made by the constructor

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for place in (self.__dict__.get("extra", {}), DEFAULTS):
                if name in place:
                    return place[name]
        raise AttributeError(f"{type(self).__name__} has no field {name}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in keywords.SECRETS:
            raise ConfigError(
                f"A config does not keep {name}: config.json is public. Pass it to the call that needs it."
            )
        if name == "extra" or self._is_field(name) or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        elif hasattr(type(self), name):
            raise ConfigError(
                f"{name} is a method or constant of {type(self).__name__}; choose another name for a field of your own."
            )
        else:
            if name not in self.extra and (hint := self._nearest(name, cutoff=0.85)):
                keywords.warn(f"{type(self).__name__} has no field {name}; it is kept, but has no effect.{hint}")
            self.extra[name] = value

    def __delattr__(self, name: str) -> None:
        if name not in self.extra:
            raise AttributeError(f"{type(self).__name__} has no field {name} that can be deleted")
        del self.extra[name]

    @abstractmethod
    def _is_field(self, name: str) -> bool:
        """Whether this is a field of the config."""

    @abstractmethod
    def _nearest(self, name: str, cutoff: float) -> str:
        """A hint at the field with the nearest name; "" for none."""

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update({**self.__dict__, "extra": dict(self.extra)})
        return other

    @property
    def torch_dtype(self) -> Any:
        """Type of the weights that the config belongs to: a `torch.dtype`, its name where PyTorch is not loaded, or None."""
        return as_dtype(self.extra.get("torch_dtype") or self.extra.get("dtype"))

    @torch_dtype.setter
    def torch_dtype(self, dtype: Any) -> None:
        self.extra.pop("dtype", None)  # its name in transformers 5
        self.extra["torch_dtype"] = dtype_name(dtype)

    @property
    def dtype(self) -> Any:
        """The name of `torch_dtype` in transformers 5."""
        return self.torch_dtype

    @dtype.setter
    def dtype(self, dtype: Any) -> None:
        self.torch_dtype = dtype

    @property
    def name_or_path(self) -> str:
        """Where the config was loaded from, without the secrets of a URL; "" for a new one. Saved only if it is set by hand."""
        return str(self.__dict__.get("_source") or self.extra.get("_name_or_path", ""))

    @name_or_path.setter
    def name_or_path(self, place: Any) -> None:
        self.__dict__.pop("_source", None)
        self.extra["_name_or_path"] = str(place)

    # --- JSON ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All fields as values that JSON can hold."""

    @classmethod
    @abstractmethod
    def from_dict(cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """The inverse of `to_dict`."""

    def to_diff_dict(self) -> dict[str, Any]:
        """`to_dict` without what every config of the reference has by default, such as `return_dict`."""
        values = self.to_dict()
        return {
            name: value
            for name, value in values.items()
            if name not in _DEFAULTS_OF_ALL or value != _DEFAULTS_OF_ALL[name] or name == "transformers_version"
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """The config as JSON text: `to_diff_dict`, or with `use_diff=False` all of `to_dict`.

        Raises:
            ConfigError: a field holds what JSON cannot.
        """
        return _as_json(self.to_diff_dict() if use_diff else self.to_dict())

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write `to_json_string` into a file, atomically.

        Raises:
            ConfigError: a field holds what JSON cannot.
            CheckpointError: it could not be written.
        """
        text = self.to_json_string(use_diff)
        with atomic_path(json_file_path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """The config in a JSON file of any name.

        Raises:
            CheckpointError: the file cannot be read, is damaged, or describes another architecture.
            ConfigError: a value is impossible.
        """
        config: Self = cls.from_dict(settings_in(json_file))
        return config

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set each of these attributes. Raises ConfigError as setting it does."""
        for name, value in config_dict.items():
            setattr(self, name, value)

    def update_from_string(self, update_str: str) -> None:
        """Set attributes from text such as `hidden_size=96,use_mean_pooling=false,hidden_act=relu`.

        Raises:
            ConfigError: an attribute does not exist, or a value does not have its type.
        """
        for part in update_str.split(","):
            name, equals, text = part.strip().partition("=")
            if not equals or not hasattr(self, name):
                raise ConfigError(f"{part.strip()!r:.60} sets nothing: wanted name=value with a field of the config.")
            setattr(self, name, _like(name, getattr(self, name), text))

    def push_to_hub(self, repo_id: str, **keywords: Any) -> str:
        """Upload config.json to the Hub, and return the address of the commit; `keywords` go to `hub.upload_folder`.

        Raises:
            CheckpointError: the Hub refused, or was not reached.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload_folder(folder, repo_id, **keywords)

    @abstractmethod
    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write config.json."""

    def __repr__(self) -> str:
        return f"{type(self).__name__} {json.dumps(self.to_diff_dict(), indent=2, sort_keys=True, default=str)}\n"

    def _repr_html_(self) -> str:
        """For notebooks: what is not the default, in short; `repr` has all of it, as in transformers."""
        values = json.loads(json.dumps(self.to_diff_dict(), default=str))
        names = values.pop("id2label", None)
        values.pop("label2id", None)
        rows = [(name, json.dumps(value, ensure_ascii=False)) for name, value in sorted(values.items())]
        if isinstance(names, dict):
            rows.append((f"classes ({len(names)})", ", ".join(map(str, list(names.values())[:10]))))
        return html_table(type(self).__name__, rows)


def settings_in(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a JSON file that holds an object. Raises CheckpointError."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no settings (a JSON object).")
    return values


def check_json(values: Mapping[str, Any]) -> None:
    """Refuse fields that config.json cannot hold. Raises ConfigError with the first one's name and type."""
    for name, value in values.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{name} is a {type(value).__name__}, which config.json cannot hold. Set it to numbers, text, lists or dicts."
            ) from error


def _as_json(values: Mapping[str, Any]) -> str:
    check_json(values)
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _like(name: str, old: Any, text: str) -> Any:
    """The value in `text`, of the type of the old value."""
    try:
        if isinstance(old, bool):
            return {
                "true": True,
                "1": True,
                "y": True,
                "yes": True,
                "false": False,
                "0": False,
                "n": False,
                "no": False,
            }[text.lower()]
        if isinstance(old, int | float):
            return type(old)(text)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{name} is a {type(old).__name__}, and {text!r:.40} is none.") from error
    if not isinstance(old, str):
        raise ConfigError(f"{name} is a {type(old).__name__}; text sets numbers, true or false, and text only.")
    return text

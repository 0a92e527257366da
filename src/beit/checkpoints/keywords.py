"""Keywords of a `from_pretrained` call: one list for config, image processor, models of both frameworks and `beit.load`.

Scripts pass keywords that say how to load, beside fields of the config. None of the former may end in config.json, which is
uploaded: a token in it would be published. So each keyword that `from_pretrained` of transformers 4 or 5 takes is in a table
here, and is consumed: honoured by those that can, left out where it changes nothing, explained in a warning, or refused
where the result would be another one without it.
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from beit.core.errors import ConfigError

# Where files come from: keywords of `hub.resolve_file`.
WHERE = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
# Which of a folder's weight files is taken, and which of the weights in it: keywords of `Checkpoint`.
WEIGHT_FILES = ("variant", "use_safetensors", "weights")
# How weights become a model. Models honour them as far as their framework can; a config or a processor has no weights.
OF_WEIGHTS = (
    *WEIGHT_FILES,
    *"dtype torch_dtype state_dict output_loading_info ignore_mismatched_sizes attn_implementation experts_implementation".split(),
    *"device_map max_memory offload_folder offload_buffers offload_state_dict low_cpu_mem_usage config".split(),
)
# Never kept in a config or a processor, whichever way they come.
SECRETS = frozenset(
    """token use_auth_token auth_token access_token hub_token hf_token api_token api_key push_to_hub_token password secret
    proxies""".split()
)

# What these ask for is so in any case, or says who calls.
_NOTHING_TO_DO = frozenset(
    """resume_download _fast_init from_pt from_flax mirror _from_auto _from_pipeline _commit_hash user_agent code_revision
    adapter_name low_cpu_mem_usage weights_only return_unused_kwargs""".split()
)
_EXPLAINED: Mapping[str, str] = MappingProxyType(
    {
        "proxies": "huggingface_hub reads the environment variables HTTP_PROXY and HTTPS_PROXY; set those",
        "trust_remote_code": "code from a repository is never run; the classes of beit read the folder",
        "offload_state_dict": "weights are read one file at a time, so nothing is put aside",
        "offload_buffers": "buffers go where their layers go",
        "adapter_kwargs": "the model itself is loaded; load an adapter with PEFT",
        "use_kernels": "beit chooses its kernels by the processor",
        "kernel_config": "beit chooses its kernels by the processor",
        "experts_implementation": "a BEiT has no experts",
    }
)
_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "quantization_config": "weights are loaded as they are. Quantise the loaded model, for example with torch.ao.quantization",
        "load_in_8bit": "weights are loaded as they are. Use dtype=torch.float16 or torch.bfloat16 for half the memory",
        "load_in_4bit": "weights are loaded as they are. Use dtype=torch.float16 or torch.bfloat16 for half the memory",
        "from_tf": "files of TensorFlow are not read. Open the model in transformers and save it with save_pretrained",
        "use_flash_attention_2": "that kernel has no relative positions. Leave it out: fused attention is used where it can be",
        "tp_plan": "a model is not split over devices. Use accelerate or torch.distributed on the loaded model",
        "tp_size": "a model is not split over devices. Use accelerate or torch.distributed on the loaded model",
        "device_mesh": "a model is not split over devices. Use accelerate or torch.distributed on the loaded model",
        "distributed_config": "a model is not split over devices. Use accelerate or torch.distributed on the loaded model",
        "key_mapping": "names are recognised, not given. Rename the tensors of your state dict, and pass state_dict=…",
        "gguf_file": "GGUF files are not read. Give a folder or a file with safetensors",
    }
)
# Every keyword that says how to load. `config.json` may have some of them as fields: see `config_json.BOOKKEEPING`.
LOADER = frozenset(
    (*WHERE, *OF_WEIGHTS, *_NOTHING_TO_DO, *_EXPLAINED, *_REFUSED, "use_auth_token", "return_unused_kwargs")
)
_PACKAGE = os.path.dirname(os.path.dirname(__file__))


class Split(NamedTuple):
    """The keywords of one call.

    Attributes:
        where: say where files come from; for `hub.resolve_file`.
        honoured: those of `honours` that were given.
        rest: all that say nothing about loading: fields of the config, arguments of a constructor, misspellings.
    """

    where: dict[str, Any]
    honoured: dict[str, Any]
    rest: dict[str, Any]


def split(
    keywords: Mapping[str, Any],
    caller: str,
    honours: Collection[str] = (),
    instead: str | Mapping[str, str] = "",
) -> Split:
    """Split the keywords of a `from_pretrained` call. What is honoured by nobody is explained once, or refused.

    Args:
        keywords: of the call.
        caller: its name, for messages, such as `BeitModel.from_pretrained`.
        honours: names from the tables above that the caller itself deals with.
        instead: what happens in place of the keywords in `OF_WEIGHTS` that the caller does not honour: one sentence for all of a
            caller that loads no weights, which also holds for what is refused else; or one sentence per name.

    Raises:
        ConfigError: a keyword asks for what cannot be done, and the result would be another one without it; or both `token`
            and `use_auth_token` are given.
    """
    found = Split({}, {}, {})
    for name, value in with_token(keywords).items():
        asked = not (value is None or value is False or (isinstance(value, str | Mapping) and not value))
        if name in WHERE:
            if asked or (name == "token" and value is False):  # the others are the default
                found.where[name] = value
        elif name in honours:
            found.honoured[name] = value
        elif name in _REFUSED and asked and not isinstance(instead, str):
            raise ConfigError(f"{caller} cannot do {name}: {_REFUSED[name]}.")
        elif name in _REFUSED or name in OF_WEIGHTS or name in _EXPLAINED:
            general = instead if isinstance(instead, str) else instead.get(name, "")
            why = _EXPLAINED.get(name) or general
            if asked and why and name != "config" and name not in _NOTHING_TO_DO:
                warn(f"{caller}: {name} has no effect: {why}.")
        elif name not in _NOTHING_TO_DO:
            found.rest[name] = value
    return found


def with_token(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords with `token` in place of its old name `use_auth_token`. Raises ConfigError if both are given."""
    found = dict(keywords)
    old = found.pop("use_auth_token", None)
    if old is not None:
        warn("use_auth_token is deprecated; use token", FutureWarning)
        if found.get("token") is not None:
            raise ConfigError("Both token and use_auth_token are given; give token alone.")
        found["token"] = old
    return found


def without_loader(keywords: Mapping[str, Any], owner: str, fields: Collection[str] = ()) -> dict[str, Any]:
    """The keywords of a constructor without those that say how to load; a warning names what is left out, without its value.

    Args:
        keywords: of the call, or read from a file.
        owner: whose constructor it is.
        fields: names that are kept although `from_pretrained` takes them too.
    """
    dropped = sorted(name for name in keywords if (name in LOADER or name in SECRETS) and name not in fields)
    if dropped:
        warn(f"{owner} does not keep {', '.join(dropped)}: that says how to load, and would be saved and uploaded.")
    return {name: value for name, value in keywords.items() if name not in dropped}


def check_attention(choice: str | None) -> None:
    """Refuse an `attn_implementation` that changes what is computed or needs another package. Raises ConfigError."""
    if choice not in (None, "eager", "sdpa"):
        reason = (
            "flash attention has no relative positions" if "flash" in str(choice) else "beit has no such implementation"
        )
        raise ConfigError(
            f"attn_implementation is {choice!r}; {reason}. Choose eager or sdpa, or leave it out. Both compute the same; which "
            "kernel does it depends on the processor."
        )


def warn_unknown(names: Iterable[str], caller: str, known: Iterable[str]) -> None:
    """Warn of keywords that nobody knows, with the nearest known name and without their values."""
    candidates = sorted({*known, *LOADER})
    for name in names:
        near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]}?" if near else ""
        warn(f"{caller} has no keyword {name}: it has no effect and is not saved.{hint}")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside of this package that led here, however many functions lie between."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_PACKAGE, "<string>")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)

"""Weight files → named arrays and what else stands in them. The content decides what a file is, not its name.

No code in a file is run: safetensors and msgpack hold numbers only; PyTorch's pickles go through
`torch.load(weights_only=True)`, which also allows `argparse.Namespace` here, because the authors saved their command line
beside the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beit.checkpoints.pickle_scan import scan
from beit.core.errors import CheckpointError, require

# Keys under which projects save the weights, in the order of preference. An average of weights beside them (EMA) is not among
# them: published accuracies are those of the weights, unless the publisher says otherwise.
_CONTAINERS = ("model", "module", "state_dict", "model_state_dict", "net", "teacher")
_READ = ("args", "meta")  # containers beside the weights that `infer` and the dialects look into

# What pickles of tensors ask for. `torch.load` has the last word; this list only finds the name for its refusal.
_OF_TENSORS = re.compile(
    r"torch\.\w+|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_\w+|torch\.(storage|nn\.parameter|serialization)\.\w+|"
    r"collections\.(OrderedDict|Counter)|argparse\.Namespace|(builtins|__builtin__)\.(set|complex|bytearray)|_codecs\.encode"
)


class Raw(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: name in the file → array.
        format: `safetensors`, `msgpack` or `PyTorch`.
        container: the key under which the weights stood; "" for none.
        more: plain values beside them: `args`, `epoch`, `meta`, …; None in place of other containers.
    """

    tensors: dict[str, np.ndarray]
    format: str
    container: str = ""
    more: Mapping[str, Any] = {}


def read_file(path: Path) -> Raw:
    """Read one weight file of any kind.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or no weight file.
        MissingExtraError: torch or msgpack is needed and not installed.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        return _of_pickle(path, _unpickled(path))
    if head[8:9] == b"{":
        return Raw(read_tensors(path), "safetensors")
    why = diagnose(head)
    if why:
        raise CheckpointError(f"{path} {why}")
    if head[0] >> 4 == 8 or head[0] in (0xDE, 0xDF):  # msgpack's codes for a map
        from beit.checkpoints.msgpack import read_msgpack

        return Raw(read_msgpack(path), "msgpack")
    raise CheckpointError(
        f"{path} is no weight file of a known kind: wanted safetensors, a file of torch.save, or Flax's msgpack."
    )


def read_files(paths: Sequence[Path]) -> Raw:
    """Read the files of one model, whose shards are taken together; see `read_file`.

    Raises:
        CheckpointError: as `read_file`; or two shards hold a tensor of the same name.
    """
    raws = [read_file(path) for path in paths]
    tensors: dict[str, np.ndarray] = {}
    for path, raw in zip(paths, raws, strict=True):
        twice = next((name for name in raw.tensors if name in tensors), None)
        if twice is not None:
            raise CheckpointError(
                f"{path} holds {twice}, which another shard of the model holds too. One of the shards is outdated."
            )
        tensors.update(raw.tensors)
    return raws[0]._replace(tensors=tensors)


# --- safetensors ---------------------------------------------------------------------------------------------------


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file as writable arrays; bfloat16, which numpy lacks, becomes float32, which is exact.

    Raises:
        CheckpointError: the file is damaged or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, np.ndarray] = {}
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            of_flax = (file.metadata() or {}).get("format") == "flax"
            narrow = [name for name in file.keys() if file.get_slice(name).get_dtype() == "BF16"]  # noqa: SIM118
            for name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                if name not in narrow:
                    tensors[name] = file.get_tensor(name)
        if narrow:
            tensors.update(_read_bfloat16(Path(path), narrow))
    except AttributeError as error:  # numpy.float8_e4m3fn and the like
        raise CheckpointError(f"{path} holds tensors of a kind that cannot be read here: {error}.") from error
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({error}). Download or save it again."
        ) from error
    if of_flax:  # transformers' Flax models keep their own names and layouts in safetensors, and mark the file
        from beit.checkpoints import flax_layout

        tensors = flax_layout.from_reference({name.replace(".", "/"): array for name, array in tensors.items()})
    return tensors


def _read_bfloat16(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Read bfloat16, the upper half of a float32: 16 bits, shifted up. safetensors has validated the header before."""
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    header_size = int(raw[:8].view("<u8")[0])
    header = json.loads(bytes(raw[8 : 8 + header_size]))
    out = {}
    for name in names:
        begin, end = (8 + header_size + offset for offset in header[name]["data_offsets"])
        bits = np.frombuffer(bytes(raw[begin:end]), dtype="<u2").astype(np.uint32) << 16
        out[name] = bits.view(np.float32).reshape(header[name]["shape"])
    return out


# --- PyTorch's pickles -----------------------------------------------------------------------------------------------


def _unpickled(path: Path) -> Any:
    """What `torch.save` was given, read with `weights_only=True`: no code in the file is run.

    Allowed are tensors, plain values and containers, and `argparse.Namespace`, which the authors of BEiT save.

    Raises:
        CheckpointError: the file is damaged, or asks for anything else.
        MissingExtraError: torch is not installed.
    """
    torch = require("torch", "torch", f"reading {path.name}")
    asked = scan(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of pickles of another protocol, which it then reads or refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for nearly every kind of damage
        strange = next((name for name in asked if not _OF_TENSORS.fullmatch(name)), None)
        if strange is not None:
            raise CheckpointError(
                f"{path} asks for {strange[:80]}, which no weights need, so it is refused; nothing in it was run. Ask for a "
                "safetensors file. Where you trust the sender, save the weights alone, by "
                "torch.save({'model': torch.load(file, weights_only=False)['model']}, new), on a machine you can spare."
            ) from error
        raise CheckpointError(
            f"{path} cannot be read safely ({type(error).__name__}). It is damaged, or a pickle that wants to run code, "
            "which is refused. Download it again, or use a safetensors file."
        ) from error


def _of_pickle(path: Path, content: Any) -> Raw:
    """The state dict in what `torch.save` was given, and the plain values beside it."""
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; wanted named tensors (a state dict).")
    # The one with the most tensors: a single tensor, such as a counter or a decay, is not the model.
    key = max(_CONTAINERS, key=lambda key: len(_tensors(content.get(key))))
    if len(_tensors(content.get(key))) <= len(_tensors(content)):
        key = ""
    table = content[key] if key else content
    tensors = _tensors(table)
    if not tensors:
        keys = [str(key)[:40] for key in content if isinstance(key, str)]
        found = ", ".join(keys[:6]) or "nothing under a name"
        average = next((key for key in keys if "ema" in key.lower()), None)
        hint = f" There is an average of weights: save content[{average!r}] alone to use it." if average else ""
        raise CheckpointError(
            f"{path} holds no dict of named tensors: it has {found}; wanted a state dict, or one under {', '.join(_CONTAINERS[:3])}."
            f"{hint}"
        )
    others = {name: value for name, value in content.items() if isinstance(name, str) and not _is_tensor(value)}
    more = {name: _plain(name, value) for name, value in others.items() if name != key}
    return Raw(_as_arrays(path, tensors), "PyTorch", key, more)


def _tensors(table: Any) -> dict[str, Any]:
    """The named tensors of a dict; none of anything else."""
    if not isinstance(table, dict):
        return {}
    return {name: value for name, value in table.items() if isinstance(name, str) and _is_tensor(value)}


def _plain(name: str, value: Any) -> Any:
    """A value beside the weights. An optimizer's state would keep twice the memory of the weights in use."""
    if isinstance(value, argparse.Namespace):
        return vars(value)
    return None if isinstance(value, dict | list | tuple) and name not in _READ else value


def _is_tensor(value: object) -> bool:
    """Whether `value`, out of a pickle, is a tensor of PyTorch."""
    return type(value).__module__.startswith("torch") and hasattr(value, "is_floating_point")


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size()


def _as_arrays(path: Path, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """PyTorch's tensors as arrays; bfloat16, which numpy lacks, becomes float32, which is exact. Raises CheckpointError."""
    arrays = {}
    for name, value in tensors.items():
        if str(value.layout) == "torch.strided" and _bytes(value) > value.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {name} is larger than what the file holds. It is damaged or forged.")
        try:
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value
            arrays[name] = value.detach().contiguous().numpy()
        except (TypeError, RuntimeError) as error:  # sparse, quantised, eight-bit
            raise CheckpointError(f"{path} holds tensors of a kind that cannot be read here: {error}.") from error
    return arrays


# --- what is no weight file ------------------------------------------------------------------------------------------


def diagnose(head: bytes) -> str:
    """What is wrong with a weight file that begins with `head`, as after failed downloads; "" if nothing shows."""
    again = "Download the file itself again and compare its size with the server's."
    text = head.decode("utf-8", errors="ignore")
    if not head:
        return f"is empty. {again}"
    if text.startswith("version https://git-lfs"):
        return "is a git-lfs pointer, not the weights. Run `git lfs pull` in its repository."
    if text.lstrip("\ufeff \r\n\t").startswith("<"):
        return f"is a web page, not weights (from a dead link, or a log-in page?). {again}"
    if len(text.encode()) > len(head) - 4 and all(c.isprintable() or c in "\r\n\t" for c in text):
        return f"is text that begins with {text[:40]!r} (the log of a download, or an error message?). {again}"
    return ""

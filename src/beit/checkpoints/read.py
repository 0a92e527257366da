"""One weight file → named arrays and what else stands in it. What a file is, its content says, not its name.

Nothing in a file is run: safetensors and msgpack hold numbers only; PyTorch's pickles go through `torch.load(weights_only=True)`,
with `argparse.Namespace` as the one class more, because the authors saved their command line beside the weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beit import hub
from beit.errors import CheckpointError

# Where projects keep the weights in what they save, in the order of preference: an average of weights beside them is not
# what was measured unless somebody says so.
_CONTAINERS = ("model", "module", "state_dict", "model_state_dict", "net", "teacher")


class Raw(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: name in the file → array.
        format: `safetensors`, `msgpack` or `PyTorch`.
        container: the key under which the weights stood, "" for none.
        more: plain values beside them: `args`, `epoch`, `meta`, …
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
        return _of_pickle(path, hub.load_pickle(path))
    if head[8:9] == b"{":
        return Raw(hub.read_tensors(path), "safetensors")
    why = hub.diagnose(head)
    if why:
        raise CheckpointError(f"{path} {why}")
    if head[0] >> 4 == 8 or head[0] in (0xDE, 0xDF):  # a map
        from beit.msgpack_file import read_msgpack

        return Raw(read_msgpack(path), "msgpack")
    raise CheckpointError(
        f"{path} is no weight file that is known here: wanted safetensors, a file of torch.save, or msgpack of Flax."
    )


def _of_pickle(path: Path, content: Any) -> Raw:
    """The table of weights in what `torch.save` was given, and the plain values beside it."""
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; wanted named tensors (a state dict).")
    key = next((key for key in _CONTAINERS if _is_table(content.get(key))), "")
    table = content[key] if key else content
    if not _is_table(table):
        found = ", ".join(sorted(map(str, content))[:6]) or "nothing"
        raise CheckpointError(
            f"{path} holds no table of named tensors: it has {found}; wanted a state dict, or one under {', '.join(_CONTAINERS[:3])}."
        )
    tensors = {name: value for name, value in table.items() if hub.is_tensor(value)}
    more = {str(name): _plain(value) for name, value in content.items() if name != key and not hub.is_tensor(value)}
    return Raw(hub.as_arrays(path, tensors), "PyTorch", key, more)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and any(
        isinstance(name, str) and hub.is_tensor(item) for name, item in value.items()
    )


def _plain(value: Any) -> Any:
    return vars(value) if isinstance(value, argparse.Namespace) else value

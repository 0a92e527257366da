"""Weight files → named arrays and what else stands in them. The content decides what a file is, not its name.

No code in a file is run: safetensors and msgpack hold numbers only; for PyTorch's pickles see `pickles.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beit.checkpoints import flax_layout
from beit.checkpoints.hub import TENSORFLOW
from beit.checkpoints.msgpack import read_msgpack
from beit.checkpoints.read_pickle import read_pickle
from beit.core.errors import CheckpointError


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


def read_file(path: Path, average: bool = False) -> Raw:
    """Read one weight file of any kind; with `average`, the averaged weights in a file of `torch.save`.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or no weight file.
        MissingExtraError: msgpack is needed and not installed.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        tensors, container, more = read_pickle(path, average)
        return Raw(tensors, "PyTorch", container, more)
    if average:
        raise CheckpointError(
            f"{path} holds one set of weights: only files of torch.save have averaged ones beside them."
        )
    if head[8:9] == b"{":
        return Raw(read_tensors(path), "safetensors")
    why = diagnose(head)
    if why:
        raise CheckpointError(f"{path} {why}")
    if head[0] >> 4 == 8 or head[0] in (0xDE, 0xDF):  # msgpack's codes for a map
        return Raw(read_msgpack(path), "msgpack")
    raise CheckpointError(
        f"{path} is no weight file of a known kind: wanted safetensors, a file of torch.save, or Flax's msgpack."
    )


def read_files(paths: Sequence[Path], average: bool = False) -> Raw:
    """Read the files of one model, whose shards are taken together; see `read_file`.

    Raises:
        CheckpointError: as `read_file`; or two shards hold a tensor of the same name.
    """
    raws = [read_file(path, average) for path in paths]
    tensors: dict[str, np.ndarray] = {}
    for path, raw in zip(paths, raws, strict=True):
        twice = next((name for name in raw.tensors if name in tensors), None)
        if twice is not None:
            raise CheckpointError(
                f"{path} holds {twice}, which another shard of the model holds too. One of the shards is outdated."
            )
        tensors.update(raw.tensors)
    return raws[0]._replace(tensors=tensors)


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


def diagnose(head: bytes) -> str:
    """What is wrong with a weight file that begins with `head`, as after failed downloads; "" if nothing shows."""
    again = "Download the file itself again and compare its size with the server's."
    text = head.decode("utf-8", errors="ignore")
    if not head:
        return f"is empty. {again}"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return f"is an HDF5 file: {TENSORFLOW}"
    if text.startswith("version https://git-lfs"):
        return "is a git-lfs pointer, not the weights. Run `git lfs pull` in its repository."
    if text.lstrip("\ufeff \r\n\t").startswith("<"):
        return f"is a web page, not weights (from a dead link, or a log-in page?). {again}"
    if len(text.encode()) > len(head) - 4 and all(c.isprintable() or c in "\r\n\t" for c in text):
        return f"is text that begins with {text[:40]!r} (the log of a download, or an error message?). {again}"
    return ""

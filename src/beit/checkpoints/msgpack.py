"""`flax_model.msgpack`: the files that the reference's Flax models write, read and written without Flax.

The file is a tree of maps. Its leaves are arrays as msgpack extension type 1: the packed list (shape, name of the type, bytes).
Arrays of more than 1 GiB are cut into pieces. No code in such a file is run. Format: flax/serialization.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beit.checkpoints import flax_layout
from beit.core.errors import CheckpointError, require
from beit.core.files import atomic_path

_ARRAY, _SCALAR = 1, 3  # extension types; 2 is a complex number, which no model has
# An explicit list, because numpy parses other strings as expressions.
_TYPES = "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()
_IN_PIECES = "__msgpack_chunked_array__"
_LONGEST_PIECE = 2**30  # bytes


def read_msgpack(path: Path) -> dict[str, np.ndarray]:
    """All tensors of the file by their names in hf; bfloat16, which numpy lacks, becomes float32, which is exact.

    Raises:
        CheckpointError: the file is damaged, or holds something other than named arrays.
        MissingExtraError: msgpack is not installed.
    """
    msgpack = require("msgpack", "flax", f"reading {path.name}")
    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=_array, raw=False, strict_map_key=False)
        tree = _joined(tree)
    except (
        ValueError, TypeError, KeyError, RecursionError, AttributeError, OverflowError, msgpack.UnpackException
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{path} is damaged or not a msgpack file of Flax ({error}). Download it again."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if not isinstance(tree, dict) or not tree:
        raise CheckpointError(f"{path} does not hold a tree of named arrays. Is it a Flax model?")
    strange = [path for path, leaf in flax_layout.flatten(tree) if not isinstance(leaf, np.ndarray)]
    if strange:
        raise CheckpointError(
            f"{path} holds something other than arrays at {'.'.join(strange[0])}. Is it a Flax model?"
        )
    return flax_layout.from_reference(tree)


def write_msgpack(path: Path, disk: Mapping[str, np.ndarray]) -> None:
    """Write tensors, by their names in hf, as the reference's Flax models read them, atomically.

    Raises:
        CheckpointError: it could not be written.
        MissingExtraError: msgpack is not installed.
    """
    msgpack = require("msgpack", "flax", f"writing {path.name}")

    def packed(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.nbytes > _LONGEST_PIECE:
            return packed(_in_pieces(value))
        if isinstance(value, np.ndarray):
            content = (value.shape, value.dtype.name, np.ascontiguousarray(value).tobytes())
            return msgpack.ExtType(_ARRAY, msgpack.packb(content, use_bin_type=True))
        return {key: packed(item) for key, item in value.items()} if isinstance(value, dict) else value

    tree = packed(flax_layout.to_reference(disk))
    with atomic_path(path) as temporary:
        temporary.write_bytes(msgpack.packb(tree, use_bin_type=True))


def _array(kind: int, data: bytes) -> np.ndarray:
    import msgpack

    if kind not in (_ARRAY, _SCALAR):
        raise ValueError(f"it holds values of type {kind}, which no model has")
    shape, name, content = msgpack.unpackb(data, raw=False)
    shape = tuple(int(side) for side in shape)
    name = name.decode() if isinstance(name, bytes) else name
    if name == "bfloat16":  # the upper half of float32
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if name not in _TYPES:
        raise ValueError(f"it holds an array of {name!r:.40}, which no model has")
    dtype = np.dtype(name)
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of {name} {shape} has {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape).copy()


def _in_pieces(value: np.ndarray) -> dict[str, Any]:
    flat, length = value.reshape(-1), max(_LONGEST_PIECE // value.itemsize, 1)
    pieces = [flat[start : start + length] for start in range(0, flat.size, length)]
    numbered = ({str(i): item for i, item in enumerate(items)} for items in (value.shape, pieces))
    return dict(zip((_IN_PIECES, "shape", "chunks"), (True, *numbered), strict=True))


def _joined(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if _IN_PIECES not in tree:
        return {str(key): _joined(value) for key, value in tree.items()}
    shape = tuple(int(tree["shape"][str(i)]) for i in range(len(tree["shape"])))
    return np.concatenate([tree["chunks"][str(i)] for i in range(len(tree["chunks"]))]).reshape(shape)

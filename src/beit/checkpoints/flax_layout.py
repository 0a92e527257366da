"""How Flax names and lays out parameters: trees of our models and of the reference's ↔ named arrays. Numpy only.

    name in dialects/short.py                    our Flax tree
    beit.encoder.layers.3.attn.qkv.weight        params/beit/encoder/layers_3/attn/qkv/kernel   (3C, C) → (C, 3, C)
    beit.encoder.layers.3.mlp.fc1.weight         params/beit/encoder/layers_3/mlp/fc1/kernel    (out, in) → (in, out)
    beit.encoder.layers.3.norm1.weight           params/beit/encoder/layers_3/norm1/scale
    beit.embeddings.patch.weight                 params/beit/embeddings/patch/kernel            (C, 3, p, q) → (p, q, 3, C)
    fpn1.0.weight (transposed convolution)       params/fpn1_0/kernel                           (in, out, 2, 2) → (2, 2, in, out)
    decode_head.bottleneck.bn.running_mean       batch_stats/decode_head/bottleneck/bn/mean

This is a rule, not a list; `names.from_short` and `to_short` lead from here to parameter names, which are those of hf. The
reference's Flax tree has the names of hf with slashes for dots, `kernel` and `scale` for `weight`, and matrices and
convolutions laid out as above.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from beit.checkpoints import names
from beit.core.errors import CheckpointError

Tree = dict[str, Any]
_STATISTICS = {"running_mean": "mean", "running_var": "var"}
_COUNTER = "num_batches_tracked"  # of PyTorch's batch norms; nothing here reads it
_UPSAMPLES = re.compile(r"fpn(1\.[03]|2\.0)\.weight$")


# --- our trees -----------------------------------------------------------------------------------------------------


def to_tree(state_dict: Mapping[str, np.ndarray]) -> Tree:
    """Parameter name → array, as `{"params": …}` of our Flax models, with `"batch_stats"` if there are any."""
    tree: Tree = {"params": {}}
    for name, array in names.to_short(state_dict).items():
        if not name.endswith(_COUNTER):
            path, value = _to_leaf(name, array)
            _set(tree, path, value)
    return tree


def from_tree(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The exact inverse of `to_tree`; the counters of batch norms are 0."""
    state_dict: dict[str, np.ndarray] = {}
    for path, array in flatten(tree):
        name = name_of(path)
        state_dict[name] = _from_leaf(name, path[-1], np.asarray(array))
        if name.endswith("running_var"):
            state_dict[name.removesuffix("running_var") + _COUNTER] = np.zeros((), np.int64)
    return names.from_short(state_dict)


def name_of(path: tuple[str, ...]) -> str:
    """The name in `dialects/short.py` of a leaf.

    `("params", "beit", "encoder", "layers_3", "norm1", "scale")` → `beit.encoder.layers.3.norm1.weight`.
    """
    collection, *modules, leaf = path
    if collection == "batch_stats":
        last = next(torch for torch, flax in _STATISTICS.items() if flax == leaf)
    else:
        last = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    return ".".join([re.sub(r"_(?=\d+(_|$))", ".", module) for module in modules] + [last])


def shape_of(name: str, leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the tensor `name` has in PyTorch's layout, from the `shape` of its leaf in the tree."""
    return _from_leaf(name, leaf, np.broadcast_to(np.float32(0), shape)).shape


def _to_leaf(name: str, array: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    head, _, last = name.rpartition(".")
    modules = tuple(re.sub(r"\.(?=\d+(\.|$))", "_", head).split(".")) if head else ()
    if last in _STATISTICS:
        return ("batch_stats", *modules, _STATISTICS[last]), array
    if last != "weight":
        return ("params", *modules, last), array
    if array.ndim == 1:
        return ("params", *modules, "scale"), array
    if array.ndim == 4:
        # (out, in, h, w) → (h, w, in, out); a transposed convolution has its inputs first already.
        inward = (2, 3, 0, 1) if _UPSAMPLES.match(name) else (2, 3, 1, 0)
        return ("params", *modules, "kernel"), array.transpose(inward)
    if head.endswith("qkv"):
        array = array.reshape(3, -1, array.shape[1]).transpose(2, 0, 1)  # query, key and value on an axis of their own
        return ("params", *modules, "kernel"), array
    return ("params", *modules, "kernel"), array.T


def _from_leaf(name: str, leaf: str, array: np.ndarray) -> np.ndarray:
    if leaf != "kernel":
        return array
    if array.ndim == 4:
        return array.transpose((2, 3, 0, 1) if _UPSAMPLES.match(name) else (3, 2, 0, 1))
    if array.ndim == 3:
        return array.transpose(1, 2, 0).reshape(-1, array.shape[0])
    return array.T


# --- the reference's trees -------------------------------------------------------------------------------------------


def from_reference(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tree of the reference's `flax_model.msgpack` → arrays by their names in hf."""
    disk: dict[str, np.ndarray] = {}
    for path, array in flatten(tree):
        *modules, leaf = "/".join(path).split("/")  # in shards each key is a whole path
        value = np.asarray(array)
        if leaf == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        disk[".".join([*modules, {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)])] = value
    return disk


def to_reference(disk: Mapping[str, np.ndarray]) -> Tree:
    """The exact inverse of `from_reference`."""
    tree: Tree = {}
    for name, array in disk.items():
        *modules, leaf = name.split(".")
        value = array
        if leaf == "weight":
            leaf = "scale" if array.ndim == 1 else "kernel"
            value = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        _set(tree, (*modules, leaf), value)
    return tree


# --- trees -----------------------------------------------------------------------------------------------------------


def flatten(tree: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    """(path, leaf) for each leaf of a tree of mappings, in the tree's own order."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found += [((str(key), *path), leaf) for path, leaf in flatten(value)]
        else:
            found.append(((str(key),), value))
    return found


def _set(tree: Tree, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise CheckpointError(
                f"{'.'.join(path)} lies below something that is a tensor itself. The file is damaged."
            )
    tree[path[-1]] = value

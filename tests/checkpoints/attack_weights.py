"""Forged weight files, one for each seed; run as a script, it opens a range of them with limits on memory and time.

    python tests/checkpoints/attack_weights.py FOLDER FIRST LAST

Prints one JSON object: how many were opened and refused, and the seeds that ended in anything but an error of this library.
"""

from __future__ import annotations

import io
import itertools
import json
import pickle
import pickletools
import random
import resource
import signal
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LIMIT_SECONDS, LIMIT_BYTES = 20, 2 << 30
KINDS = ("opcodes", "bytes of a pickle", "zip", "legacy", "safetensors", "msgpack", "config")
NAMES = (
    "os system", "builtins eval", "builtins bytearray", "_codecs encode", "collections OrderedDict", "torch.hub load",
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_qtensor", "torch FloatStorage", "torch.storage UntypedStorage",
    "argparse Namespace", "torch Size", "functools partial", "__main__ x", "torch._dynamo config", "numpy.core.multiarray _reconstruct",
)  # fmt: skip


def tensors(rng: random.Random) -> dict[str, np.ndarray]:
    """A tiny BEiT in transformers' names, without numbers that matter."""
    width, depth = 4, rng.randint(1, 2)
    found: dict[str, np.ndarray] = {
        "beit.embeddings.cls_token": np.zeros((1, 1, width), "f4"),
        "beit.embeddings.patch_embeddings.projection.weight": np.zeros((width, 3, 2, 2), "f4"),
        "beit.embeddings.patch_embeddings.projection.bias": np.zeros(width, "f4"),
        "beit.encoder.relative_position_bias.relative_position_bias_table": np.zeros((12, 2), "f4"),
        "classifier.weight": np.zeros((2, width), "f4"),
        "classifier.bias": np.zeros(2, "f4"),
    }
    for i in range(depth):
        layer = f"beit.encoder.layer.{i}."
        for name in ("query", "key", "value"):
            found[f"{layer}attention.attention.{name}.weight"] = np.zeros((width, width), "f4")
        for name in ("attention.attention.query", "attention.attention.value"):
            found[f"{layer}{name}.bias"] = np.zeros(width, "f4")
        for name, rows, columns in (
            ("attention.output", width, width),
            ("intermediate", 8, width),
            ("output", width, 8),
        ):
            found[f"{layer}{name}.dense.weight"] = np.zeros((rows, columns), "f4")
            found[f"{layer}{name}.dense.bias"] = np.zeros(rows, "f4")
        for name in (
            "layernorm_before.weight",
            "layernorm_before.bias",
            "layernorm_after.weight",
            "layernorm_after.bias",
        ):
            found[layer + name] = np.zeros(width, "f4")
    return found


class _Stored:
    def __init__(self, key: str, numel: int) -> None:
        self.key, self.numel = key, numel


class _Tensor:
    """Pickles as `torch.save` does."""

    def __init__(self, array: np.ndarray, key: str) -> None:
        self.array, self.key = array, key

    def __reduce__(self) -> Any:
        strides = tuple(step // self.array.itemsize for step in self.array.strides)
        return _rebuild_tensor_v2, (_Stored(self.key, self.array.size), 0, self.array.shape, strides, False, {})


def _rebuild_tensor_v2(*_: Any) -> None: ...


def float_storage(*_: Any) -> None: ...


class _Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """The one in Python, which writes names as we tell it."""

    def persistent_id(self, value: Any) -> Any:
        return ("storage", float_storage, value.key, "cpu", value.numel) if isinstance(value, _Stored) else None

    def save_global(self, value: Any, name: str | None = None) -> None:
        names = {"_rebuild_tensor_v2": "torch._utils\n_rebuild_tensor_v2\n", "float_storage": "torch\nFloatStorage\n"}
        self.write(b"c" + names[value.__name__].encode())

    dispatch = {**pickle._Pickler.dispatch, type(_rebuild_tensor_v2): save_global}  # type: ignore[attr-defined]


def pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(content)
    return buffer.getvalue()


def archive(data: bytes, storages: dict[str, bytes], rng: random.Random | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        name = (
            "x/data.pkl"
            if rng is None
            else rng.choice(["x/data.pkl", "x/DATA.pkl", "data.pkl", "a/b/data.pkl", "../data.pkl"])
        )
        zipped.writestr(name, data)
        for key, value in storages.items():
            zipped.writestr(f"x/data/{key}", value)
        if rng is not None and rng.random() < 0.5:
            zipped.writestr(
                zipfile.ZipInfo(rng.choice(["x/data.PKL", "x/byteorder", "y/data.pkl", "x/.data"])), b"\x80\x02}."
            )
    return buffer.getvalue()


def state_file(rng: random.Random) -> tuple[bytes, dict[str, bytes]]:
    """A sound pickle, and its storages."""
    arrays = tensors(rng)
    content = {"model": {name: _Tensor(array, str(i)) for i, (name, array) in enumerate(arrays.items())}, "epoch": 3}
    return pickled(content), {str(i): array.tobytes() for i, array in enumerate(arrays.values())}


def broken_bytes(data: bytes, rng: random.Random, times: int) -> bytes:
    found = bytearray(data)
    for _ in range(times):
        place = rng.randrange(len(found))
        what = rng.randrange(4)
        if what == 0:
            found[place] ^= 1 << rng.randrange(8)
        elif what == 1:
            found[place : place + 8] = struct.pack("<q", rng.choice([-1, 0, 1 << 31, 1 << 40, 1 << 62, 255]))
        elif what == 2:
            del found[place : place + rng.randint(1, 40)]
        else:
            found[place:place] = found[place : place + rng.randint(1, 200)]
        if not found:
            return b"\x80\x02"
    return bytes(found)


def broken_opcodes(data: bytes, rng: random.Random) -> bytes:
    """Opcodes left out, doubled, exchanged and put in; names and numbers replaced."""
    places = [position for _, _, position in pickletools.genops(data)] + [len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(places)]
    strange = [
        lambda: b"c" + rng.choice(NAMES).replace(" ", "\n").encode() + b"\n",
        lambda: b"\x8a\x08" + struct.pack("<q", rng.choice([-1, 1 << 40, 1 << 62])),
        lambda: b"X" + struct.pack("<I", rng.choice([3, 1 << 31])) + b"abc",
        lambda: b"j" + struct.pack("<I", rng.choice([0, 1 << 31])),
        lambda: b"r" + struct.pack("<I", rng.choice([0, 1 << 31])),
        lambda: rng.choice(
            [
                b"R",
                b"b",
                b"a",
                b"s",
                b"u",
                b"e",
                b"t",
                b"(",
                b")",
                b"}",
                b"]",
                b"0",
                b"2",
                b"Q",
                b"\x81",
                b"\x85",
                b"\x86",
            ]
        ),
        lambda: b")" + b"q\x00h\x00\x86" * rng.randint(1, 60),
        lambda: b"]" * rng.randint(1, 5000),
        lambda: b"(" * rng.randint(1, 5000),
        lambda: b"L" + b"9" * rng.randint(1, 6000) + b"L\n",
    ]
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(parts))
        what = rng.randrange(3)
        if what == 0:
            del parts[place]
        elif what == 1:
            parts.insert(place, rng.choice(parts))
        else:
            parts.insert(place, rng.choice(strange)())
        if not parts:
            break
    return b"".join(parts)


def broken_json(value: Any, rng: random.Random) -> Any:
    """A value of another type or size somewhere in it."""
    strange = [
        None,
        True,
        -1,
        0,
        1.5,
        1e400,
        10**9,
        10**30,
        "",
        "x" * 100,
        [],
        [[]],
        {},
        {"a": []},
        [1, 2],
        "9" * 30,
        "\x1b[31m",
    ]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: broken_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], broken_json(value[place], rng), *value[place + 1 :]]
    return rng.choice(strange)


def safetensors(rng: random.Random) -> bytes:
    header, data = {}, b""
    for name, array in tensors(rng).items():
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    for _ in range(rng.randint(0, 2)):
        header = broken_json(header, rng)
    text = json.dumps(header).encode()
    size = len(text) if rng.random() < 0.8 else rng.choice([0, 1 << 40, 1 << 62, len(text) - 1])
    return broken_bytes(struct.pack("<Q", size) + text + data, rng, rng.randint(0, 2))


def msgpack_file(rng: random.Random) -> bytes:
    import msgpack

    def packed(array: np.ndarray) -> Any:
        inner = msgpack.packb((list(array.shape), array.dtype.name, array.tobytes()))
        return msgpack.ExtType(1, inner)

    tree: dict[str, Any] = {}
    for name, array in tensors(rng).items():
        *path, last = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch["kernel" if last == "weight" and array.ndim > 1 else last] = packed(array)
    return broken_bytes(msgpack.packb(tree), rng, rng.randint(1, 5))


def config(rng: random.Random) -> bytes:
    values: Any = {
        "model_type": "beit", "architectures": ["BeitForImageClassification"], "hidden_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 8, "image_size": 4, "patch_size": 2, "num_channels": 3,
        "id2label": {"0": "a", "1": "b"}, "layer_norm_eps": 1e-6, "out_indices": [1], "pool_scales": [1, 2], "use_mean_pooling": True,
        "drop_path_rate": 0.1, "hidden_act": "gelu", "problem_type": None, "vocab_size": 8, "segmentation_layers": None,
    }  # fmt: skip
    for _ in range(rng.randint(1, 3)):
        values = broken_json(values, rng)
    text = json.dumps(values)
    if rng.random() < 0.05:
        text = "[" * 100_000
    if rng.random() < 0.05:
        text = text.replace('"hidden_size": 4', '"hidden_size": ' + "9" * 5000)
    return text.encode()


def forge(seed: int, folder: Path) -> Path:
    """Write the file of a seed; a whole folder for `config`."""
    rng = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    path = folder / f"{seed}.pth"
    data, storages = state_file(rng)
    if kind == "opcodes":
        path.write_bytes(archive(broken_opcodes(data, rng), storages))
    elif kind == "bytes of a pickle":
        path.write_bytes(archive(broken_bytes(data, rng, rng.randint(1, 8)), storages))
    elif kind == "zip":
        path.write_bytes(broken_bytes(archive(data, storages, rng), rng, rng.randint(0, 4)))
    elif kind == "legacy":
        head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        keys = pickle.dumps(list(storages), 2)
        raw = b"".join(struct.pack("<q", len(value) // 4) + value for value in storages.values())
        path.write_bytes(broken_bytes(b"".join(head) + data + keys + raw, rng, rng.randint(0, 3)))
    elif kind == "safetensors":
        path = path.with_suffix(".safetensors")
        path.write_bytes(safetensors(rng))
    elif kind == "msgpack":
        path = path.with_suffix(".msgpack")
        path.write_bytes(msgpack_file(rng))
    else:
        path = folder / str(seed)
        path.mkdir()
        (path / "config.json").write_bytes(config(rng))
    return path


def open_all(path: Path) -> None:
    """All that opening does short of building a model in a framework."""
    from beit import BeitConfig
    from beit.checkpoints import Checkpoint
    from beit.models.parameters import shapes_of

    checkpoint = Checkpoint(path)
    found = BeitConfig.from_pretrained(checkpoint)
    if found.hidden_size * found.num_hidden_layers < 10**5:
        shapes_of(found, (found.architectures or ["BeitModel"])[0])
    if not path.is_dir():
        _ = checkpoint.state_dict, checkpoint.left_over, checkpoint.pixels


def main(folder: Path, first: int, last: int) -> dict[str, Any]:
    from beit.core.errors import BeitError

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    found: dict[str, Any] = {"opened": 0, "refused": 0, "bad": [], "slowest": 0.0}
    run: Callable[[Path], None] = open_all
    for seed in range(first, last):
        path = forge(seed, folder)
        signal.alarm(LIMIT_SECONDS)
        began = time.monotonic()
        try:
            run(path)
            found["opened"] += 1
        except BeitError as error:
            found["refused"] += 1
            if "report it" in str(error) or "Traceback" in str(error) or len(str(error)) > 2000:
                found["bad"].append([seed, str(error)[:300]])
        except (Exception, RecursionError) as error:
            found["bad"].append([seed, f"{type(error).__name__}: {error!s:.300}"])
        finally:
            signal.alarm(0)
        found["slowest"] = max(found["slowest"], time.monotonic() - began)
    return found


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))

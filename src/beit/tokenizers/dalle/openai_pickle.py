"""Named tensors from OpenAI's `encoder.pkl` and `decoder.pkl`, without running any code from the files.

These files are entire modules written by `torch.save`. Unpickling them would call whatever they name, and
`torch.load(weights_only=True)` refuses them. This reader interprets the opcodes that `torch.save` writes (protocol 2), with
inert records in the place of objects: a class becomes a `_Global`, which is never called; an object becomes an `_Object`, which
holds attributes; a tensor becomes a few numbers, which are checked against the file before use. Any other name or opcode
raises a `CheckpointError`.

A `pickle.Unpickler` with `find_class` would not be enough: a hostile file could still name huge memo indices (six bytes take
gigabytes), make it hash nested tuples (for hours), use extension codes, which bypass `find_class`, and change our classes by
BUILD. Formats: torch/serialization.py (zip since PyTorch 1.6, "legacy" before).
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from beit.checkpoints.read_weights import diagnose
from beit.core.errors import CheckpointError

# Together these limit the time that a forged file can take. OpenAI's own files are far below each of them.
MAX_STEPS, MAX_PICKLE_BYTES, MAX_MODULES, MAX_DEPTH, MAX_ENTRIES = 100_000, 16 << 20, 2_000, 32, 500
LEGACY_HEAD = (0x1950A86A20F9469CFC6C, 1001)  # magic number, protocol version

# Storage types → numpy's codes. OpenAI's files have no bfloat16 or the like.
DTYPES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Byte": "|u1"}
# Everything a file may name, as "module name" → what stands in for it.
ALLOWED = {
    "collections OrderedDict": "dict",
    "__builtin__ set": "set",
    "builtins set": "set",
    "torch._utils _rebuild_tensor_v2": "tensor",
    "torch._utils _rebuild_parameter": "parameter",
    "torch device": "ignored",
    "functools partial": "ignored",
    "torch.nn.modules.container Sequential": "module",
    "torch.nn.modules.activation ReLU": "module",
    "torch.nn.modules.pooling MaxPool2d": "module",
    "torch.nn.modules.upsampling Upsample": "module",
    "torch.nn.modules.linear Identity": "module",
    **{f"torch {name}Storage": code for name, code in DTYPES.items()},
}
for _module in ("dall_e", "dall_e.encoder", "dall_e.decoder", "dall_e.utils"):  # OpenAI has moved the classes
    for _class in ("Encoder", "EncoderBlock", "Decoder", "DecoderBlock", "Conv2d"):
        ALLOWED[f"{_module} {_class}"] = "module"

_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS: dict[str, Callable[[], object]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}


def read_module_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors of a module that `torch.save` pickled as an object, by their `state_dict` names.

    Args:
        path: `encoder.pkl` or `decoder.pkl` of OpenAI's DALL-E, in the zip or the legacy format.

    Returns:
        `{"blocks.input.w": array, …}` in the module's order: contiguous, writable copies in the file's dtype.

    Raises:
        CheckpointError: the file is missing, damaged or not a pickled module, or it names something outside `ALLOWED`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
        if head.startswith(b"PK\x03\x04"):
            return _read_zip(path)
        if head.startswith(b"\x80\x02"):
            return _read_legacy(path)
        again = "Download the file itself again and compare its size with the server's."
        _refuse(
            diagnose(head) or f"was not written by torch.save (wanted a zip archive or a protocol-2 pickle). {again}"
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:
        # Damaged bytes fail anywhere in the code below, in zipfile or in pickletools, with a dozen types of exceptions.
        detail = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(f"{path} is damaged or was cut short ({detail}). Download it again.") from error


def _refuse(why: str) -> NoReturn:
    raise CheckpointError(why)  # read_module_tensors puts the file's name before it


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            _refuse(f"holds {len(pickles)} entries <folder>/data.pkl; torch.save writes exactly one.")
        root = pickles[0].removesuffix("data.pkl")

        def read(name: str, limit: int) -> bytes:
            info = archive.getinfo(root + name)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > min(limit, size):
                _refuse(f"has a compressed or oversized entry {name!r}: {info.file_size} bytes, expected {limit}.")
            return archive.read(info)  # compares the checksum

        if root + "byteorder" in names and read("byteorder", 16) != b"little":
            _refuse("was written on a big-endian machine; save it again on another.")
        module = _run(io.BytesIO(read("data.pkl", MAX_PICKLE_BYTES)))
        return _rebuild(_named_tensors(module), size, lambda storage: read(f"data/{storage.key}", storage.nbytes))


def _read_legacy(path: Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    stream = io.BytesIO(content)
    if (_run(stream), _run(stream)) != LEGACY_HEAD:
        _refuse("is a pickle, but not one that torch.save wrote.")
    if _run(stream)["little_endian"] is not True:
        _refuse("was written on a big-endian machine; save it again on another.")
    tensors, keys = _named_tensors(_run(stream)), _run(stream)
    # After the list of keys come the storages, each with its number of elements (8 bytes) and the elements.
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    start, begins = stream.tell(), {}
    for key in keys:
        if (numel := int.from_bytes(content[start : start + 8], "little")) != storages[key].numel:
            _refuse(f"is damaged: storage {key} has {numel} elements, its tensor wants {storages[key].numel}.")
        begins[key] = start + 8
        start += 8 + storages[key].nbytes
    return _rebuild(tensors, len(content), lambda s: memoryview(content)[begins[s.key] :][: s.nbytes])


def _rebuild(tensors: Mapping[str, _Tensor], size: int, read: Callable[[_Storage], Any]) -> dict[str, np.ndarray]:
    """Cut the tensors out of their storages. `size`, the file's in bytes, bounds all memory that is taken."""
    storages = {tensor.storage for tensor in tensors.values()}
    if max(sum(tensor.nbytes for tensor in tensors.values()), sum(s.nbytes for s in storages)) > size:
        _refuse("announces more tensor data than it holds: it is damaged or was cut short. Download it again.")
    raw: dict[_Storage, np.ndarray] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        storage = tensor.storage
        if storage not in raw:
            data = read(storage)
            if len(data) != storage.nbytes:
                _refuse(f"was cut short: {name!r} has {len(data)} of {storage.nbytes} bytes. Download it again.")
            raw[storage] = np.frombuffer(data, dtype=storage.code)
        flat = raw[storage][tensor.offset :]
        view = np.lib.stride_tricks.as_strided(flat, tensor.shape, [n * flat.itemsize for n in tensor.strides])
        arrays[name] = np.array(view, dtype=view.dtype.newbyteorder("="), order="C")
    return arrays


def _named_tensors(root: Any) -> dict[str, _Tensor]:
    """Name the parameters and persistent buffers as `state_dict` does: a module's own first, then its children's."""
    found: dict[str, _Tensor] = {}
    todo: list[tuple[str, Any, int]] = [("", root, 0)]
    for _ in range(MAX_MODULES):
        if not todo:
            return found
        prefix, module, depth = todo.pop()
        if not isinstance(module, _Object) or depth > MAX_DEPTH:
            _refuse(f"has no module at {prefix!r}; wanted a module saved whole, as OpenAI published it.")
        tables = [module.state[name] for name in ("_parameters", "_buffers", "_modules")]
        names = [name for table in tables for name in table]
        if len(names) > MAX_ENTRIES or any("." in name or len(name) > 64 for name in names):
            _refuse(f"has too many or impossible names in {prefix!r}.")
        hidden = module.state.get("_non_persistent_buffers_set")
        hidden = hidden if isinstance(hidden, frozenset) else frozenset()
        for name, tensor in [*tables[0].items(), *((n, t) for n, t in tables[1].items() if n not in hidden)]:
            if isinstance(tensor, _Tensor):
                found[prefix + name] = tensor
            elif tensor is not None:
                _refuse(f"has something that is no tensor at {prefix + name!r}.")
        todo += [(f"{prefix}{name}.", child, depth + 1) for name, child in reversed(tables[2].items())]
    _refuse(f"has more than {MAX_MODULES} modules.")


@dataclass(frozen=True)
class _Global:
    kind: str  # of ALLOWED


@dataclass(eq=False)
class _Object:
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Storage:
    key: str
    code: str  # of DTYPES
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * np.dtype(self.code).itemsize


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int  # in elements, as the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape[:9], *self.strides[:9])
        if len(self.shape) > 8 or not all(isinstance(n, int) and 0 <= n < 1 << 48 for n in numbers):
            _refuse("is damaged or forged: a tensor has an impossible shape.")
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and last >= self.storage.numel:
            _refuse("is damaged or forged: a tensor reaches past the end of its storage.")

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.storage.code).itemsize


def _run(stream: io.BytesIO) -> Any:
    """Build what a pickle describes; the stream is then after its STOP.

    Only types without side effects are ever on the stack, so whatever is not checked here fails with an ordinary TypeError.
    """
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
        name = opcode.name
        if count > MAX_STEPS:
            _refuse(f"has a pickle of more than {MAX_STEPS} steps.")
        elif name == "STOP":
            return stack.pop()
        elif name in _LITERALS:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _CONTAINERS:
            stack.append(_CONTAINERS[name]())
        elif name == "MARK":
            marks.append(stack)
            stack = []
        elif name == "TUPLE":
            items, stack = stack, marks.pop()
            stack.append(tuple(items))
        elif name == "APPENDS":
            items, stack = stack, marks.pop()
            stack[-1].extend(items)
        elif name == "SETITEMS":
            items, stack = stack, marks.pop()
            _set_items(stack[-1], items)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple([stack.pop() for _ in range(int(name[-1]))][::-1]))
        elif name == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif name == "SETITEM":
            item, key = stack.pop(), stack.pop()
            _set_items(stack[-1], [key, item])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[int(arg or 0)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(arg or 0)])
        elif name == "GLOBAL":
            stack.append(_find(str(arg)))
        elif name in ("REDUCE", "NEWOBJ"):
            args, function = stack.pop(), stack.pop()
            stack.append(_call(function, args))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(state, (dict, tuple)) or len(state) > MAX_ENTRIES:
                _refuse("is damaged or forged: an object in it has impossible attributes.")
            stack[-1].state |= state if isinstance(state, dict) else {}  # a tuple: functools.partial's
        elif name == "BINPERSID":
            stack.append(_persistent(*stack.pop()))
        elif (name, arg) != ("PROTO", 2):
            _refuse(f"uses the pickle opcode {name}, which torch.save does not write. Nothing was run.")
    raise EOFError("no STOP")


def _set_items(table: dict[str, Any], items: list[Any]) -> None:
    # Only strings: hashing tuples that are nested by memo references takes time exponential in the file's size.
    if not all(isinstance(key, str) for key in items[::2]):
        _refuse("is damaged or forged: a key in it is no string.")
    table.update(zip(items[::2], items[1::2], strict=True))


def _find(name: str) -> _Global:
    if name not in ALLOWED:
        _refuse(
            f"asks for {name.replace(' ', '.')[:120]}, which no DALL-E tokenizer needs. Nothing from the file was run. "
            "Do not open it with torch.load either; take the file that OpenAI published."
        )
    return _Global(ALLOWED[name])


def _call(function: Any, args: Any) -> object:
    match function, args:
        case (_Global("ignored"), _) | (_Global("module"), ()):
            return _Object()
        case _Global("dict"), ():
            return {}
        case _Global("set"), (list(names),) if len(names) < MAX_ENTRIES and all(
            isinstance(name, str) for name in names
        ):
            return frozenset(names)
        case _Global("parameter"), (_Tensor() as tensor, *_):
            return tensor
        case _Global("tensor"), (_Storage() as storage, offset, tuple(shape), tuple(strides), *_):
            return _Tensor(storage, offset, shape, strides)
    _refuse("is damaged or forged: it calls something that is no function, or with arguments of the wrong types.")


def _persistent(*reference: Any) -> object:
    """A storage (a sixth field, for views of storages, is unused since PyTorch 0.4), or a class with its source."""
    match reference:
        case "storage", _Global(code), str(key), _, int(numel), *views if code in DTYPES.values() and numel >= 0:
            if key.isascii() and key.isdigit() and len(key) < 20 and views in ([], [None]):
                return _Storage(key, code, numel)
        case "module", _Global("module") as function, _, _:
            return function
    _refuse("is damaged or forged: a reference in it is neither a storage nor the class of a module.")

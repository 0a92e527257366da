"""Files of `torch.save`, read by following their opcodes: no code of a file is run, and PyTorch is not needed.

`torch.load(weights_only=True)` runs no code either, but it believes what a file says: storages longer than the file end the
process, `bytearray(2**34)` fills the memory, a tuple doubled sixty times by reference never hashes. So this reader builds
plain values only, of inert records in place of objects: a class or function is a `Global`, which is never called; a tensor is
a few numbers, checked against the file before any of its bytes are read. What it builds is bounded by the number of opcodes,
and so by the size of the file. One reader finds the entries of the archive and reads them, so nothing can be hidden from it.

Formats: torch/serialization.py (zip since PyTorch 1.6, "legacy" before); opcodes: pickletools.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from beit.core.errors import CheckpointError

MAX_STEPS = 3_000_000  # opcodes of one pickle: that of a large model with its optimiser has a tenth
MAX_PICKLE_BYTES = 64 << 20
MAX_DEPTH = 64  # state dicts are nested a handful deep
MAX_VALUES = 200_000  # plain values beside the weights; one that occurs twice counts twice
MAX_DIMENSIONS = 16
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LONGEST_INTEGER = 1 << 128
_LARGEST_KEY = 1 << 60  # beyond it integers can be chosen to have one hash, and a table of them takes quadratic time

# Storage classes → numpy's codes. bfloat16, which numpy lacks, is the upper half of a float32.
BFLOAT16 = "bfloat16"
DTYPES = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": BFLOAT16, "Long": "<i8", "Int": "<i4", "Short": "<i2",
    "Char": "|i1", "Byte": "|u1", "Bool": "|b1",
}  # fmt: skip


@dataclass(frozen=True)
class Global:
    """A class or function that the pickle names, such as `collections.OrderedDict`. It is never called."""

    name: str


@dataclass(eq=False)
class Thing:
    """Something in place of an object: of which class, with what attributes."""

    of: Global
    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """Numbers that one or more tensors lie in.

    Attributes:
        key: its name in the file.
        code: of `DTYPES`.
        numel: how many numbers.
    """

    key: str
    code: str
    numel: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers as they are read: bfloat16 as 16-bit words."""
        return np.dtype("<u2" if self.code == BFLOAT16 else self.code)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in a storage; offset and strides count numbers.

    Raises:
        CheckpointError: it does not lie within its storage, or repeats numbers of it.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape[: MAX_DIMENSIONS + 1], *self.strides[: MAX_DIMENSIONS + 1])
        possible = len(self.shape) == len(self.strides) <= MAX_DIMENSIONS
        if not possible or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
            refuse("has a tensor of an impossible shape. It is damaged or forged.")
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and (last >= self.storage.numel or math.prod(self.shape) > self.storage.numel):
            refuse("has a tensor that is larger than what the file holds. It is damaged or forged.")
        if 0 in self.shape and max(self.shape) > self.storage.numel + (1 << 20):
            refuse("has a tensor of an impossible shape. It is damaged or forged.")


class Opened:
    """A file of `torch.save`: what it holds, and the numbers of its tensors when they are asked for.

    Attributes:
        content: plain values, containers, `Thing`s and `Tensor`s.
    """

    def __init__(self, content: Any, read: Callable[[Storage, np.ndarray], None], size: int) -> None:
        self.content = content
        self._read, self._size = read, size
        self._buffers: dict[Storage, np.ndarray] = {}

    def load(self, tensors: Iterable[Tensor]) -> None:
        """Read the storages of these tensors.

        Raises:
            CheckpointError: the file is damaged, or its tensors are larger than the file.
        """
        wanted = {tensor.storage for tensor in tensors} - self._buffers.keys()
        if sum(storage.nbytes for storage in {*wanted, *self._buffers}) > self._size:
            refuse("announces more numbers than it holds. It is damaged or was cut short. Download it again.")
        for storage in wanted:
            buffer = np.empty(storage.numel, storage.dtype)
            self._read(storage, buffer)
            self._buffers[storage] = buffer

    def array(self, tensor: Tensor, order: str = "C") -> np.ndarray:
        """The numbers of a tensor, as a writable array; bfloat16 as 16-bit words. Tensors of one storage share its memory.

        Args:
            tensor: which.
            order: of the numbers in memory: `C`, or `A` for that of the file, which fused optimisers rely on.

        Raises:
            CheckpointError: as `load`.
        """
        if tensor.storage not in self._buffers:
            self.load([tensor])
        flat = self._buffers[tensor.storage][tensor.offset :]
        if 0 in tensor.shape:
            return np.empty(tensor.shape, flat.dtype)
        steps = [stride * flat.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(flat, tensor.shape, steps)
        return np.asarray(view, dtype=view.dtype.newbyteorder("="), order=order)  # type: ignore[call-overload]


def refuse(why: str) -> NoReturn:
    """Raise a CheckpointError that goes on after the file's name."""
    raise CheckpointError(why)


def open_pickle(path: Path, machine: Machine | None = None) -> Opened:
    """Open a file of `torch.save`, in the zip or the legacy format.

    Args:
        path: the file.
        machine: what it may name; by default what state dicts and optimisers need.

    Raises:
        CheckpointError: the file is missing, damaged or forged, or names what no weights need; nothing in it was run.
    """
    machine = Machine() if machine is None else machine
    try:
        with path.open("rb") as file:
            head = file.read(4)
        return _open_zip(path, machine) if head.startswith(b"PK") else _open_legacy(path, machine)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # of damaged bytes, pickletools, zipfile and the code below raise a dozen types
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}). It is damaged, was cut short, or is no file of torch.save. "
            "Download it again, or use a safetensors file."
        ) from error


# --- the two formats -------------------------------------------------------------------------------------------------


def _open_zip(path: Path, machine: Machine) -> Opened:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        folded = {name.lower() for name in entries}
        if len(folded) < len(archive.infolist()):
            refuse("has two entries of the same name, of which readers would take different ones. It is forged.")
        if min((info.header_offset for info in entries.values()), default=0) != 0:
            refuse("has bytes before its archive, which readers would take differently. It is damaged or forged.")
        for info in entries.values():
            # A compressed entry could be small on disk and fill the memory.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                refuse(
                    f"has compressed entries, which torch.save does not write: {info.filename[:60]!r} would grow to "
                    f"{info.file_size:,} bytes. It is refused."
                )
        pickles = [name for name in entries if name.lower().endswith("data.pkl") and name.count("/") < 2]
        name = pickles[0] if len(pickles) == 1 else ""
        if not name.endswith("/data.pkl"):
            refuse(
                f"has {', '.join(pickles)[:80] or 'nothing'} where torch.save writes one entry FOLDER/data.pkl. It is damaged, "
                "forged, or no file of torch.save."
            )
        root = name.removesuffix("data.pkl")
        order = entries.get(f"{root}byteorder")
        if order is not None and order.file_size < 16 and archive.read(order) != b"little":
            refuse("was written on a big-endian machine. Save it again on another.")
        if entries[name].file_size > min(MAX_PICKLE_BYTES, size):
            refuse(f"has a pickle of {entries[name].file_size:,} bytes; weights need a few thousand. It is forged.")
        content = machine.run(io.BytesIO(archive.read(entries[name])))

    def read(storage: Storage, buffer: np.ndarray) -> None:
        info = entries.get(f"{root}data/{storage.key}")
        if info is None or info.file_size != storage.nbytes:
            have = "nothing" if info is None else f"{info.file_size} bytes"
            refuse(f"has {have} of {storage.nbytes} bytes in its storage {storage.key[:20]}. Download it again.")
        with path.open("rb", buffering=0) as file:
            file.seek(info.header_offset)
            header = file.read(30)
            names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            if header[:4] != b"PK\x03\x04":
                refuse(f"has no storage where its archive says. It is damaged; {_AGAIN}")
            file.seek(info.header_offset + 30 + names)
            _fill(file, buffer)
        if info.CRC and zlib.crc32(_bytes_of(buffer)) != info.CRC:
            refuse(f"has a storage whose checksum is wrong. It is damaged; {_AGAIN}")

    return Opened(content, read, size)


def _open_legacy(path: Path, machine: Machine) -> Opened:
    size = path.stat().st_size
    with path.open("rb") as file:
        stream = _Bounded(file)
        if (machine.run(stream), machine.run(stream)) != (LEGACY_MAGIC, 1001):
            refuse("is a pickle, but no file of torch.save. Nothing in it was run. Use a safetensors file.")
        if machine.run(stream)["little_endian"] is not True:
            refuse("was written on a big-endian machine. Save it again on another.")
        content, keys = machine.run(stream), machine.run(stream)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            refuse(f"does not list its storages. It is damaged; {_AGAIN}")
        # After the keys come the storages, each with its number of numbers (8 bytes) and the numbers.
        start, begins = file.tell(), {}
        for key in keys:
            storage = machine.storages.get(key)
            file.seek(start)
            numel = int.from_bytes(file.read(8), "little")
            if storage is None or storage.numel != numel:
                refuse(f"has a storage of {numel} numbers that no tensor describes. It is damaged; {_AGAIN}")
            begins[key] = start + 8
            start += 8 + storage.nbytes

    def read(storage: Storage, buffer: np.ndarray) -> None:
        if storage.key not in begins:
            refuse(f"lacks the storage {storage.key[:20]}. It was cut short; {_AGAIN}")
        with path.open("rb", buffering=0) as file:
            file.seek(begins[storage.key])
            _fill(file, buffer)

    return Opened(content, read, size)


_AGAIN = "download it again."


def _fill(file: IO[bytes], buffer: np.ndarray) -> None:
    rest = _bytes_of(buffer)
    while rest:
        count = file.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            refuse(f"was cut short: {_AGAIN}")
        rest = rest[count:]


def _bytes_of(buffer: np.ndarray) -> memoryview:
    return buffer.view(np.uint8).data if buffer.nbytes else memoryview(bytearray())


class _Bounded:
    """A file whose reads are bounded: the length in front of a text may be anything."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, MAX_PICKLE_BYTES

    def read(self, count: int) -> bytes:
        self.left -= max(count, 0)
        if self.left < 0:
            refuse("has a pickle of more than 64 MiB; weights need a few thousand bytes. It is damaged or forged.")
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline(1 << 16)

    def tell(self) -> int:
        return self.file.tell()


# --- the machine -----------------------------------------------------------------------------------------------------

_LITERALS = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 INT LONG FLOAT BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 SHORT_BINSTRING "
    "BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE STRING".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS: dict[str, Callable[[], object]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_IGNORED = frozenset(("PROTO", "FRAME"))


class Machine:
    """Follows pickles. Only values without side effects are ever on its stack.

    Attributes:
        storages: those that tensors refer to, by key.
        keys: the types that keys of a table may have: those that are quick to hash. Tuples nested by reference take time
            exponential in the file's size.
    """

    keys: tuple[type, ...] = (str, int, float, bytes, type(None))

    # What becomes a `Thing` when it is called: values beside the weights, which nobody needs.
    THINGS = frozenset(
        "argparse.Namespace collections.Counter builtins.set __builtin__.set builtins.frozenset builtins.complex "
        "builtins.bytearray __builtin__.bytearray _codecs.encode torch.device torch.Generator numpy.dtype "
        "numpy.core.multiarray.scalar numpy._core.multiarray.scalar numpy.core.multiarray._reconstruct "
        "numpy._core.multiarray._reconstruct numpy.ndarray pathlib.PosixPath pathlib.WindowsPath pathlib.Path "
        "datetime.datetime datetime.timedelta collections.defaultdict torch.Tensor torch.nn.parameter.Parameter".split()
    )
    TYPES = frozenset(
        "float32 float64 float16 bfloat16 uint8 int8 int16 int32 int64 bool complex64 complex128 strided sparse_coo "
        "contiguous_format preserve_format channels_last half float double long int short".split()
    )
    BUILDERS = frozenset(
        "collections.OrderedDict torch.Size torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2 "
        "torch._utils._rebuild_parameter torch._utils._rebuild_parameter_with_state "
        "torch._tensor._rebuild_from_type_v2".split()
    )

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._copied = 0

    def charge(self, copied: int) -> None:
        """Count the values that a step copies: a pickle may copy one long list again and again by reference.

        Raises:
            CheckpointError: it copies more than any weights need.
        """
        self._copied += copied
        if self._copied > MAX_STEPS:
            refuse(f"copies more than {MAX_STEPS:,} values. It is damaged or forged.")

    def run(self, stream: Any) -> Any:
        """Build what a pickle describes; the stream is then after its STOP.

        Raises:
            CheckpointError: it names what no weights need, or describes something absurd.
            Exception: it is damaged; of any type.
        """
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            name = opcode.name
            if count > MAX_STEPS:
                refuse(f"has a pickle of more than {MAX_STEPS:,} steps. It is damaged or forged.")
            if name == "STOP":
                return stack.pop()
            if name in _LITERALS:
                if type(argument) is int and abs(argument) > _LONGEST_INTEGER:
                    refuse("has an integer of more than 38 digits. It is damaged or forged.")
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in _CONTAINERS:
                stack.append(_CONTAINERS[name]())
            elif name == "MARK":
                marks.append(stack)
                stack = []
            elif name in ("TUPLE", "LIST", "DICT", "FROZENSET"):
                items, stack = stack, marks.pop()
                stack.append(_container(name, items, self.keys))
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                stack.append(tuple([stack.pop() for _ in range(int(name[-1]))][::-1]))
            elif name == "APPENDS":
                items, stack = stack, marks.pop()
                _list(stack[-1]).extend(items)
            elif name == "APPEND":
                item = stack.pop()
                _list(stack[-1]).append(item)
            elif name == "SETITEMS":
                items, stack = stack, marks.pop()
                _set_items(stack[-1], items, self.keys)
            elif name == "SETITEM":
                item, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, item], self.keys)
            elif name == "EMPTY_SET":
                stack.append(Thing(Global("builtins.set")))
            elif name == "ADDITEMS":
                stack = marks.pop()
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[int(argument)] = stack[-1]  # type: ignore[arg-type]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(memo[int(argument)])  # type: ignore[arg-type]
            elif name == "GLOBAL":
                stack.append(self.find(str(argument).replace(" ", ".")))
            elif name == "STACK_GLOBAL":
                last, first = stack.pop(), stack.pop()
                stack.append(self.find(f"{first}.{last}"))
            elif name in ("REDUCE", "NEWOBJ"):
                arguments, function = stack.pop(), stack.pop()
                stack.append(self.call(function, arguments))
            elif name == "POP":
                stack.pop()
            elif name == "BUILD":
                state = stack.pop()
                self.build(stack[-1], state)
            elif name == "BINPERSID":
                stack.append(self.persistent(stack.pop()))
            elif name not in _IGNORED:
                refuse(f"uses the pickle opcode {name}, which torch.save does not write. Nothing in it was run.")
        raise EOFError("no STOP")

    def find(self, name: str) -> Global:
        """What stands for a class or function. Raises CheckpointError where no weights need it."""
        first, _, last = name.rpartition(".")
        if name in self.THINGS or name in self.BUILDERS or (first == "torch" and last in self.TYPES):
            return Global(name)
        if first in ("torch", "torch.cuda") and last.removesuffix("Storage") in DTYPES and last.endswith("Storage"):
            return Global(name)
        of_tensors = name.startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_", "torch.storage."))
        if of_tensors or (first in ("torch", "torch.cuda") and last.endswith("Storage")):
            refuse(
                f"holds tensors of a kind that cannot be read here: {name[:80]} (sparse, quantised or of another "
                "device). Save dense float tensors."
            )
        refuse(
            f"asks for {name[:80]}, which no weights need, so it is refused; nothing in it was run. Ask for a safetensors file. "
            "Where you trust the sender, save the weights alone, by "
            "torch.save({'model': torch.load(file, weights_only=False)['model']}, new), on a machine you can spare."
        )

    def call(self, function: Any, arguments: Any) -> Any:
        """What a call would have made."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            refuse("calls something that is no function. It is damaged or forged.")
        if function.name in self.THINGS:
            return Thing(function)
        match function.name.rpartition(".")[2], arguments:
            case "OrderedDict", ():
                return {}
            case "OrderedDict", (list(pairs),):
                self.charge(len(pairs))
                if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
                    refuse("makes a table of something that is no pairs. It is damaged or forged.")
                table: dict[Any, Any] = {}
                _set_items(table, [item for pair in pairs for item in pair], self.keys)
                return table
            case "Size", (list() | tuple() as sizes,):
                self.charge(len(sizes))
                return tuple(sizes)
            case (("_rebuild_parameter" | "_rebuild_parameter_with_state"), (Tensor() as tensor, *_)):
                return tensor
            case (
                ("_rebuild_tensor" | "_rebuild_tensor_v2"),
                (Storage() as storage, offset, tuple(shape), tuple(strides), *_),
            ):
                return Tensor(storage, offset, shape, strides)
            case "_rebuild_from_type_v2", (Global() as builder, Global(), tuple(given), *_) if (
                builder.name in self.BUILDERS
            ):
                return self.call(builder, given)
        refuse("calls a function with arguments of the wrong types. It is damaged or forged.")

    def build(self, target: Any, state: Any) -> None:
        """Give a `Thing` its attributes; attributes of containers and tensors are dropped, as they are no weights."""
        if isinstance(target, Thing) and isinstance(state, dict):
            self.charge(len(state))
            target.state.update(state)
        elif not isinstance(target, Thing | dict | Tensor):
            refuse("gives attributes to something that has none. It is damaged or forged.")

    def persistent(self, reference: Any) -> Storage:
        """A storage that the pickle refers to."""
        match reference:
            case ("storage", Global(name), str(key), _, int(numel), *views) if 0 <= numel < 1 << 48 and views in (
                [],
                [None],
            ):
                code = DTYPES.get(name.rpartition(".")[2].removesuffix("Storage"))
                if code is not None and len(key) < 80:
                    storage = Storage(key, code, numel)
                    if self.storages.setdefault(key, storage) != storage:
                        refuse(f"describes its storage {key[:20]!r} in two ways. It is damaged or forged.")
                    return storage
        refuse("refers to something that is no storage of numbers. It is damaged or forged.")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        refuse("appends to something that is no list. It is damaged or forged.")
    return value


def _container(name: str, items: list[Any], keys: tuple[type, ...]) -> Any:
    if name == "DICT":
        table: dict[Any, Any] = {}
        _set_items(table, items, keys)
        return table
    if name == "FROZENSET":
        return Thing(Global("builtins.frozenset"))
    return tuple(items) if name == "TUPLE" else list(items)


def _set_items(table: Any, items: list[Any], keys: tuple[type, ...]) -> None:
    if not all(isinstance(key, keys) for key in items[::2]):
        refuse("has a key that is neither text nor a number. It is damaged or forged.")
    if any(type(key) is int and abs(key) > _LARGEST_KEY for key in items[::2]):
        refuse("has a number of more than 18 digits as a key. It is damaged or forged.")
    pairs = zip(items[::2], items[1::2], strict=True)
    if isinstance(table, Thing):
        return  # a dict of another class, such as defaultdict: no weights
    if not isinstance(table, dict):
        refuse("puts items into something that is no table. It is damaged or forged.")
    table.update(pairs)


# --- plain values ------------------------------------------------------------------------------------------------------


def plain(value: Any, tensor: Callable[[Tensor], Any]) -> Any:
    """A copy of what a pickle describes, of dicts, lists, tuples and plain values; a `Thing` becomes its attributes.

    Args:
        value: from `Opened.content`.
        tensor: what a tensor becomes.

    Raises:
        CheckpointError: it is nested too deep, or larger than anything that stands beside weights.
    """
    left = [MAX_VALUES]

    def copied(one: Any, depth: int) -> Any:
        left[0] -= 1
        if depth > MAX_DEPTH or left[0] < 0:
            refuse(f"nests values more than {MAX_DEPTH} deep, or repeats them without end. It is damaged or forged.")
        if isinstance(one, Tensor):
            return tensor(one)
        if isinstance(one, Mapping):
            return {key: copied(item, depth + 1) for key, item in one.items()}
        if isinstance(one, list | tuple):
            return type(one)(copied(item, depth + 1) for item in one)
        if isinstance(one, Thing):
            return copied(one.state, depth) if one.state else None
        return None if isinstance(one, Global | Storage) else one

    return copied(value, 0)

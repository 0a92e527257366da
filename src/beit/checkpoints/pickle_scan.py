"""What a pickle would build and ask for, found without building it.

`torch.load(weights_only=True)` runs no code of a file, but it still builds what the file describes, and hashes the keys: a
tuple nested 200,000 deep ends the process, and one doubled sixty times through the memo never finishes. So we follow the
pickle's opcodes first, as `pickletools` documents them. Each value on the stack is two numbers: how deep it is nested, and its
weight, the number of values in it.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

from beit.core.errors import CheckpointError

MAX_DEPTH = 200  # state dicts are nested a handful deep
MAX_WEIGHT = 1_000_000  # values in one tuple; a value that occurs twice counts twice
_LEGACY_PICKLES = 5  # magic number, version, machine, content, keys; then raw numbers
_GROWS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}


class _Size(NamedTuple):
    depth: int
    weight: int


def scan(path: Path) -> list[str]:
    """Follow the pickles in a file of `torch.save`.

    Returns:
        The classes and functions that they ask for, such as `torch._utils._rebuild_tensor_v2`.

    Raises:
        CheckpointError: they would build something absurd, the file's zip is compressed, or it is damaged.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                return _scan_zip(path)
            file.seek(0)
            return [name for _ in range(_LEGACY_PICKLES) for name in _follow(file, path)]
    except CheckpointError:
        raise
    except Exception as error:  # of damaged bytes, pickletools and zipfile raise a dozen types
        raise CheckpointError(
            f"{path} cannot be read safely ({type(error).__name__}). It is damaged, or a pickle that wants to run code, which "
            "is refused. Download it again, or use a safetensors file."
        ) from error


def _scan_zip(path: Path) -> list[str]:
    asked: list[str] = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # A compressed entry could be small on disk and fill the memory.
            if info.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(
                    f"{path} has compressed entries, which torch.save does not write: {info.filename[:60]!r} would grow to "
                    f"{info.file_size:,} bytes. It is refused."
                )
            if info.filename.endswith("/data.pkl"):
                with archive.open(info) as file:
                    asked += _follow(file, path)
    return asked


def _follow(file: IO[bytes], path: Path) -> list[str]:
    """Follow one pickle to its end; the names that it asks for."""
    stack: list[_Size] = []
    marks: list[int] = []
    memo: dict[Any, _Size] = {}
    asked: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        name, before, after = opcode.name, opcode.stack_before, opcode.stack_after
        if name == "MARK":
            marks.append(len(stack))
            continue
        if name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
            continue
        if name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
            continue
        if name in ("GLOBAL", "INST"):
            asked.append(str(argument).replace(" ", "."))
        if pickletools.markobject in before:
            start = marks.pop()
            # What stands before the mark in the opcode's list is taken from below it: the table that items go into.
            start -= before.index(pickletools.markobject)
        else:
            start = len(stack) - len(before)
        if start < 0:
            raise ValueError("more is taken from the stack than is there")
        taken, stack = stack[start:], stack[:start]
        size = _made_of(name, taken)
        if size.depth > MAX_DEPTH or (name.startswith("TUPLE") and size.weight > MAX_WEIGHT):
            raise CheckpointError(
                f"{path} is damaged or forged: its pickle nests values {size.depth:,} deep or repeats them {size.weight:,} "
                "times. It is refused; nothing in it was run."
            )
        stack += [size] * len(after)
    return asked


def _made_of(name: str, taken: list[_Size]) -> _Size:
    """The size of what an opcode makes of the values that it takes from the stack."""
    depths = [item.depth for item in taken]
    if name in _GROWS:  # items are put into a table, which is as deep as before or one deeper than they are
        depth = max(depths[0], 1 + max(depths[1:], default=0))
    else:
        depth = 1 + max(depths, default=0)
    return _Size(depth, 1 + sum(item.weight for item in taken))

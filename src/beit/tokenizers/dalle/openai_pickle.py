"""Named tensors from OpenAI's `encoder.pkl` and `decoder.pkl`, without running any code from the files.

These files are entire modules written by `torch.save`. Unpickling them would call whatever they name, and
`torch.load(weights_only=True)` refuses them. So the opcodes are followed as in every file of `torch.save` (see
`checkpoints/pickles.py`), by a machine that knows the classes of DALL-E beside tensors: an object of such a class becomes a
`Thing`, which holds its attributes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from beit.checkpoints.pickles import Global, Machine, Tensor, Thing, open_pickle, refuse
from beit.checkpoints.read_pickle import as_array
from beit.checkpoints.read_weights import diagnose
from beit.core.errors import CheckpointError

# Together these limit the time that a forged file can take. OpenAI's own files are far below each of them.
MAX_MODULES, MAX_DEPTH, MAX_ENTRIES = 2_000, 32, 500

_SETS = ("__builtin__.set", "builtins.set")  # of the names of buffers
_MODULES = frozenset(
    [
        *(f"torch.nn.modules.{name}" for name in (
            "container.Sequential", "activation.ReLU", "pooling.MaxPool2d", "upsampling.Upsample", "linear.Identity",
        )),
        *(
            f"{home}.{name}"
            for home in ("dall_e", "dall_e.encoder", "dall_e.decoder", "dall_e.utils")  # OpenAI has moved the classes
            for name in ("Encoder", "EncoderBlock", "Decoder", "DecoderBlock", "Conv2d")
        ),
    ]
)  # fmt: skip


class _Modules(Machine):
    """Follows pickles of DALL-E's modules: names no other classes than theirs."""

    THINGS = frozenset((*_MODULES, *_SETS, "torch.device", "functools.partial"))
    TYPES = frozenset()
    BUILDERS = frozenset(
        ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
    )

    def call(self, function: Any, arguments: Any) -> Any:
        match function, arguments:
            case Global(name), (list(names),) if name in _SETS:
                self.charge(len(names))
                if not all(isinstance(one, str) for one in names):
                    refuse("has a set of something that is no text. It is damaged or forged.")
                return frozenset(names)
            case Global(name), arguments if name in _MODULES and arguments != ():
                refuse("makes a module with arguments. It is damaged or forged.")
        return super().call(function, arguments)

    def persistent(self, reference: Any) -> Any:
        """A storage; or, in the legacy format, a class with its source."""
        match reference:
            case "module", Global(name) as function, _, _ if name in _MODULES:
                return function
        return super().persistent(reference)


def read_module_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors of a module that `torch.save` pickled as an object, by their `state_dict` names.

    Args:
        path: `encoder.pkl` or `decoder.pkl` of OpenAI's DALL-E, in the zip or the legacy format.

    Returns:
        `{"blocks.input.w": array, …}` in the module's order: contiguous, writable copies in the file's dtype.

    Raises:
        CheckpointError: the file is missing, damaged or not a pickled module, or it names a class that no tokenizer needs.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not head.startswith((b"PK\x03\x04", b"\x80\x02")):
        again = "Download the file itself again and compare its size with the server's."
        why = diagnose(head) or f"was not written by torch.save (wanted a zip archive or a protocol-2 pickle). {again}"
        raise CheckpointError(f"{path} {why}")
    opened = open_pickle(path, _Modules())
    try:
        tensors = _named_tensors(opened.content)
        if sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in tensors.values()) > size:
            refuse("announces more numbers than it holds: it is damaged or was cut short. Download it again.")
        opened.load(tensors.values())
        return {name: np.array(as_array(opened, tensor), order="C") for name, tensor in tensors.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error


def _named_tensors(root: Any) -> dict[str, Tensor]:
    """Name the parameters and persistent buffers as `state_dict` does: a module's own first, then its children's."""
    found: dict[str, Tensor] = {}
    todo: list[tuple[str, Any, int]] = [("", root, 0)]
    for _ in range(MAX_MODULES):
        if not todo:
            return found
        prefix, module, depth = todo.pop()
        if not isinstance(module, Thing) or depth > MAX_DEPTH:
            refuse(f"has no module at {prefix!r}; wanted a module saved whole, as OpenAI published it.")
        tables: list[Any] = [module.state.get(name) for name in ("_parameters", "_buffers", "_modules")]
        if not all(isinstance(table, dict) for table in tables):
            refuse(f"has no parameters at {prefix!r}; wanted a module saved whole, as OpenAI published it.")
        names = [name for table in tables for name in table]
        if len(names) > MAX_ENTRIES or any(
            not isinstance(name, str) or "." in name or len(name) > 64 for name in names
        ):
            refuse(f"has too many or impossible names in {prefix!r}.")
        hidden = module.state.get("_non_persistent_buffers_set")
        hidden = hidden if isinstance(hidden, frozenset) else frozenset()
        for name, tensor in [*tables[0].items(), *((n, t) for n, t in tables[1].items() if n not in hidden)]:
            if isinstance(tensor, Tensor):
                found[prefix + name] = tensor
            elif tensor is not None:
                refuse(f"has something that is no tensor at {prefix + name!r}.")
        todo += [(f"{prefix}{name}.", child, depth + 1) for name, child in reversed(tables[2].items())]
    raise CheckpointError(f"has more than {MAX_MODULES} modules.")

"""What a sharded checkpoint holds besides tensors, looked at before PyTorch unpickles it.

`torch.distributed.checkpoint` reads the file `.metadata` by `pickle.load`, and values that are no tensors by
`torch.load(weights_only=False)`: both run whatever the file names. A folder to resume from may come from someone else, so both
are followed first by a machine that runs nothing. Tensors are read by `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import CheckpointException, DefaultLoadPlanner, FileSystemReader, load
from torch.distributed.checkpoint.planner import ReadItem

from beit.checkpoints.pickles import Global, Machine, Thing, open_pickle, refuse
from beit.core.errors import CheckpointError
from beit.core.text import printable

INDEX = ".metadata"


def load_shards(state: dict[str, Any], folder: Path) -> None:
    """Fill tensors and values with those of a sharded checkpoint. All processes must call it.

    Args:
        state: nested, of tensors that may be split over processes; changed in place.
        folder: of `.metadata` and the parts.

    Raises:
        CheckpointError: it is damaged or forged, or lacks what `state` has; nothing in it was run.
    """
    check_index(folder)
    try:
        with warnings.catch_warnings():  # a single process may read what several wrote
            warnings.filterwarnings("ignore", "torch.distributed is (disabled, )?unavailable or uninitialized")
            load(state, storage_reader=FileSystemReader(folder), planner=Planner())
    except CheckpointException as error:  # what went wrong in any process; not derived from Exception
        causes = [failure[0] for failure in error.failures.values()]
        cause = next((one for one in causes if isinstance(one, CheckpointError)), causes[0] if causes else error)
        what = cause if isinstance(cause, CheckpointError) else f"{type(cause).__name__}: {printable(cause, 200)}"
        raise CheckpointError(f"{folder} cannot be read: {what}") from error


def check_index(folder: Path) -> None:
    """Refuse a sharded checkpoint whose index names what no index needs.

    Raises:
        CheckpointError: that, or the index is missing or damaged.
    """
    path = folder / INDEX
    try:
        with path.open("rb") as file:
            _Index().run(file)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error
    except Exception as error:  # of damaged bytes, of a dozen types
        raise CheckpointError(f"{path} is missing or damaged ({type(error).__name__}).") from error


_METADATA = "torch.distributed.checkpoint.metadata"
_KEY = f"{_METADATA}.MetadataIndex"  # the objects that are keys of a table


class _Index(Machine):
    """Follows an index. Every name is listed in full: PyTorch's `pickle.load` would also take `metadata` and `os.system`.

    What it lets pass is made by `pickle.load` afterwards. So nothing is among the names that makes much of little, and a key
    holds no nested tuples, of which a hash could take for ever.
    """

    keys = (*Machine.keys, Thing)
    THINGS = frozenset(
        (
            *(
                f"{_METADATA}.{name}"
                for name in (
                    "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
                    "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
                )
            ),
            "torch.distributed.checkpoint.filesystem._StorageInfo",
            "torch.serialization._get_layout",
            "pathlib.PosixPath",
            "pathlib.WindowsPath",
        )
    )  # fmt: skip
    BUILDERS = frozenset(("torch.Size", "collections.OrderedDict"))

    def call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Global) and function.name == _KEY and arguments != ():
            refuse("makes a key with arguments. It is damaged or forged.")
        return super().call(function, arguments)

    def build(self, target: Any, state: Any) -> None:
        if isinstance(target, Thing) and target.of.name == _KEY:
            values = state.values() if isinstance(state, dict) else [()]
            plain = (str, int, type(None))
            if not all(
                isinstance(value, plain) or (isinstance(value, tuple) and all(type(one) is int for one in value))
                for value in values
            ):
                refuse("has a key that is neither a name nor a place. It is damaged or forged.")
        super().build(target, state)


class Planner(DefaultLoadPlanner):
    """Loads as PyTorch's own, after a look at each value that is no tensor. Raises CheckpointError where it is forged."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """A value that `torch.save` wrote: a learning rate, a list of names."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"value {read_item.dest_index.fqn[:80].replace('/', '_')}"
            path.write_bytes(value.getvalue())
            open_pickle(path, _Value())
        super().load_bytes(read_item, value)


class _Value(Machine):
    """Follows a plain value; whatever could be called is refused, since `torch.load` would call it."""

    THINGS = frozenset()

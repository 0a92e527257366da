"""The index of a sharded checkpoint, looked at before PyTorch unpickles it.

`torch.distributed.checkpoint` reads the file `.metadata` by `pickle.load`, which runs whatever the file names. A folder to
resume from may come from someone else, so its index is followed first by a machine that runs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beit.checkpoints.pickles import Global, Machine, Thing
from beit.core.errors import CheckpointError

INDEX = ".metadata"


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


class _Index(Machine):
    """Follows an index. Its tables have objects as keys, which stand for themselves."""

    keys = (*Machine.keys, Thing)

    def find(self, name: str) -> Global:
        """As in weights, and the classes of an index."""
        of_index = name.startswith("torch.distributed.checkpoint.metadata.") and name.count(".") < 6
        if of_index or name in (
            "torch.distributed.checkpoint.filesystem._StorageInfo",
            "torch.serialization._get_layout",
        ):
            return Global(name)
        return super().find(name)

    def call(self, function: Any, arguments: Any) -> Any:
        """Something inert for each object."""
        if isinstance(function, Global) and function.name not in self.BUILDERS:
            return Thing(function)
        return super().call(function, arguments)

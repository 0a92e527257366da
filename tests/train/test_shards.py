"""The index of a sharded checkpoint is looked at before PyTorch unpickles it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from beit import CheckpointError
from beit.train.torch.shards import INDEX, check_index

WRITE = """
import os, sys
import torch
import torch.distributed as distributed
from torch.distributed.checkpoint import FileSystemWriter, save
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1)
model = torch.nn.Linear(4, 4)
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 4)).sum().backward()
optimizer.step()
save({"optimizer": get_optimizer_state_dict(model, optimizer)}, storage_writer=FileSystemWriter(f"{sys.argv[1]}/saved"))
"""


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_an_index_of_pytorch_passes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", WRITE, str(tmp_path)], check=True, capture_output=True)
    check_index(tmp_path / "saved")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_an_index_that_runs_something_is_refused(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for thing in (Calls(os.system, f"touch {mark}"), {"state_dict_metadata": [Calls(exec, "raise SystemExit")]}):
        (tmp_path / INDEX).write_bytes(pickle.dumps(thing, protocol))
        with pytest.raises(CheckpointError, match=r"metadata asks for .* nothing in it was run"):
            check_index(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"junk", None])
def test_a_damaged_index_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"missing or damaged"):
        check_index(tmp_path)

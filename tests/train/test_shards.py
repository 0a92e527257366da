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

from torch.distributed.checkpoint import FileSystemWriter, save

from beit import CheckpointError
from beit.train.torch.shards import INDEX, check_index, load_shards

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


@pytest.mark.parametrize(
    "name",
    [
        "torch.distributed.checkpoint.metadata os.system",  # which protocol 4 looks up in the module, part by part
        "builtins bytearray",
        "_codecs encode",
        "torch.distributed.checkpoint.metadata Metadata.__init__",
    ],
)
def test_an_index_names_its_own_classes_alone(name: str, tmp_path: Path) -> None:
    module, _, attribute = name.partition(" ")
    words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, attribute))
    (tmp_path / INDEX).write_bytes(b"\x80\x04" + words + b"\x93\x8c\x02ls\x85R.")
    with pytest.raises(CheckpointError, match="asks for"):
        check_index(tmp_path)


def test_a_key_that_takes_for_ever_to_hash(tmp_path: Path) -> None:
    key = b"ctorch.distributed.checkpoint.metadata\nMetadataIndex\n)\x81}X\x03\x00\x00\x00fqn"
    (tmp_path / INDEX).write_bytes(b"\x80\x02}" + key + b")" + b"q\x00h\x00\x86" * 60 + b"sbNs.")
    with pytest.raises(CheckpointError, match="a key that is neither a name nor a place"):
        check_index(tmp_path)


def saved(folder: Path, **values: Any) -> dict[str, Any]:
    """Writes a checkpoint; returns what it may be loaded into."""
    save({"a": torch.arange(4.0), **values}, storage_writer=FileSystemWriter(folder), no_dist=True)
    return {"a": torch.zeros(4), **dict.fromkeys(values)}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_values_that_are_no_tensors_come_back(tmp_path: Path) -> None:
    values = {"rate": 0.5, "groups": [{"names": ["x", "y"], "betas": (0.9, 0.95), "fused": None}]}
    saved(tmp_path, **values)
    state = {"a": torch.zeros(4), "rate": 0.0, "groups": [{"names": ["", ""], "betas": (0.0, 0.0), "fused": 1}]}
    load_shards(state, tmp_path)
    assert torch.equal(state.pop("a"), torch.arange(4.0))
    assert state == values


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_value_that_runs_something_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    state = saved(tmp_path / "x", rate=Calls(os.system, f"touch {mark}"))
    with pytest.raises(CheckpointError, match=r"cannot be read: .*value rate asks for .*system"):
        load_shards(state, tmp_path / "x")
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("kept", [0, 0.3, 0.9])
def test_a_part_that_was_cut_short(kept: float, tmp_path: Path) -> None:
    state = saved(tmp_path, rate=0.5)
    part = next(tmp_path.glob("*.distcp"))
    part.write_bytes(part.read_bytes()[: int(kept * part.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"cannot be read: "):
        load_shards(state, tmp_path)

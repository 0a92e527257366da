"""Weight files in one piece and in shards: whole or untouched, and none left over that could be read by mistake."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit import CheckpointError
from beit.checkpoints import hub, read_weights
from beit.checkpoints.write_weights import write_tensors, write_weights
from beit.core.files import read_json, write_json
from fixtures_files import arrays, files, no_file_above, same


@pytest.mark.parametrize(("free", "advice"), [(0, "Free some space"), (10**9, "Check the path")])
def test_a_library_that_hides_the_reason_of_a_failed_write(
    free: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the disk is full is asked of the file system, not read in the words of an error."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    with no_file_above(50_000), pytest.raises(CheckpointError, match=advice):
        write_tensors(tmp_path / "model.safetensors", {"t": np.zeros(100_000, "f4")})
    assert files(tmp_path) == []


def test_full_disk_among_shards(tmp_path: Path) -> None:
    """The second shard does not fit: the first is not the new one among old ones."""
    old = {"a": np.zeros(100, "f4"), "b": np.zeros(100, "f4")}
    new = {"a": np.ones(100, "f4"), "b": np.ones(100_000, "f4")}
    write_weights(tmp_path, old, 400)
    with no_file_above(50_000), pytest.raises(CheckpointError, match="could not be written"):
        write_weights(tmp_path, new, 400)
    assert same(read_weights.read_files(hub.resolve_weights(tmp_path)).tensors, old)
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize(("most", "shards"), [(10**9, 1), (420, 3), (1, 5), (0, 5)])
def test_shards(most: int, shards: int, tmp_path: Path) -> None:
    write_weights(tmp_path, arrays(), most)
    found = hub.resolve_weights(tmp_path)
    assert len(found) == shards
    assert same(read_weights.read_files(found).tensors, arrays())
    if shards > 1:
        index = read_json(tmp_path / hub.SAFETENSORS_INDEX)
        assert index["metadata"]["total_size"] == sum(array.nbytes for array in arrays().values())
        assert index["weight_map"].keys() == arrays().keys()
        assert found[0].name == f"model-00001-of-0000{shards}.safetensors"
    for path in found:  # the marker that the transformers library looks for
        assert b'"format":"pt"' in path.read_bytes()[:2000]


def test_saving_again_leaves_no_stale_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for seed, most in enumerate((1, 420, 10**9, 420)):
        write_weights(tmp_path, arrays(seed), most)
        assert same(read_weights.read_files(hub.resolve_weights(tmp_path)).tensors, arrays(seed))
    write_weights(tmp_path, arrays(9))
    assert files(tmp_path) == ["model.safetensors", "notes.txt"]


def test_missing_shard(tmp_path: Path) -> None:
    write_weights(tmp_path, arrays(), 420)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model-00002-of-00003.safetensors"):
        hub.resolve_weights(tmp_path)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", 7])
def test_shard_outside_the_folder(shard: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_tensors(tmp_path / "secret.safetensors", arrays())
    write_json(folder / hub.SAFETENSORS_INDEX, {"weight_map": {"t0": shard}})
    with pytest.raises(CheckpointError, match=r"outside its folder|has no \.\."):
        hub.resolve_weights(folder)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": {}}, {"weight_map": ["a"]}, "x"])
def test_damaged_index(index: Any, tmp_path: Path) -> None:
    write_json(tmp_path / hub.SAFETENSORS_INDEX, index)
    with pytest.raises(CheckpointError, match="weight_map"):
        hub.resolve_weights(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(CheckpointError, match=r"no weights: looked for model.safetensors, .*pytorch_model.bin"):
        hub.resolve_weights(tmp_path)

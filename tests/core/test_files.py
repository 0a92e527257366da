"""Files are whole or untouched, whatever goes wrong while they are written."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from beit import CheckpointError
from beit.checkpoints import read_weights
from beit.checkpoints.write_weights import write_tensors
from beit.core.files import atomic_path, read_json, write_json
from fixtures_files import arrays, fail, files, no_file_above, same


def test_the_longest_name_that_a_file_can_have(tmp_path: Path) -> None:
    path = tmp_path / ("猫" * 83 + ".txt")  # 253 bytes
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_failed_write_leaves_the_old_file(
    step: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tensors(tmp_path / "model.safetensors", arrays(0))
    write_json(tmp_path / "config.json", {"a": 1})
    monkeypatch.setattr(os, step, fail(code))
    for write in (
        lambda: write_tensors(tmp_path / "model.safetensors", arrays(1)),
        lambda: write_json(tmp_path / "config.json", {"a": 2}),
    ):
        with pytest.raises(CheckpointError, match=r"untouched") as caught:
            write()
        assert ("Free some space" in str(caught.value)) == (code == errno.ENOSPC)
    monkeypatch.undo()
    assert same(read_weights.read_tensors(tmp_path / "model.safetensors"), arrays(0))
    assert read_json(tmp_path / "config.json") == {"a": 1}
    assert files(tmp_path) == ["config.json", "model.safetensors"]


def test_full_disk(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", arrays(0))
    big = {"t": np.zeros(100_000, "f4")}
    with no_file_above(50_000):
        with pytest.raises(CheckpointError, match="could not be written"):
            write_tensors(tmp_path / "model.safetensors", big)
        with pytest.raises(CheckpointError, match="could not be written"):
            write_json(tmp_path / "config.json", {"a": "x" * 100_000})
    assert same(read_weights.read_tensors(tmp_path / "model.safetensors"), arrays(0))
    assert files(tmp_path) == ["model.safetensors"]


def test_error_inside_the_block_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def half() -> None:
        with atomic_path(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        half()
    assert (tmp_path / "x").read_text() == "old"
    assert files(tmp_path) == ["x"]


def test_files_have_ordinary_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beit.core.files._UMASK", 0o027)  # read once, at import
    write_json(tmp_path / "config.json", {})
    assert (tmp_path / "config.json").stat().st_mode & 0o777 == 0o640


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="could not be written"):
        write_json(tmp_path / "file" / "config.json", {})


def test_a_full_disk_that_numpy_hides_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy says how many bytes were written, without the system's error number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "x.npy").write_bytes(b"before")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with (
            pytest.raises(
                CheckpointError, match=r"x\.npy could not be written: No space left on device\. Free some space"
            ),
            atomic_path(tmp_path / "x.npy") as temporary,
            open(temporary, "wb") as file,
        ):
            np.save(file, np.zeros(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
    assert (tmp_path / "x.npy").read_bytes() == b"before"

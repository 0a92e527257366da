"""Weight files: read exactly; damaged, unsafe and unknown ones refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit import CheckpointError
from beit.checkpoints import hub, read_weights
from beit.checkpoints.write_weights import write_tensors, write_weights
from fixtures_files import arrays, same


def test_truncated_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, arrays())
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 9, 50, 300, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="damaged"):
            read_weights.read_tensors(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        read_weights.read_tensors(path)


def test_flipped_header_bytes(tmp_path: Path) -> None:
    """A damaged header is refused, or it happens to be another sound header (a renamed tensor): nothing else."""
    path = tmp_path / "model.safetensors"
    write_tensors(path, {**arrays(), "b": np.zeros(3, "f2")})
    whole = bytearray(path.read_bytes())
    header = int.from_bytes(whole[:8], "little")
    refused = 0
    for at in range(0, 8 + header, 3):
        damaged = bytearray(whole)
        damaged[at] ^= 0x15
        path.write_bytes(damaged)
        try:
            tensors = read_weights.read_tensors(path)
        except CheckpointError as error:
            assert "damaged" in str(error)  # noqa: PT017
            refused += 1
        else:
            assert all(isinstance(array, np.ndarray) for array in tensors.values())
    assert refused > header / 6


def test_not_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for content in (b"<html>404</html>" * 10, b"\xff" * 64, b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
            read_weights.read_tensors(path)
    with pytest.raises(CheckpointError):
        read_weights.read_tensors(tmp_path / "absent.safetensors")


def test_arrays_are_writable(tmp_path: Path) -> None:
    write_tensors(tmp_path / "m.safetensors", arrays())
    tensors = read_weights.read_tensors(tmp_path / "m.safetensors")
    tensors["t0"][:] = 1
    assert not same(tensors, read_weights.read_tensors(tmp_path / "m.safetensors"))


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-40, 3e38]).bfloat16()
    plain = torch.arange(4.0)
    save_file(
        {"a": values, "scalar": torch.tensor(1.5).bfloat16(), "s": special, "p": plain}, tmp_path / "m.safetensors"
    )
    tensors = read_weights.read_tensors(tmp_path / "m.safetensors")
    assert tensors["a"].dtype == np.float32
    np.testing.assert_array_equal(tensors["a"], values.float().numpy())
    np.testing.assert_array_equal(tensors["s"].view("u4"), special.float().numpy().view("u4"))
    np.testing.assert_array_equal(tensors["p"], plain.numpy())
    assert tensors["scalar"].shape == ()
    tensors["a"][:] = 0


def test_eight_bit_floats_are_refused_in_words(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    eight = torch.ones(4).to(torch.float8_e4m3fn)
    save_file({"a": eight}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="kind that cannot be read"):
        read_weights.read_tensors(tmp_path / "m.safetensors")
    torch.save({"a": eight}, tmp_path / "m.bin")
    with pytest.raises(CheckpointError, match="kind that cannot be read"):
        read_weights.read_file(tmp_path / "m.bin")


def test_bin(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "pytorch_model.bin"
    state = {
        "a": torch.arange(6.0).view(2, 3).t(),
        "b": torch.nn.Parameter(torch.ones(2)),
        "c": torch.full((2,), 1.5).bfloat16(),
    }
    torch.save(state, path)
    read = read_weights.read_files(hub.resolve_weights(tmp_path)).tensors
    np.testing.assert_array_equal(read["a"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(read["b"], [1, 1])
    assert read["c"].dtype == np.float32
    assert read["c"].tolist() == [1.5, 1.5]
    for content in ([1, 2], {"a": 1}, {1: torch.ones(1)}, torch.ones(1)):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="named tensors"):
            read_weights.read_file(path)
    path.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(CheckpointError, match=r"cannot be read \(BadZipFile\)"):
        read_weights.read_file(path)
    for content, why in ((b"", "is empty"), (b"<html>", "web page"), (b"\x07" * 99, "no weight file")):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=why):
            read_weights.read_file(path)


class Evil:
    """A pickle that would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.mark}",))


def test_code_in_a_bin_is_not_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    mark = tmp_path / "mark"
    torch.save({"a": Evil(mark)}, tmp_path / "new.bin")
    torch.save({"a": Evil(mark)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Evil(mark)))
    for name in ("new.bin", "old.bin", "plain.bin"):
        with pytest.raises(CheckpointError, match="refused"):
            read_weights.read_file(tmp_path / name)
    assert not mark.exists()


def test_safetensors_come_before_bin(tmp_path: Path) -> None:
    write_weights(tmp_path, arrays(1))
    (tmp_path / hub.BIN).write_bytes(b"evil")
    assert same(read_weights.read_files(hub.resolve_weights(tmp_path)).tensors, arrays(1))

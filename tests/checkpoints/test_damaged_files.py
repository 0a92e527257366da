"""A thousand damaged and hostile weight files: no code of theirs runs, nothing hangs, and every refusal is a message."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("msgpack")
pytest.importorskip("torch")
import torch

from beit import BeitConfig, BeitForImageClassification
from beit.checkpoints import Checkpoint
from beit.checkpoints.msgpack import write_msgpack
from beit.checkpoints.names import to_disk, to_state_dict
from beit.checkpoints.write_weights import write_tensors
from beit.core.errors import BeitError
from beit.export.layouts import write
from fixtures_files import no_longer_than
from fixtures_runs import tiny_config

SECONDS = 10  # for one file of 50 kB, which takes a hundredth of that
KINDS = ("hf.safetensors", "timm.safetensors", "unilm.pth", "legacy.pth", "flax.msgpack")
EACH = 180


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One sound file of each kind."""
    folder = tmp_path_factory.mktemp("sound")
    model = BeitForImageClassification(tiny_config(use_relative_position_bias=True, num_labels=3))
    disk = model.disk_tensors()
    memory, _ = to_state_dict(disk)
    write_tensors(folder / KINDS[0], disk)
    write_tensors(folder / KINDS[1], to_disk(memory, "unilm"))
    write(folder / KINDS[2], "unilm", memory, model.config, None)
    content = torch.load(folder / KINDS[2], weights_only=True)
    content["args"] = argparse.Namespace(model="beit_base", input_size=16)
    torch.save(content, folder / KINDS[3], _use_new_zipfile_serialization=False)
    write_msgpack(folder / KINDS[4], disk)
    found = {name: (folder / name).read_bytes() for name in KINDS}
    for name in KINDS:
        opened(folder / name)
    return found


def opened(path: Path) -> Any:
    """Everything that loading does: tensors, settings, the model."""
    checkpoint = Checkpoint(path)
    config = BeitConfig.from_pretrained(checkpoint)
    if sum(array.size for array in checkpoint.state_dict.values()) > 10**6 or config.hidden_size > 10**4:
        return config  # a model of this size would be a correct answer, and is not what is tested
    model = BeitForImageClassification.from_pretrained(path)
    return model


def _flip(data: bytearray, rng: np.random.Generator, places: np.ndarray) -> bytes:
    for place in places:
        data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data)))]


def _flip_anywhere(data: bytes, rng: np.random.Generator) -> bytes:
    return _flip(bytearray(data), rng, rng.integers(len(data), size=int(rng.integers(1, 30))))


def _flip_at_the_ends(data: bytes, rng: np.random.Generator) -> bytes:
    """Where headers and directories are."""
    span = min(4000, len(data) // 2)
    places = rng.integers(span, size=int(rng.integers(1, 4)))
    return _flip(bytearray(data), rng, np.where(rng.random(len(places)) < 0.5, places, len(data) - 1 - places))


def _overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 500))
    fill = bytes(rng.integers(256, size=length, dtype=np.uint8)) if rng.random() < 0.5 else b"\xff" * length
    return data[:start] + fill + data[start + length :]


def _forge_numbers(data: bytes, rng: np.random.Generator) -> bytes:
    """Lengths and counts that are not so: 8 bytes of a large number near the beginning or the end."""
    number = struct.pack("<Q", [0, 1, 2**31, 2**40, 2**62, 2**64 - 1][int(rng.integers(6))])
    start = 0 if rng.random() < 0.3 else int(rng.integers(min(3000, len(data) - 8)))
    start = start if rng.random() < 0.7 else len(data) - 8 - start
    return data[:start] + number + data[start + 8 :]


def _digits(data: bytes, rng: np.random.Generator) -> bytes:
    """Another digit in the header: shapes, offsets, layer numbers."""
    places = [i for i, byte in enumerate(data[:6000]) if 48 <= byte < 58]
    changed = bytearray(data)
    for place in rng.choice(places, size=min(3, len(places)), replace=False):
        changed[place] = 48 + int(rng.integers(10))
    return bytes(changed)


def _doubled(data: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(data)))
    return data[:place] + data[: int(rng.integers(2000))] + data[place:]


DAMAGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _cut,
    _flip_anywhere,
    _flip_at_the_ends,
    _overwrite,
    _forge_numbers,
    _digits,
    _doubled,
)


def refusal(path: Path) -> str:
    try:
        opened(path)
    except BeitError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore")  # torch and numpy have opinions on some of these
@pytest.mark.parametrize("kind", KINDS)
def test_damaged(sound: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    path, refused = tmp_path / kind, 0
    for number in range(EACH):
        damage = DAMAGES[number % len(DAMAGES)]
        path.write_bytes(damage(sound[kind], rng))
        with no_longer_than(SECONDS):
            message = refusal(path)
        if message:
            refused += 1
            assert str(path) in message or "BeitForImageClassification" in message, damage
    assert refused > EACH // 3  # a flipped bit of a weight is a weight


# --- files that want to run code -------------------------------------------------------------------------------------


class Calls:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hostile(mark: Path) -> list[Any]:
    """Objects whose unpickling would make the file `mark`."""
    import builtins
    import subprocess

    touch = f"touch {mark}"
    return [
        Calls(os.system, touch),
        Calls(eval, f"open({str(mark)!r}, 'w')"),
        Calls(exec, f"open({str(mark)!r}, 'w')"),
        Calls(subprocess.Popen, ["touch", str(mark)]),
        Calls(builtins.open, str(mark), "w"),
        Calls(getattr, Calls(__import__, "os"), "system"),
        Calls(Path.touch, mark),
        Calls(torch.load, str(mark)),
        Calls(argparse.FileType("w"), str(mark)),
        Calls(os.mkdir, str(mark)),
    ]


def places(thing: Any, tensors: dict[str, Any]) -> list[Any]:
    """Where it may hide."""
    return [
        thing,
        {"model": tensors, "args": thing},
        {"model": {**tensors, "head.weight": thing}},
        {"model": tensors, "optimizer": {"state": [thing]}},
        {**tensors, "mask_token": thing},
    ]


def test_code_is_not_run(sound: dict[str, bytes], tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "hostile.pth"
    (tmp_path / "sound.pth").write_bytes(sound["unilm.pth"])
    tensors = torch.load(tmp_path / "sound.pth", weights_only=True)["model"]
    count = 0
    for thing in hostile(mark):
        for content in places(thing, tensors):
            for zipped in (True, False):
                torch.save(content, path, _use_new_zipfile_serialization=zipped)
                with no_longer_than(SECONDS), pytest.raises(BeitError, match="hostile"):
                    opened(path)
                count += 1
                assert not mark.exists()
    assert count == 100


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_are_not_run(tmp_path: Path, protocol: int) -> None:
    mark, path = tmp_path / "mark", tmp_path / "plain.pth"
    for thing in hostile(mark):
        path.write_bytes(pickle.dumps(thing, protocol))
        with no_longer_than(SECONDS), pytest.raises(BeitError, match="plain"):
            opened(path)
        assert not mark.exists()


def test_a_refusal_names_what_was_asked_for(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "hook": Calls(os.system, "true")}, tmp_path / "x.pth")
    with pytest.raises(BeitError, match=r"asks for posix\.system.*nothing in it was run"):
        opened(tmp_path / "x.pth")


def test_a_zip_of_other_things(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}." + b"\0" * 10**7)  # a bomb, small on disk
        archive.writestr("x/version", b"3")
    (tmp_path / "bomb.pth").write_bytes(buffer.getvalue())
    with no_longer_than(SECONDS), pytest.raises(BeitError, match="bomb"):
        opened(tmp_path / "bomb.pth")


def _zipped(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", b"3")
    return path


@pytest.mark.parametrize(
    "key",
    [b")" + b"\x85" * 200_000, b")" + b"q\x00h\x00\x86" * 60, b")" + b"\x85" * 900],
    ids=["deep", "doubled", "deep enough"],
)
def test_keys_that_would_take_for_ever(key: bytes, tmp_path: Path) -> None:
    pickled = b"\x80\x02}" + key + b"K\x01s."
    (tmp_path / "plain.pth").write_bytes(pickled)
    for path in (_zipped(tmp_path / "forged.pth", pickled), tmp_path / "plain.pth"):
        with (
            no_longer_than(SECONDS),
            pytest.raises(BeitError, match=r"a key that is neither text nor a number|no file of torch.save") as caught,
        ):
            opened(path)
        assert len(str(caught.value)) < 500


def test_numbers_that_are_not_in_the_file(tmp_path: Path) -> None:
    torch.save({"model": {"blocks.0.attn.q_bias": torch.zeros(1).expand(4 * 10**9)}}, tmp_path / "x.pth")
    with no_longer_than(SECONDS), pytest.raises(BeitError, match="larger than what the file holds"):
        opened(tmp_path / "x.pth")


def test_an_index_of_no_size(sound: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "sound.pth").write_bytes(sound["unilm.pth"])
    state = torch.load(tmp_path / "sound.pth", weights_only=True)["model"]
    index = next(name for name in state if name.endswith("index"))
    torch.save({"model": {**state, index: torch.empty(40_000, 0, dtype=torch.int64)}}, tmp_path / "x.pth")
    with no_longer_than(SECONDS):
        opened(tmp_path / "x.pth")


def test_a_namespace_is_plain_values(sound: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "legacy.pth"
    path.write_bytes(sound["legacy.pth"])
    assert Checkpoint(path).more["args"] == {"model": "beit_base", "input_size": 16}


def test_an_optimizer_beside_the_weights_is_not_kept(sound: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "sound.pth").write_bytes(sound["unilm.pth"])
    state = torch.load(tmp_path / "sound.pth", weights_only=True)["model"]
    moments = {"state": {i: {"exp_avg": torch.zeros(1000)} for i in range(3)}}
    torch.save({"model": state, "optimizer": moments, "epoch": 3, "lr": [torch.zeros(9)]}, tmp_path / "x.pth")
    assert Checkpoint(tmp_path / "x.pth").more == {"optimizer": None, "epoch": 3, "lr": None}

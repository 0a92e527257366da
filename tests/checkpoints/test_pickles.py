"""Files of `torch.save` are read by their opcodes: what PyTorch wrote comes back, and what is forged is refused before it costs anything."""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from beit import CheckpointError
from beit.checkpoints.pickles import BFLOAT16, Global, Tensor, Thing, open_pickle, plain
from beit.checkpoints.read_pickle import read_pickle
from beit.checkpoints.torch import read_saved
from fixtures_files import no_longer_than

PROTOCOL, STOP = b"\x80\x02", b"."


def zipped(path: Path, pickled: bytes, name: str = "x/data.pkl", **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, pickled)
        archive.writestr("x/version", b"3")
        for key, value in more.items():
            archive.writestr(f"x/data/{key.removeprefix('_')}", value)
    return path


def call(function: str, arguments: bytes) -> bytes:
    module, _, name = function.rpartition(".")
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n" + arguments + b"R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def storage(kind: str = "FloatStorage", key: str = "0", numel: int = 4) -> bytes:
    number = b"\x8a\x08" + struct.pack("<q", numel)
    return b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number + b"tQ"


def tensor(
    made_of: bytes = b"", shape: tuple[int, ...] = (2, 2), strides: tuple[int, ...] = (2, 1), offset: int = 0
) -> bytes:
    sizes = [
        b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in numbers) + b"t" for numbers in (shape, strides)
    ]
    arguments = (made_of or storage()) + b"\x8a\x08" + struct.pack("<q", offset) + b"".join(sizes) + b"\x89" + b"}"
    return call("torch._utils._rebuild_tensor_v2", b"(" + arguments + b"t")


def table(**items: bytes) -> bytes:
    return PROTOCOL + b"}" + b"".join(text(name) + value + b"s" for name, value in items.items()) + STOP


def refused(path: Path, words: str) -> None:
    with no_longer_than(5), pytest.raises(CheckpointError, match=words) as error:
        read_pickle(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 700


# --- what PyTorch writes ---------------------------------------------------------------------------------------------

TYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("zipped", [True, False])
def test_every_type_and_layout_comes_back(zipped: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    state = {
        **{str(kind): torch.randint(0, 2, (2, 3)).to(kind) for kind in TYPES},
        "transposed": base.t(),
        "part": base[1:3, 2:5],
        "rows": base[1],
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(base.clone()),
    }
    content = {
        "state_dict": collections.OrderedDict(state),
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, sizes=[1, (2, 3)]),
    }
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    tensors, container, more = read_pickle(tmp_path / "x.pth")
    assert container == "state_dict"
    assert more == {"epoch": 3, "args": {"lr": 0.1, "sizes": [1, (2, 3)]}}
    assert list(tensors) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(tensors[name], value.detach().numpy())
        assert tensors[name].dtype == value.detach().numpy().dtype
        assert tensors[name].flags.writeable
    saved = read_saved(tmp_path / "x.pth")["state_dict"]
    for name, value in state.items():
        assert torch.equal(saved[name], value), name
        assert name == "empty" or saved[name].stride() == value.stride(), name


def test_bfloat16(tmp_path: Path) -> None:
    state = {"a": torch.randn(5).bfloat16()}
    torch.save(state, tmp_path / "x.pth")
    np.testing.assert_array_equal(read_pickle(tmp_path / "x.pth")[0]["a"], state["a"].float().numpy())
    assert torch.equal(read_saved(tmp_path / "x.pth")["a"], state["a"])
    opened = open_pickle(tmp_path / "x.pth")
    assert opened.content["a"].storage.code == BFLOAT16


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(protocol: int, tmp_path: Path) -> None:
    content = {"model": {"a": torch.ones(2)}, "numbers": [1, 2.5, -7, True, None, "é", b"raw", 2**40], "big": "x" * 300}
    torch.save(content, tmp_path / "x.pth", pickle_protocol=protocol)
    found = read_saved(tmp_path / "x.pth")
    assert torch.equal(found["model"]["a"], torch.ones(2))
    assert [n for n in found["numbers"] if not isinstance(n, bytes) and n is not None] == [1, 2.5, -7, True, "é", 2**40]
    assert found["big"] == "x" * 300


def test_an_optimizer_comes_back(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "x.pt")
    found, wanted = read_saved(tmp_path / "x.pt"), optimizer.state_dict()
    assert found["param_groups"] == wanted["param_groups"]
    for number, state in wanted["state"].items():
        assert all(torch.equal(found["state"][number][name], value) for name, value in state.items())


def test_tensors_of_one_storage_share_their_memory(tmp_path: Path) -> None:
    base = torch.randn(1000)
    torch.save({"a": base, "b": base, "c": base[10:20]}, tmp_path / "x.pth")
    tensors, _, _ = read_pickle(tmp_path / "x.pth")
    tensors["a"][10] = 7
    assert tensors["b"][10] == tensors["c"][0] == 7


def test_values_beside_the_weights_become_plain(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "x.pth",
        table(
            w=tensor(), args=call("numpy.core.multiarray.scalar", b"(K\x01t"), meta=b"}" + text("t") + tensor() + b"s"
        ),
        _0=bytes(16),
    )
    assert read_pickle(path)[2] == {"args": None, "meta": {"t": None}}
    counted = Thing(Global("collections.Counter"), {"a": 1})
    assert plain([counted, Global("torch.float32"), (1, "a")], lambda _: None) == [{"a": 1}, None, (1, "a")]


# --- what is forged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x/DATA.PKL", "x/Data.pkl", "data.pkl", "y.txt"])
def test_the_entry_must_be_the_one_that_torch_save_writes(name: str, tmp_path: Path) -> None:
    refused(zipped(tmp_path / "x.pth", table(w=tensor()), name, _0=bytes(16)), "where torch.save writes one entry")


@pytest.mark.parametrize("second", ["x/data.pkl", "x/DATA.PKL", "y/data.pkl"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_pickles_in_one_archive(second: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for name in ("x/data.pkl", second):
            archive.writestr(name, table(w=tensor()))
        archive.writestr("x/data/0", bytes(16))
    refused(tmp_path / "x.pth", "two entries of the same name|where torch.save writes one entry")


def test_an_archive_behind_other_bytes(tmp_path: Path) -> None:
    sound = zipped(tmp_path / "sound.pth", table(w=tensor()), _0=bytes(16)).read_bytes()
    assert read_pickle(tmp_path / "sound.pth")[0]["w"].shape == (2, 2)
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04" + bytes(100) + sound)
    refused(tmp_path / "x.pth", "bytes before its archive")


@pytest.mark.parametrize(
    ("forged", "words"),
    [
        (tensor(storage(numel=1 << 40)), "announces more numbers than it holds"),
        (tensor(storage(numel=5), (5,), (1,)), "has 16 bytes of 20 bytes in its storage 0"),
        (tensor(shape=(1 << 40,), strides=(0,)), "larger than what the file holds"),
        (tensor(shape=(2, 3), strides=(3, 1)), "larger than what the file holds"),
        (tensor(shape=(2, 2), strides=(-1, 1)), "impossible shape"),
        (tensor(shape=(2, 2), strides=(2, 1), offset=1), "larger than what the file holds"),
        (tensor(shape=(2,), strides=(2, 1)), "impossible shape"),
        (tensor(shape=(1,) * 20, strides=(1,) * 20), "impossible shape"),
        (tensor(shape=(0, 1 << 40), strides=(1, 1)), "impossible shape"),
        (tensor(storage(numel=-1)), "refers to something that is no storage"),
        (tensor(storage("QInt8Storage")), "tensors of a kind that cannot be read here"),
        (tensor(storage("ByteStorage", key="../../secret", numel=16), (16,), (1,)), "has nothing of 16 bytes"),
        (call("torch._utils._rebuild_qtensor", b"(t"), "tensors of a kind that cannot be read here"),
        (call("torch._utils._rebuild_tensor_v2", b"(K\x01K\x02t"), "arguments of the wrong types"),
        (call("builtins.eval", b"(" + text("1") + b"t"), "asks for builtins.eval"),
        (call("torch.hub.load", b"(" + text("1") + b"t"), "asks for torch.hub.load"),
        (b"K\x01)R", "calls something that is no function"),
        (b"K\x01}b", "gives attributes to something that has none"),
        (b"K\x01K\x02a", "appends to something that is no list"),
        (b"]K\x01K\x02s", "puts items into something that is no table"),
        (b"}))s", "key that is neither text nor a number"),
        (b"\x8b" + struct.pack("<i", 4000) + b"\x11" * 4000, "integer of more than 38 digits"),
        (b"\x82\x01", "opcode EXT1, which torch.save does not write"),
        (b"h\x05", r"cannot be read \(KeyError\)"),
    ],
)  # fmt: skip
def test_forged_pickles(forged: bytes, words: str, tmp_path: Path) -> None:
    refused(zipped(tmp_path / "x.pth", table(w=forged), _0=bytes(16)), words)


def test_one_storage_described_in_two_ways(tmp_path: Path) -> None:
    other = tensor(storage("DoubleStorage", numel=2), (2,), (1,))
    refused(zipped(tmp_path / "x.pth", table(w=tensor(), v=other), _0=bytes(16)), "in two ways")


def test_many_names_for_the_same_bytes(tmp_path: Path) -> None:
    """Entries of an archive may overlap: a small file with a thousand storages of its whole size."""
    one = bytes(100_000)
    tensors = {f"w{i}": tensor(storage("ByteStorage", str(i), len(one)), (len(one),), (1,)) for i in range(100)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", table(**tensors))
        archive.writestr("x/data/0", one)
        first = archive.getinfo("x/data/0")
        for i in range(1, 100):
            twin = zipfile.ZipInfo(f"x/data/{i}")
            twin.header_offset, twin.file_size, twin.compress_size, twin.CRC = (
                first.header_offset,
                len(one),
                len(one),
                first.CRC,
            )
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    (tmp_path / "x.pth").write_bytes(buffer.getvalue())
    refused(tmp_path / "x.pth", "announces more numbers than it holds")


@pytest.mark.parametrize(
    "arguments",
    [
        call("builtins.bytearray", b"(\x8a\x05\x00\x00\x00\x00\x04t"),  # 16 GB
        call(
            "_codecs.encode", b"(" + call("_codecs.encode", b"(" + text("ff") + text("hex") + b"t") + text("hex") + b"t"
        ),
        b"](" + b"(K\x01t" * 100 + b"e",
    ],
)
def test_callables_build_nothing(arguments: bytes, tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.pth", table(w=tensor(), extra=arguments), _0=bytes(16))
    with no_longer_than(2):
        assert read_pickle(path)[0]["w"].shape == (2, 2)


@pytest.mark.parametrize("nested", [b"]" * 2000 + b"a" * 1999, b")" + b"q\x00h\x00\x86" * 60])
def test_values_that_are_nested_without_end(nested: bytes, tmp_path: Path) -> None:
    refused(
        zipped(tmp_path / "x.pth", table(w=tensor(), args=nested), _0=bytes(16)),
        "nests values more than|cannot be read",
    )


def bombs() -> dict[str, bytes]:
    """Small pickles that copy one large value again and again by reference, or hash badly."""
    times = 60_000
    state = b"}q\x00(" + b"".join(text(f"{i}") + b"N" for i in range(times)) + b"u0"
    pairs = b"]q\x00(" + text("k") + b"N\x86q\x01" + b"h\x01" * times + b"e0"
    size = b"]q\x00(" + b"K\x01" * times + b"e0"
    thing = call("argparse.Namespace", b")")
    ordered, sizes = call("collections.OrderedDict", b"(h\x00t") + b"0", call("torch.Size", b"(h\x00t")
    # 2^61 - 1 is what Python's hash of an integer is taken modulo of.
    same_hash = (
        b"}(" + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(times)) + b"u"
    )
    average = b"}q\x00(" + b"".join(text(f"{i}") + tensor() for i in range(2000)) + b"u0"
    return {
        "state": state + thing + b"h\x00b" * times,
        "pairs": pairs + ordered * times + b"N",
        "sizes": size + b"](" + sizes * times + b"e",
        "same hash": same_hash,
        "averages": average + b"}(" + b"".join(text(f"ema_{i}") + b"h\x00" for i in range(times)) + b"u",
        "beside": state
        + thing
        + b"h\x00bq\x01}("
        + text("w")
        + tensor()
        + b"".join(text(f"{i}") + b"h\x01" for i in range(times))
        + b"u",
    }


@pytest.mark.parametrize("name", ["state", "pairs", "sizes", "same hash", "averages", "beside"])
def test_bombs_end_quickly(name: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.pth", PROTOCOL + bombs()[name] + STOP, _0=bytes(16))
    with no_longer_than(5), pytest.raises(CheckpointError, match=r"x\.pth"):
        read_pickle(path)


def test_a_pickle_of_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beit.checkpoints.pickles.MAX_STEPS", 1000)
    refused(zipped(tmp_path / "x.pth", PROTOCOL + b"]" * 2000 + STOP), "more than 1,000 steps")
    monkeypatch.setattr("beit.checkpoints.pickles.MAX_PICKLE_BYTES", 100)
    refused(zipped(tmp_path / "y.pth", PROTOCOL + b"]" * 2000 + STOP), "a pickle of 2,003 bytes")
    (tmp_path / "z.pth").write_bytes(pickle.dumps("x" * 1000, 2))
    refused(tmp_path / "z.pth", "more than 64 MiB")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_compressed_entries(compression: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w", compression) as archive:
        archive.writestr("x/data.pkl", table(w=tensor()))
        archive.writestr("x/data/0", bytes(10**6))
    refused(tmp_path / "x.pth", "compressed entries")


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "x.pth")
    content = bytearray((tmp_path / "x.pth").read_bytes())
    content[content.find(bytes(2000)) + 1000] ^= 1
    (tmp_path / "x.pth").write_bytes(content)
    refused(tmp_path / "x.pth", "checksum is wrong")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_legacy_file_that_was_cut_short(kept: float, tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content[: int(len(content) * kept)])
    refused(tmp_path / "x.pth", "cut short|cannot be read")


def test_other_byte_orders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", table(w=tensor()))
        archive.writestr("x/byteorder", b"big")
    refused(tmp_path / "x.pth", "big-endian")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.pth cannot be read: No such file"):
        open_pickle(tmp_path / "x.pth")


def test_tensors_are_checked_when_they_are_described() -> None:
    from beit.checkpoints.pickles import Storage

    sound = Tensor(Storage("0", "<f4", 6), 1, (2, 2), (3, 1))
    assert sound.storage.nbytes == 24


# --- averaged weights beside the model's own -------------------------------------------------------------------------


@pytest.fixture
def with_average(tmp_path: Path) -> Any:
    """(a file with `model` and `model_ema`, both models)."""
    from beit import BeitConfig, BeitForImageClassification

    config = BeitConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4,
        use_relative_position_bias=True,
    )  # fmt: skip
    models = [BeitForImageClassification(config) for _ in range(2)]
    torch.save({"model": models[0].state_dict(), "model_ema": models[1].state_dict(), "epoch": 1}, tmp_path / "x.pth")
    return tmp_path / "x.pth", *models


def test_averaged_weights_are_offered_and_taken(
    with_average: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import beit
    from beit.cli import main

    path, own, average = with_average
    assert torch.equal(beit.load(path).classifier.weight, own.classifier.weight)
    assert torch.equal(beit.load(path, weights="ema").classifier.weight, average.classifier.weight)
    found = beit.BeitForImageClassification.from_pretrained(path, weights="ema")
    assert torch.equal(
        found.beit.encoder.layer[0].output.dense.weight, average.beit.encoder.layer[0].output.dense.weight
    )
    assert main(["inspect", str(path)]) == 0
    assert "model_ema beside the weights; --weights ema takes it" in capsys.readouterr().out
    assert main(["convert", str(path), str(tmp_path / "out"), "--to", "hf", "--weights", "ema"]) == 0
    assert torch.equal(beit.load(tmp_path / "out").classifier.weight, average.classifier.weight)


def test_an_average_that_is_not_there(tmp_path: Path) -> None:
    import beit

    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no averaged weights: it has model"):
        beit.load(tmp_path / "x.pth", weights="ema")
    with pytest.raises(CheckpointError, match="weights takes 'ema'"):
        beit.load(tmp_path / "x.pth", weights="avg")
    torch.save({"model_ema": {"a": torch.zeros(1), "b": torch.zeros(1)}}, tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="open them with weights='ema'"):
        beit.load(tmp_path / "y.pth")

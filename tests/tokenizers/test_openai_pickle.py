"""The reader of OpenAI's pickles: right tensors from whole modules, and nothing run from anybody else's.

The fixture rebuilds OpenAI's package `dall_e` (github.com/openai/DALL-E) from its published structure, so that
`torch.save` writes the same kind of file that they publish, with sizes of our choice.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import io
import os
import pickle
import pickletools
import random
import sys
import time
import types
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from torch import nn

from beit.checkpoints import pickles
from beit.core.errors import CheckpointError
from beit.tokenizers.dalle.openai_pickle import read_module_tensors
from beit.tokenizers.dalle.torch import DalleTokenizer, map_pixels


class Conv2d(nn.Module):
    def __init__(self, n_in, n_out, kw, use_float16=True, device=None):
        super().__init__()
        self.n_in, self.n_out, self.kw, self.use_float16 = n_in, n_out, kw, use_float16
        self.device, self.requires_grad = device, False
        self.w = nn.Parameter(torch.randn(n_out, n_in, kw, kw) / (n_in * kw**2) ** 0.5, requires_grad=False)
        self.b = nn.Parameter(torch.randn(n_out) * 0.1, requires_grad=False)

    def forward(self, x):
        return F.conv2d(x, self.w, self.b, padding=(self.kw - 1) // 2)


class EncoderBlock(nn.Module):
    kernels = (3, 3, 3, 1)

    def __init__(self, n_in, n_out, n_layers):
        super().__init__()
        self.n_in, self.n_out, self.n_layers, self.device = n_in, n_out, n_layers, None
        self.n_hid, self.post_gain = n_out // 4, 1 / n_layers**2
        self.id_path = Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        widths = (n_in, self.n_hid, self.n_hid, self.n_hid, n_out)
        path = []
        for i, kw in enumerate(self.kernels, start=1):
            path += [(f"relu_{i}", nn.ReLU()), (f"conv_{i}", Conv2d(widths[i - 1], widths[i], kw))]
        self.res_path = nn.Sequential(OrderedDict(path))

    def forward(self, x):
        return self.id_path(x) + self.post_gain * self.res_path(x)


class DecoderBlock(EncoderBlock):
    kernels = (1, 3, 3, 3)


def _groups(block, n_in, widths, n_blocks, between):
    for i, width in enumerate(widths, start=1):
        parts = []
        for j in range(1, n_blocks + 1):
            parts.append((f"block_{j}", block(n_in, width, len(widths) * n_blocks)))
            n_in = width
        yield f"group_{i}", nn.Sequential(OrderedDict([*parts, *(between if i < len(widths) else [])]))


class Encoder(nn.Module):
    def __init__(self, n_hid=8, groups=3, n_blocks=2, vocab_size=32, channels=3):
        super().__init__()
        self.group_count, self.n_hid, self.vocab_size = groups, n_hid, vocab_size
        self.device, self.use_mixed_precision = torch.device("cpu"), True
        widths = [n_hid * 2**i for i in range(groups)]
        pool = [("pool", nn.MaxPool2d(kernel_size=2))]
        output = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=Conv2d(widths[-1], vocab_size, 1, use_float16=False)))
        groups = _groups(EncoderBlock, n_hid, widths, n_blocks, pool)
        self.blocks = nn.Sequential(OrderedDict([("input", Conv2d(channels, n_hid, 7)), *groups, ("output", output)]))

    def forward(self, x):
        return self.blocks(x)


class Decoder(nn.Module):
    def __init__(self, n_hid=8, groups=3, n_blocks=2, vocab_size=32, channels=3, n_init=12):
        super().__init__()
        widths = [n_hid * 2**i for i in reversed(range(groups))]
        up = [("upsample", nn.Upsample(scale_factor=2, mode="nearest"))]
        output = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=Conv2d(n_hid, 2 * channels, 1)))
        groups = _groups(DecoderBlock, n_init, widths, n_blocks, up)
        self.blocks = nn.Sequential(
            OrderedDict([("input", Conv2d(vocab_size, n_init, 1)), *groups, ("output", output)])
        )

    def forward(self, x):
        return self.blocks(x)


_HOMES = {
    "dall_e.utils": [Conv2d],
    "dall_e.encoder": [Encoder, EncoderBlock],
    "dall_e.decoder": [Decoder, DecoderBlock],
}


def save(module, path: Path, zip_format: bool = True) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the legacy format wants the classes' source, which has no file here
        torch.save(module, path, _use_new_zipfile_serialization=zip_format)
    return path


@pytest.fixture
def dall_e(monkeypatch):
    """OpenAI's package, as far as pickle looks: its module names and classes."""
    monkeypatch.setitem(sys.modules, "dall_e", types.ModuleType("dall_e"))
    for name, classes in _HOMES.items():
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        for cls in classes:
            monkeypatch.setattr(cls, "__module__", name)
            setattr(sys.modules[name], cls.__name__, cls)
    torch.manual_seed(0)


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def zip_format(request):
    return request.param


# --- the right tensors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Encoder, Decoder])
def test_tensors_are_byte_equal_in_order(dall_e, tmp_path, zip_format, cls):
    module = cls()
    found = read_module_tensors(save(module, tmp_path / "m.pkl", zip_format))
    wanted = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    assert list(found) == list(wanted)
    for name, array in found.items():
        assert array.dtype == np.float32
        assert array.flags.writeable
        assert array.tobytes() == wanted[name].tobytes()


def test_views_dtypes_buffers_and_shared_storages(dall_e, tmp_path, zip_format):
    module = Conv2d(4, 6, 3)
    base = torch.arange(24.0)
    module.w = nn.Parameter(base.view(4, 6).t()[1:, ::2], requires_grad=False)
    module.b = nn.Parameter(base[3:], requires_grad=False)
    module.register_buffer("halves", torch.randn(3).half())
    module.register_buffer("count", torch.tensor(7))
    module.register_buffer("empty", torch.zeros(0, 5))
    module.register_buffer("none", None)
    found = read_module_tensors(save(module, tmp_path / "m.pkl", zip_format))
    assert {name: array.tolist() for name, array in found.items()} == {
        name: tensor.tolist() for name, tensor in module.state_dict().items()
    }
    assert (found["halves"].dtype, found["count"].dtype) == (np.float16, np.int64)


def test_non_persistent_buffers_are_left_out_as_in_state_dict(dall_e, tmp_path):
    module = Conv2d(1, 1, 1)
    module.register_buffer("scratch", torch.zeros(2), persistent=False)
    assert read_module_tensors(save(module, tmp_path / "m.pkl")).keys() == {"w", "b"}


def test_partial_and_device_attributes_are_ignored(dall_e, tmp_path, zip_format):
    module = Conv2d(1, 1, 1, device=torch.device("cpu"))
    module.make_conv = functools.partial(Conv2d, device=torch.device("cpu"))
    assert read_module_tensors(save(module, tmp_path / "m.pkl", zip_format)).keys() == {"w", "b"}


def test_real_layout_stays_far_below_the_limits(dall_e, tmp_path):
    path = save(Encoder(n_hid=4, groups=4, n_blocks=2), tmp_path / "m.pkl")
    with zipfile.ZipFile(path) as archive:
        steps = sum(1 for _ in pickletools.genops(archive.read("m/data.pkl")))
    assert steps * 5 < pickles.MAX_STEPS


def test_from_openai_has_the_same_logits_and_decoder(dall_e, tmp_path, zip_format):
    encoder, decoder = Encoder().eval(), Decoder().eval()
    tokenizer = DalleTokenizer.from_openai(
        save(encoder, tmp_path / "encoder.pkl", zip_format), save(decoder, tmp_path / "decoder.pkl", zip_format)
    )
    assert tokenizer.config.to_dict() == {
        "model_type": "dalle_dvae", "groups": 3, "blocks_per_group": 2,
        "n_hid": 8, "n_init": 12, "vocab_size": 32, "channels": 3,
    }  # fmt: skip
    images = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        logits = encoder(map_pixels(images))
        torch.testing.assert_close(tokenizer.logits(images), logits, rtol=0, atol=1e-5)
        codes = F.one_hot(logits.argmax(1), 32).permute(0, 3, 1, 2).float()
        torch.testing.assert_close(tokenizer.decoder(codes), decoder(codes), rtol=0, atol=1e-5)
        # OpenAI's usage notebook: unmap_pixels(sigmoid(x_stats[:, :3])).
        picture = ((torch.sigmoid(decoder(codes)[:, :3]) - 0.1) / 0.8).clamp(0, 1)
    assert torch.equal(tokenizer.tokens(images), logits.argmax(1).flatten(1))
    torch.testing.assert_close(tokenizer.decode(tokenizer.tokens(images), (4, 6)), picture, rtol=0, atol=1e-5)

    tokenizer.save_pretrained(tmp_path / "saved")
    again = DalleTokenizer.from_pretrained(tmp_path / "saved")
    assert again.config == tokenizer.config
    for name, tensor in tokenizer.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_from_openai_refuses_what_does_not_fit(dall_e, tmp_path):
    encoder, decoder = save(Encoder(), tmp_path / "encoder.pkl"), save(Decoder(), tmp_path / "decoder.pkl")
    with pytest.raises(CheckpointError, match="swapped"):
        DalleTokenizer.from_openai(decoder, encoder)
    with pytest.raises(CheckpointError, match="two halves"):
        DalleTokenizer.from_openai(save(Conv2d(1, 1, 1), tmp_path / "conv.pkl"), decoder)
    with pytest.raises(CheckpointError, match=r"decoder\.blocks\.group_1\.block_1\.id_path\.weight is \(64, 12"):
        DalleTokenizer.from_openai(encoder, save(Decoder(n_hid=16), tmp_path / "wide.pkl"))
    with pytest.raises(CheckpointError, match="left over"):
        DalleTokenizer.from_openai(encoder, save(Decoder(groups=4), tmp_path / "deep.pkl"))


# --- files that are no module ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"\n\n <?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 215\n", "git lfs pull"),
        (b"--2022-01-01 12:00:00--  https://cdn.openai.com/dall-e/encoder.pkl\nResolving cdn\n", "log of a download"),
        ("Пока скачивается… 100%".encode() * 60, "log of a download"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00", "not written by torch.save"),
        (pickle.dumps([1, 2], protocol=2), "damaged|not one that torch.save wrote"),
        (pickle.dumps({"a": 1}, protocol=4), "not written by torch.save"),
        (b"PK\x03\x04" + bytes(100), "cut short"),
        (b"\x80\x02", "cut short"),
        (b"\x80\x02.", "cut short"),
    ],
)
def test_wrong_downloads_are_named(tmp_path, content, message):
    path = tmp_path / "encoder.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_module_tensors(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "no.pkl", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_module_tensors(path)


def test_other_torch_files_are_refused(dall_e, tmp_path, zip_format):
    for content in (OrderedDict(w=torch.zeros(2)), torch.zeros(2), [1], nn.Sequential(nn.Linear(2, 2))):
        with pytest.raises(
            CheckpointError, match=r"no module at ''|impossible|asks for torch\.nn\.modules\.linear\.Linear"
        ):
            read_module_tensors(save(content, tmp_path / "m.pkl", zip_format))


def test_module_class_of_another_package_is_refused_by_name(dall_e, monkeypatch, tmp_path, zip_format):
    monkeypatch.setattr(Conv2d, "__module__", "evil.utils")
    monkeypatch.setitem(sys.modules, "evil", types.ModuleType("evil"))
    monkeypatch.setitem(sys.modules, "evil.utils", types.SimpleNamespace(Conv2d=Conv2d))
    with pytest.raises(CheckpointError, match=r"m\.pkl asks for evil\.utils\.Conv2d"):
        read_module_tensors(save(Encoder(), tmp_path / "m.pkl", zip_format))


# --- forged files: refused, and nothing happens ------------------------------------------------------------------


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args, state=None):
        self.recipe = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.recipe


def op(text: str) -> bytes:
    """Assemble pickle opcodes: `c` GLOBAL takes module and name, words are strings, the rest as written below."""
    out = b"\x80\x02"
    for word in text.split():
        if word.startswith("c:"):
            module, name = word[2:].split("/")
            out += f"c{module}\n{name}\n".encode()
        elif word.startswith("s:"):
            out += b"X" + len(word[2:]).to_bytes(4, "little") + word[2:].encode()
        elif word.startswith("x:"):
            out += bytes.fromhex(word[2:])
        else:
            out += word.encode()
    return out


FORGED = {
    "STACK_GLOBAL": "s:os s:system x:93 s:touch x:85 R .",
    "STACK_GLOBAL with a dotted name": "s:dall_e s:utils.os.system x:93 s:touch x:85 R .",
    "GLOBAL with a dotted name": "c:dall_e.utils/Conv2d.forward.__globals__ .",
    "GLOBAL of a dunder": "c:dall_e/__builtins__ .",
    "GLOBAL builtins": "c:builtins/getattr .",
    "torch.load": "c:torch/load s:touch x:85 R .",
    "tensor function on strings": "c:torch._utils/_rebuild_tensor_v2 ( s:a s:b s:c s:d t R .",
    "call of a tuple": ") ) R .",
    "call of a string": "s:module ) R .",
    "module with arguments": "c:dall_e.utils/Conv2d ( s:a t R .",
    "NEWOBJ of a function": "c:torch._utils/_rebuild_parameter ) x:81 .",
    "NEWOBJ_EX": "c:dall_e.utils/Conv2d ) } x:92 .",
    "INST": "( x:69706f7369780a73797374656d0a .",
    "OBJ": "( c:dall_e.utils/Conv2d o .",
    "EXT1": "x:82f0 .",
    "EXT2": "x:83f000 .",
    "EXT4": "x:84f0000000 .",
    "PERSID": "x:5073746f726167650a .",
    "BUILD on a class": "c:dall_e.utils/Conv2d } s:__setstate__ c:dall_e.utils/Conv2d s b .",
    "BUILD on a class with slots": "c:dall_e.utils/Conv2d N } s:x s:y s x:86 b .",
    "BUILD on a list": "] } b .",
    "BUILD with a tuple": "c:dall_e.utils/Conv2d ) x:81 N } x:86 b .",
    "BUILD with a list": "c:dall_e.utils/Conv2d ) x:81 ] b .",
    "__setstate__ and no tables": "c:dall_e.utils/Conv2d ) x:81 } s:__setstate__ c:dall_e.utils/Conv2d s b .",
    "__class__": "c:dall_e.utils/Conv2d ) x:81 } s:__class__ c:dall_e.utils/Encoder s b .",
    "persistent id of a string": "s:storage Q .",
    "persistent id of a function": "( s:module c:torch._utils/_rebuild_parameter N N t Q .",
    "storage path": "( s:storage c:torch/FloatStorage s:../../etc/passwd s:cpu K\x01 t Q .",
    "storage of a module type": "( s:storage c:dall_e.utils/Conv2d s:0 s:cpu K\x01 t Q .",
    "storage with a view": "( s:storage c:torch/FloatStorage s:0 s:cpu K\x01 ) t Q .",
    "negative storage": "( s:storage c:torch/FloatStorage s:0 s:cpu x:4affffffff t Q .",
    "memo never written": "h\x07 .",
    "stack underflow": "0 .",
    "mark underflow": "t .",
    "integer as key": "} K\x01 N s .",
    "no STOP": "N N N",
    "STOP on nothing": ".",
    "protocol 4": "x:8004 N .",
    "frame": "x:95ffffffffffffff7f N .",
    "huge string": "x:8dffffffffffffff7f .",
    "huge 4-byte string": "x:58ffffffff .",
    "huge integer": "x:8bffffff7f .",
}


def in_zip(path: Path, data: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", data)
        for name, content in entries.items():
            archive.writestr(f"m/{name.replace('__', '/')}", content)
    return path


def in_legacy(path: Path, data: bytes) -> Path:
    head = [pickles.LEGACY_MAGIC, 1001, {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}]
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in head) + data + pickle.dumps([], protocol=2))
    return path


@pytest.mark.parametrize("name", FORGED)
def test_forged_opcodes_are_refused(tmp_path, monkeypatch, name, zip_format):
    monkeypatch.chdir(tmp_path)
    # An extension code that some other library has used leaves its object in a cache that skips find_class.
    monkeypatch.setitem(copyreg._inverted_registry, 0xF0, ("os", "system"))
    monkeypatch.setitem(copyreg._extension_cache, 0xF0, os.system)
    path = (in_zip if zip_format else in_legacy)(tmp_path / "forged.pkl", op(FORGED[name]))
    with pytest.raises(CheckpointError, match=r"forged\.pkl"):
        read_module_tensors(path)
    assert os.listdir(tmp_path) == ["forged.pkl"]


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda m: Call(os.system, f"touch {m}"), "system"),
        (lambda m: Call(builtins.eval, f"open({str(m)!r}, 'w')"), "__builtin__.eval"),
        (lambda m: Call(builtins.exec, f"open({str(m)!r}, 'w')"), "exec"),
        (lambda m: Call(io.open, str(m), "w"), "open"),
        (lambda m: {"a": [Call(os.system, f"touch {m}")]}, "system"),
        (lambda m: functools.partial(os.system, f"touch {m}"), "system"),
        (lambda m: Call(functools.partial, Call(os.system, f"touch {m}")), "system"),
        (lambda m: Call(getattr, Call(__import__, "os"), "system"), "__builtin__.getattr"),
        (lambda m: Call(Path, str(m), state={"x": 1}), "pathlib"),
        (lambda m: torch.nn.Linear, "torch.nn.modules.linear.Linear"),
    ],
)
def test_calls_are_refused_by_name_and_never_made(dall_e, tmp_path, zip_format, build, named):
    marker = tmp_path / "marker"
    module = Conv2d(1, 1, 1)
    module.extra = build(marker)
    path = tmp_path / "forged.pkl"
    # What torch.save of a poisoned module writes, and the payload alone.
    for content in (module, build(marker)):
        with pytest.raises(CheckpointError, match=rf"forged\.pkl asks for .*{named}"):
            read_module_tensors(save(content, path, zip_format))
        assert os.listdir(tmp_path) == ["forged.pkl"]


def test_our_own_classes_are_unchanged_after_a_forgery(tmp_path):
    before = dict(vars(pickles.Thing))
    for name in FORGED:
        with pytest.raises(CheckpointError):
            read_module_tensors(in_zip(tmp_path / "forged.pkl", op(FORGED[name])))
    assert dict(vars(pickles.Thing)) == before


def module_with(tensor: str) -> bytes:
    """A Conv2d whose parameter `w` is `tensor`."""
    empty = "s:{} c:collections/OrderedDict ) R s"
    parts = f"c:dall_e.utils/Conv2d ) x:81 }} s:_parameters }} s:w {tensor} s s"
    return op(f"{parts} {empty.format('_buffers')} {empty.format('_modules')} b .")


def tensor(offset: str, shape: str, strides: str, numel: str = "J\x04\0\0\0") -> bytes:
    storage = f"( s:storage c:torch/FloatStorage s:0 s:cpu {numel} t Q"
    return module_with(f"c:torch._utils/_rebuild_tensor_v2 ( {storage} {offset} {shape} {strides} t R")


ONE, TWO, FOUR, MINUS, HUGE = "K\x01", "K\x02", "K\x04", "x:4affffffff", "x:4affffff7f"


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "fine"),
    [
        ("K\x00", f"{FOUR} x:85", f"{ONE} x:85", True),
        ("K\x00", f"{TWO} {TWO} x:86", f"{ONE} {TWO} x:86", True),
        (TWO, f"{TWO} x:85", f"{ONE} x:85", True),
        (ONE, f"{FOUR} x:85", f"{ONE} x:85", False),
        ("K\x00", f"{FOUR} x:85", f"{TWO} x:85", False),
        ("K\x00", f"{TWO} x:85", f"{MINUS} x:85", False),
        (MINUS, f"{TWO} x:85", f"{ONE} x:85", False),
        ("K\x00", f"{HUGE} {HUGE} x:86", "K\x00 K\x00 x:86", False),
        ("K\x00", f"{TWO} x:85", f"{ONE} {ONE} x:86", False),
        ("K\x00", "s:ab", "s:ab", False),
        ("N", f"{TWO} x:85", f"{ONE} x:85", False),
    ],
)
def test_tensors_must_lie_inside_their_storage(tmp_path, offset, shape, strides, fine):
    path = in_zip(tmp_path / "m.pkl", tensor(offset, shape, strides), data__0=bytes(16))
    if fine:
        assert read_module_tensors(path)["w"].size in (2, 4)
    else:
        with pytest.raises(CheckpointError):
            read_module_tensors(path)


def test_storages_must_have_the_size_they_announce(tmp_path):
    four = tensor("K\x00", f"{FOUR} x:85", f"{ONE} x:85")
    for content in (bytes(12), bytes(20)):
        with pytest.raises(CheckpointError, match=r"has (12|20) bytes of 16 bytes in its storage 0"):
            read_module_tensors(in_zip(tmp_path / "m.pkl", four, data__0=content))
    with pytest.raises(CheckpointError, match="announces more"):
        read_module_tensors(
            in_zip(tmp_path / "m.pkl", tensor("K\x00", f"{ONE} x:85", f"{ONE} x:85", HUGE), data__0=bytes(16))
        )
    with pytest.raises(CheckpointError, match="has nothing of 16 bytes in its storage 0"):
        read_module_tensors(in_zip(tmp_path / "m.pkl", four))


def test_compressed_big_endian_and_doubled_archives_are_refused(dall_e, tmp_path):
    four = tensor("K\x00", f"{FOUR} x:85", f"{ONE} x:85")
    path = tmp_path / "m.pkl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", four)
        archive.writestr("m/data/0", bytes(1 << 24))
    with pytest.raises(CheckpointError, match="compressed"):
        read_module_tensors(path)
    with pytest.raises(CheckpointError, match="big-endian"):
        read_module_tensors(in_zip(path, four, data__0=bytes(16), byteorder=b"big"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", four)
        archive.writestr("b/data.pkl", four)
    with pytest.raises(CheckpointError, match="writes one entry"):
        read_module_tensors(path)


def _bombs():
    nested = "N x:85 q\x00 " + "h\x00 h\x00 x:86 q\x00 " * 80
    tables = "s:_parameters } s s:_buffers } s s:_modules } "
    knot = "c:dall_e.utils/Conv2d ) x:81 q\x01 } " + tables + "s:a h\x01 s s:b h\x01 s s b ."
    tree = "c:dall_e.utils/Conv2d ) x:81 } " + tables + "s b q\x01 "
    tree += ("c:dall_e.utils/Conv2d ) x:81 } " + tables + "s:a h\x01 s s:b h\x01 s s b q\x01 ") * 40
    big = "} q\x00 ( " + " ".join(f"s:{i} N" for i in range(400)) + " u q\x00 "
    yield "hash of nested tuples", op("} " + nested + "N s .")
    yield "module inside itself", op(knot)
    yield "module tree by references", op(tree + ".")
    yield "memo index", op("N x:72ffffffff .")
    yield "many steps", op("N . ")[:2] + b"N" * 2_000_000 + b"."
    yield "large state again and again", op(big + "c:dall_e.utils/Conv2d ) x:81 " + "h\x00 b " * 20_000 + ".")
    yield "marks", op("(")[:2] + b"(" * 90_000 + b"."
    yield "deep nesting", op("N")[:2] + b"N" + b"\x85" * 90_000 + b"."


@pytest.mark.parametrize(("name", "data"), list(_bombs()), ids=[name for name, _ in _bombs()])
def test_bombs_end_quickly(tmp_path, name, data):
    start = time.process_time()
    with pytest.raises(CheckpointError):
        read_module_tensors(in_zip(tmp_path / "bomb.pkl", data))
    assert time.process_time() - start < 5


# --- damage ------------------------------------------------------------------------------------------------------


def test_truncated_anywhere(dall_e, tmp_path, zip_format):
    content = save(Encoder(n_hid=4, groups=2, n_blocks=1, vocab_size=8), tmp_path / "m.pkl", zip_format).read_bytes()
    cut = tmp_path / "cut.pkl"
    for size in {int(len(content) * i / 100) for i in range(100)} | {len(content) - 1}:
        cut.write_bytes(content[:size])
        with pytest.raises(CheckpointError):
            read_module_tensors(cut)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_give_tensors_or_checkpoint_errors(dall_e, tmp_path, zip_format, seed):
    content = save(Encoder(n_hid=4, groups=2, n_blocks=1, vocab_size=8), tmp_path / "m.pkl", zip_format).read_bytes()
    rng = random.Random(seed)
    where = content.index(b"Encoder")  # the pickle: flips in the weights are found by checksum or not at all
    flipped = tmp_path / "flipped.pkl"
    for trial in range(200):
        changed = bytearray(content)
        for _ in range(1 + trial % 3):
            at = rng.randrange(len(content)) if trial % 4 == 0 else min(where + rng.randrange(9000), len(content) - 1)
            changed[at] ^= 1 << rng.randrange(8)
        flipped.write_bytes(changed)
        try:
            found = read_module_tensors(flipped)
        except CheckpointError:
            continue
        assert all(isinstance(array, np.ndarray) for array in found.values())

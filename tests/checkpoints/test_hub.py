"""Model folders: whole or untouched on disk; damaged, unsafe and foreign files refused; a Hub of our own on loopback."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import pickle
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import beit
from beit import BeitConfig, CheckpointError
from beit.checkpoints import hub
from beit.checkpoints import read_weights as weight_files
from beit.checkpoints.write_weights import write_tensors, write_weights
from beit.core.files import atomic_path, read_json, write_json

resource = pytest.importorskip("resource")


def arrays(seed: int = 0, count: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"t{i}": rng.standard_normal((8, 4 + i)).astype("f4") for i in range(count)}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- atomic writing ----------------------------------------------------------------------------------------------


def fail(code: int) -> Any:
    def failing(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return failing


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The operating system itself refuses to write further."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
    assert same(weight_files.read_tensors(tmp_path / "model.safetensors"), arrays(0))
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
    assert same(weight_files.read_tensors(tmp_path / "model.safetensors"), arrays(0))
    assert files(tmp_path) == ["model.safetensors"]


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
    assert same(weight_files.read_files(hub.resolve_weights(tmp_path)).tensors, old)
    assert len(files(tmp_path)) == 3


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


# --- shards ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "shards"), [(10**9, 1), (420, 3), (1, 5), (0, 5)])
def test_shards(most: int, shards: int, tmp_path: Path) -> None:
    write_weights(tmp_path, arrays(), most)
    found = hub.resolve_weights(tmp_path)
    assert len(found) == shards
    assert same(weight_files.read_files(found).tensors, arrays())
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
        assert same(weight_files.read_files(hub.resolve_weights(tmp_path)).tensors, arrays(seed))
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


# --- reading damaged and unsafe files ----------------------------------------------------------------------------


def test_truncated_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, arrays())
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 9, 50, 300, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="damaged"):
            weight_files.read_tensors(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        weight_files.read_tensors(path)


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
            tensors = weight_files.read_tensors(path)
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
            weight_files.read_tensors(path)
    with pytest.raises(CheckpointError):
        weight_files.read_tensors(tmp_path / "absent.safetensors")


def test_arrays_are_writable(tmp_path: Path) -> None:
    write_tensors(tmp_path / "m.safetensors", arrays())
    tensors = weight_files.read_tensors(tmp_path / "m.safetensors")
    tensors["t0"][:] = 1
    assert not same(tensors, weight_files.read_tensors(tmp_path / "m.safetensors"))


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-40, 3e38]).bfloat16()
    plain = torch.arange(4.0)
    save_file(
        {"a": values, "scalar": torch.tensor(1.5).bfloat16(), "s": special, "p": plain}, tmp_path / "m.safetensors"
    )
    tensors = weight_files.read_tensors(tmp_path / "m.safetensors")
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
        weight_files.read_tensors(tmp_path / "m.safetensors")
    torch.save({"a": eight}, tmp_path / "m.bin")
    with pytest.raises(CheckpointError, match="kind that cannot be read"):
        weight_files.read_file(tmp_path / "m.bin")


def test_bin(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "pytorch_model.bin"
    state = {
        "a": torch.arange(6.0).view(2, 3).t(),
        "b": torch.nn.Parameter(torch.ones(2)),
        "c": torch.full((2,), 1.5).bfloat16(),
    }
    torch.save(state, path)
    read = weight_files.read_files(hub.resolve_weights(tmp_path)).tensors
    np.testing.assert_array_equal(read["a"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(read["b"], [1, 1])
    assert read["c"].dtype == np.float32
    assert read["c"].tolist() == [1.5, 1.5]
    for content in ([1, 2], {"a": 1}, {1: torch.ones(1)}, torch.ones(1)):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="named tensors"):
            weight_files.read_file(path)
    path.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        weight_files.read_file(path)
    for content, why in ((b"", "is empty"), (b"<html>", "web page"), (b"\x07" * 99, "no weight file")):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=why):
            weight_files.read_file(path)


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
            weight_files.read_file(tmp_path / name)
    assert not mark.exists()


def test_safetensors_come_before_bin(tmp_path: Path) -> None:
    write_weights(tmp_path, arrays(1))
    (tmp_path / hub.BIN).write_bytes(b"evil")
    assert same(weight_files.read_files(hub.resolve_weights(tmp_path)).tensors, arrays(1))


# --- names that are neither folder nor id ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./absent", "/absent/folder", "~/absent-folder", "a/b/c", "has space/x", "../x"])
def test_no_such_folder(name: str) -> None:
    with pytest.raises(CheckpointError, match="No such folder"):
        hub.resolve_file(name, "config.json")


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is a file"):
        hub.resolve_file(tmp_path / "config.json", "config.json")


def test_subfolder(tmp_path: Path) -> None:
    write_json(tmp_path / "part" / "config.json", {"hidden_size": 24, "num_attention_heads": 2})
    assert BeitConfig.from_pretrained(tmp_path, subfolder="part").hidden_size == 24


# --- a Hub on loopback -------------------------------------------------------------------------------------------


class FakeHub:
    """Speaks what huggingface_hub asks for: resolve (HEAD and GET), create, preupload and commit.

    Attributes:
        repos: id → revision → file name → content.
        private: id → token that may read it.
        log: (method, path, token) of all requests.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, str] = {}
        self.gated: set[str] = set()
        self.read_only = False
        self.log: list[tuple[str, str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                if "Content_Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def token(self) -> str | None:
                value = self.headers.get("Authorization")
                return value.removeprefix("Bearer ") if value else None

            def resolve(self) -> None:
                outer.log.append((self.command, self.path, self.token()))
                repo, _, rest = self.path.split("?")[0].lstrip("/").partition("/resolve/")
                revision, _, name = rest.partition("/")
                if repo not in outer.repos or outer.private.get(repo, self.token()) != self.token():
                    self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
                elif repo in outer.gated:
                    self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
                elif revision not in outer.repos[repo]:
                    self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Revision not found")
                elif name not in outer.repos[repo][revision]:
                    self.answer(
                        404,
                        X_Error_Code="EntryNotFound",
                        X_Error_Message="Entry not found",
                        X_Repo_Commit=hashlib.sha1(revision.encode()).hexdigest(),
                    )
                elif name == "config.json" and outer.repos[repo][revision][name] == b"500":
                    self.answer(500)
                else:
                    body = outer.repos[repo][revision][name]
                    self.answer(
                        200,
                        body,
                        ETag='"' + hashlib.sha1(body).hexdigest() + '"',
                        X_Repo_Commit=hashlib.sha1(revision.encode()).hexdigest(),
                    )

            do_HEAD = do_GET = resolve

            def do_POST(self) -> None:
                outer.log.append((self.command, self.path, self.token()))
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.split("?")[0]
                if outer.read_only or self.token() != "writer":
                    self.answer(403, b'{"error": "no right to write"}', Content_Type="application/json")
                    return
                if path == "/api/repos/create":
                    wish = json.loads(body)
                    repo = f"{wish.get('organization') or 'me'}/{wish['name']}"
                    outer.repos.setdefault(repo, {"main": {}})
                    reply: Any = {"url": f"{outer.address}/{repo}", "name": repo, "id": "1"}
                elif path.startswith("/api/validate-yaml"):
                    reply = {"errors": [], "warnings": []}
                elif "/preupload/" in path:
                    wanted = json.loads(body)["files"]
                    reply = {
                        "files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in wanted]
                    }
                else:
                    repo, _, revision = path.removeprefix("/api/models/").partition("/commit/")
                    for line in body.splitlines():
                        item = json.loads(line)
                        if item["key"] == "file":
                            content = base64.b64decode(item["value"]["content"])
                            outer.repos[repo][revision][item["value"]["path"]] = content
                    reply = {"commitUrl": f"{outer.address}/{repo}/commit/abc", "commitOid": "abc", "success": True}
                self.answer(200, json.dumps(reply).encode(), Content_Type="application/json")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants, file_download, hf_api

    server = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):  # before 1.0 the latter has names of its own
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(hf_api.api, "endpoint", server.address)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # nobody waits between attempts
    monkeypatch.chdir(tmp_path)
    yield server
    server.close()


SMALL = {"hidden_size": 24, "num_attention_heads": 2}


def put(fake: FakeHub, repo: str = "me/tiny", revision: str = "main", **more: bytes) -> None:
    files = {"config.json": json.dumps(SMALL).encode(), **{k.replace("__", "."): v for k, v in more.items()}}
    fake.repos.setdefault(repo, {})[revision] = files


def test_download_and_cache(fake: FakeHub, tmp_path: Path) -> None:
    put(fake)
    assert BeitConfig.from_pretrained("me/tiny").hidden_size == 24
    asked = len(fake.log)
    assert asked > 0
    assert BeitConfig.from_pretrained("me/tiny", local_files_only=True).hidden_size == 24
    assert len(fake.log) == asked, "local_files_only asks nobody"
    fake.repos.clear()
    assert BeitConfig.from_pretrained("me/tiny", local_files_only=True).hidden_size == 24
    path = hub.resolve_file("me/tiny", "config.json", local_files_only=True)
    assert path.is_relative_to(tmp_path / "cache")


def test_folder_comes_before_the_hub(fake: FakeHub, tmp_path: Path) -> None:
    put(fake)
    BeitConfig(hidden_size=36).save_pretrained(tmp_path / "me" / "tiny")
    assert BeitConfig.from_pretrained("me/tiny").hidden_size == 36
    assert fake.log == []


def test_revision_cache_folder_and_refresh(fake: FakeHub, tmp_path: Path) -> None:
    put(fake)
    put(fake, revision="v2")
    fake.repos["me/tiny"]["v2"]["config.json"] = b'{"hidden_size": 48}'
    assert BeitConfig.from_pretrained("me/tiny", revision="v2").hidden_size == 48
    assert any("/resolve/v2/" in path for _, path, _ in fake.log)
    assert BeitConfig.from_pretrained("me/tiny", cache_dir=tmp_path / "other").hidden_size == 24
    assert (tmp_path / "other").is_dir()
    fake.repos["me/tiny"]["main"]["config.json"] = b'{"hidden_size": 60}'
    assert BeitConfig.from_pretrained("me/tiny", force_download=True).hidden_size == 60
    with pytest.raises(CheckpointError, match=r"no revision 'v3'"):
        BeitConfig.from_pretrained("me/tiny", revision="v3")


def test_token(fake: FakeHub) -> None:
    put(fake)
    fake.private["me/tiny"] = "secret"
    with pytest.raises(CheckpointError, match=r"neither a local folder nor a repository.*token"):
        BeitConfig.from_pretrained("me/tiny")
    assert BeitConfig.from_pretrained("me/tiny", token="secret").hidden_size == 24
    assert ("HEAD", "/me/tiny/resolve/main/config.json", "secret") in fake.log


def test_absent_gated_and_broken(fake: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="neither a local folder nor a repository"):
        BeitConfig.from_pretrained("me/absent")
    put(fake, "me/gated")
    fake.gated.add("me/gated")
    with pytest.raises(CheckpointError, match=r"gated.*token"):
        BeitConfig.from_pretrained("me/gated")
    put(fake, "me/tiny")
    with pytest.raises(CheckpointError, match=r"on the Hub has no file preprocessor_config.json"):
        hub.resolve_file("me/tiny", "preprocessor_config.json")
    assert hub.has_file("me/tiny", "config.json")
    assert not hub.has_file("me/tiny", "preprocessor_config.json")
    with pytest.raises(CheckpointError, match=r"me/tiny has no weights"):
        hub.resolve_weights("me/tiny")
    put(fake, "me/broken")
    fake.repos["me/broken"]["main"]["config.json"] = b"500"
    with pytest.raises(CheckpointError, match=r"me/broken: config.json"):
        BeitConfig.from_pretrained("me/broken")
    with pytest.raises(CheckpointError):
        hub.resolve_weights("me/absent")


def test_nobody_answers(fake: FakeHub) -> None:
    fake.close()
    with pytest.raises(CheckpointError, match=r"not in the local cache.*not reached"):
        BeitConfig.from_pretrained("me/tiny")
    with pytest.raises(CheckpointError, match="not in the local cache"):
        BeitConfig.from_pretrained("me/tiny", local_files_only=True)
    with pytest.raises(CheckpointError, match="not in the local cache"):
        hub.resolve_weights("me/tiny", local_files_only=True)
    with pytest.raises(CheckpointError, match="Upload to me/tiny failed"):
        hub.upload_folder(".", "me/tiny", token="writer")


def test_offline_mode(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http as utils

    put(fake)
    BeitConfig.from_pretrained("me/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    reset = getattr(utils, "reset_sessions", lambda: None)  # before 1.0 an open session stays online
    reset()
    try:
        assert BeitConfig.from_pretrained("me/tiny").hidden_size == 24
        with pytest.raises(CheckpointError, match="not in the local cache"):
            BeitConfig.from_pretrained("me/other")
    finally:
        reset()


def test_impossible_id(fake: FakeHub) -> None:
    for name in ("me/a--b", "me/x.git", "-x/y"):
        with pytest.raises(CheckpointError):
            BeitConfig.from_pretrained(name)
    with pytest.raises(CheckpointError, match="failed"):
        hub.upload_folder(".", "a/b/c", token="writer")


def test_model_from_the_hub(fake: FakeHub, tmp_path: Path, tiny: Any) -> None:
    torch = pytest.importorskip("torch")
    model = beit.BeitForImageClassification(tiny()).eval()
    model.save_pretrained(tmp_path / "saved", max_shard_size="4KB")
    content = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    assert len(content) > 4
    fake.repos["me/sharded"] = {"main": content}
    again = beit.BeitForImageClassification.from_pretrained("me/sharded")
    torch.testing.assert_close(dict(again.named_parameters()), dict(model.named_parameters()), rtol=0, atol=0)
    loaded = beit.load("me/sharded", local_files_only=True)
    assert type(loaded) is beit.BeitForImageClassification


def test_upload(fake: FakeHub, tiny: Any) -> None:
    torch = pytest.importorskip("torch")
    model = beit.BeitForMaskedImageModeling(tiny()).eval()
    address = model.push_to_hub("me/new", token="writer", private=True, commit_message="First")
    assert address == f"{fake.address}/me/new/commit/abc"
    assert set(fake.repos["me/new"]["main"]) == {"config.json", "model.safetensors"}
    again = beit.load("me/new", token="writer")
    assert type(again) is beit.BeitForMaskedImageModeling
    torch.testing.assert_close(dict(again.named_parameters()), dict(model.named_parameters()), rtol=0, atol=0)
    fake.read_only = True
    with pytest.raises(CheckpointError, match=r"(?s)Upload to me/new failed.*token"):
        model.push_to_hub("me/new", token="reader")

"""Model folders by path and by id: what is found, what is refused; with a Hub of our own on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import beit
from beit import BeitConfig, CheckpointError
from beit.checkpoints import hub, model_card
from beit.core.files import write_json

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


def test_absent_gated_and_broken(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(hub, "_PAUSES", (0.01,))
    fake.log.clear()
    with pytest.raises(CheckpointError, match=r"me/broken: config.json.*error 500"):
        BeitConfig.from_pretrained("me/broken")
    assert len(fake.log) == 2
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


def test_a_hub_without_an_answer_costs_seconds(fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """A connection that is accepted and never answered; huggingface_hub alone would try six times."""
    from huggingface_hub import constants

    put(fake)
    BeitConfig.from_pretrained("me/tiny")
    monkeypatch.setattr(hub, "_PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        began = time.monotonic()
        with pytest.raises(CheckpointError, match=r"There is no folder me/other here.*Hub was not reached"):
            BeitConfig.from_pretrained("me/other")
        assert BeitConfig.from_pretrained("me/tiny").hidden_size == 24  # from the cache
        assert time.monotonic() - began < 3
    assert "Retrying" not in capfd.readouterr().err


# --- names that are mistyped -------------------------------------------------------------------------------------


def test_a_mistyped_path_is_no_id(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder `runs` is here, so `runs/beit-tinny` is a path; the Hub is not asked."""
    (tmp_path / "runs" / "beit-tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"No such folder: runs/beit-tinny\. Did you mean runs/beit-tiny\?"):
        beit.load("runs/beit-tinny")
    with pytest.raises(CheckpointError, match=r"No such folder: runs/other\. runs holds beit-tiny"):
        hub.resolve_file("runs/other", "config.json")
    with pytest.raises(CheckpointError, match=r"No such folder: \./x/y\. x is no folder either"):
        hub.resolve_file("./x/y", "config.json")
    with pytest.raises(CheckpointError, match="Did you mean beit-base-patch16-224"):
        beit.load("beit-bas")
    assert fake.log == []


def test_an_id_stays_an_id(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the owner's name does not hide what the catalogue lists, nor what was downloaded before."""
    published = "microsoft/beit-base-patch16-224"
    put(fake, published)
    put(fake)
    BeitConfig.from_pretrained("me/tiny")
    for owner in ("me", "microsoft"):
        (tmp_path / owner).mkdir()
    monkeypatch.chdir(tmp_path)
    assert BeitConfig.from_pretrained("me/tiny").hidden_size == 24
    assert BeitConfig.from_pretrained(published).hidden_size == 24
    with pytest.raises(CheckpointError, match=f"neither a local folder nor.*Did you mean {published}"):
        BeitConfig.from_pretrained("microsfot/beit-base-patch16-224")


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


def test_the_model_card_goes_with_the_model_and_spares_a_page_of_a_person(
    fake: FakeHub, tmp_path: Path, tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("torch")
    beit.BeitForMaskedImageModeling(tiny()).save_pretrained(tmp_path)
    model_card.write_card(tmp_path, "# Written by beit")
    beit.BeitImageProcessor().save_pretrained(tmp_path)
    model = beit.load(tmp_path)
    model.push_to_hub("me/card", token="writer")
    on_hub = fake.repos["me/card"]["main"]
    assert set(on_hub) == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert on_hub["README.md"] == (tmp_path / "README.md").read_bytes()

    model_card.write_card(tmp_path, "# A later one")
    model.push_to_hub("me/card", token="writer")
    assert b"A later one" in on_hub["README.md"]

    on_hub["README.md"] = b"# By hand"
    model.push_to_hub("me/card", token="writer")
    assert on_hub["README.md"] == b"# By hand"
    assert "README.md that somebody wrote or edited" in caplog.text


def test_a_model_card_of_other_weights_is_not_uploaded(
    fake: FakeHub, tmp_path: Path, tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    torch = pytest.importorskip("torch")
    beit.BeitForMaskedImageModeling(tiny()).save_pretrained(tmp_path)
    model_card.write_card(tmp_path, "# Written by beit")
    model = beit.load(tmp_path)
    torch.nn.init.ones_(model.lm_head.bias)
    model.push_to_hub("me/other", token="writer")
    assert "README.md" not in fake.repos["me/other"]["main"]
    assert "describes the weights in that folder" in caplog.text
    (tmp_path / "README.md").write_text("My notes")
    beit.load(tmp_path).push_to_hub("me/notes", token="writer")
    assert "README.md" not in fake.repos["me/notes"]["main"]
    assert "no model card of beit" in caplog.text


def test_a_file_of_the_hub_has_a_largest_size(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.repos["me/large"] = {"main": {"config.json": b"{}" + b" " * 2000}}
    monkeypatch.setenv("BEIT_MAX_BYTES", "1000")
    with pytest.raises(
        CheckpointError, match=r"config.json has 2,002 bytes; at most 1,000 are downloaded.*--max-bytes"
    ):
        BeitConfig.from_pretrained("me/large")
    assert [method for method, *_ in fake.log] == ["HEAD"]
    monkeypatch.setenv("BEIT_MAX_BYTES", "3kB")
    BeitConfig.from_pretrained("me/large")

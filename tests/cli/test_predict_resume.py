"""`beit predict --resume`: ended at any moment, a run goes on, with nothing lost, nothing twice, and the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from beit.cli import main
from beit.core.errors import CheckpointError, ConfigError
from beit.inference import predict_files
from beit.inference.journal import Journal
from fixtures_runs import refused, save_classifier, write_images


class Ended(BaseException):
    """In place of SIGKILL."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = write_images(tmp_path / "photos", 11)
    (folder / "005.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_classifier(tmp_path / "model", ("cat", "dog"))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: Any) -> None:
    monkeypatch.setattr(predict_files, "_BATCH", 2)


def run(*arguments: Any) -> int:
    return main(["predict", *map(str, arguments)])


def content(path: Path) -> Any:
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    return path.read_text()


def end_at(monkeypatch: Any, owner: Any, name: str, call: int) -> None:
    """End the run before this call of a function."""
    plain, count = getattr(owner, name), 0

    def ending(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            raise Ended
        return plain(*arguments, **keywords)

    monkeypatch.setattr(owner, name, ending)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_result_is_that_of_one_run(
    tmp_path: Path, photos: Path, model: Path, suffix: str, capsys: Any, monkeypatch: Any
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"results{suffix}"
    partial = tmp_path / f"results{suffix}.partial"
    assert run(photos, "--model", model, "--output", whole) == 1
    command = [photos, "--model", model, "--output", output]
    with monkeypatch.context() as patch:
        end_at(patch, Journal, "add", 4)
        with pytest.raises(Ended):
            run(*command)
    assert f"{partial} holds what is done: go on with --resume" in capsys.readouterr().err
    assert not output.exists()
    refused(capsys, ["predict", *command], "holds unfinished work", "--resume")
    assert run(*command, "--resume") == 1
    printed = capsys.readouterr()
    assert "7 of 11 images were done before." in printed.out  # three batches, and the damaged image among them
    assert "1 of 11 images could not be read" in printed.err
    assert content(output) == content(whole)
    assert not partial.exists()
    refused(capsys, ["predict", *command, "--resume"], "exists already")


def test_a_last_line_that_was_cut_anywhere(tmp_path: Path, photos: Path, model: Path, monkeypatch: Any) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "results.jsonl"
    run(photos, "--model", model, "--output", whole)
    with monkeypatch.context() as patch:
        end_at(patch, Journal, "add", 4)
        with pytest.raises(Ended):
            run(photos, "--model", model, "--output", output)
    batches = tmp_path / "results.jsonl.partial/batches.jsonl"
    lines = batches.read_bytes().splitlines(keepends=True)
    work = json.loads((batches.parent / "work.json").read_text())
    for cut in (0, 1, len(lines[2]) // 2, len(lines[2]) - 1):
        for garbage in (b"", b"\0" * 20, b'{"first": 0, "predictions": []}\n'):
            batches.write_bytes(b"".join(lines[:2]) + lines[2][:cut] + garbage)
            with Journal(batches.parent, work, resume=True) as journal:
                assert journal.done == 4
                assert len(list(journal.predictions())) == 4
            assert batches.read_bytes() == b"".join(lines[:2])
    assert run(photos, "--model", model, "--output", output, "--resume") == 1
    assert content(output) == content(whole)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        ("beit.inference.results.Sorted", "add", 1),
        ("beit.inference.results.Sorted", "add", 6),
        ("beit.inference.predict_files", "table", 1),
        ("beit.inference.predict_files.os", "replace", 1),
        ("beit.inference.predict_files.shutil", "rmtree", 1),
        ("beit.inference.journal.Journal", "remove", 1),
    ],
)
def test_ended_while_the_results_are_put_into_place(
    tmp_path: Path, photos: Path, model: Path, owner: str, name: str, call: int, monkeypatch: Any
) -> None:
    import pkgutil

    place = pkgutil.resolve_name(owner)
    base = [photos, "--model", model]
    assert run(*base, "--output", tmp_path / "whole.csv", "--sort-into", tmp_path / "whole") == 1
    command = [*base, "--output", tmp_path / "results.csv", "--sort-into", tmp_path / "sorted", "--resume"]
    with monkeypatch.context() as patch:
        end_at(patch, place, name, call)
        with pytest.raises(Ended):
            run(*command)
    assert run(*command) == 1
    assert content(tmp_path / "results.csv") == content(tmp_path / "whole.csv")
    trees = [
        sorted(str(path.relative_to(tmp_path / folder)) for path in (tmp_path / folder).rglob("*.png"))
        for folder in ("sorted", "whole")
    ]
    assert trees[0] == trees[1]
    assert len(trees[0]) == 10
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob(".*"))


def test_other_work_is_refused(tmp_path: Path, photos: Path, model: Path, capsys: Any, monkeypatch: Any) -> None:
    output = tmp_path / "results.csv"
    command = ["predict", photos, "--model", model, "--output", output]
    with monkeypatch.context() as patch:
        end_at(patch, Journal, "add", 3)
        with pytest.raises(Ended):
            main([str(part) for part in command])
    command.append("--resume")
    refused(capsys, [*command, "--threshold", "0.9"], "threshold is 0.9", "was begun with 0.0", "to begin anew")
    refused(capsys, [*command, "--top", "1"], "top is 1", "was begun with 5")
    refused(capsys, [*command, "--sort-into", tmp_path / "sorted"], "sort_into is", "was begun with None")
    (photos / "012.png").write_bytes((photos / "001.png").read_bytes())
    refused(capsys, command, "These are not the images", "names or order differ")
    (photos / "012.png").unlink()
    output.write_text("of another")
    refused(capsys, command, "results.csv exists already")
    output.unlink()
    kept = (model / "model.safetensors").read_bytes()
    save_classifier(model, ("cat", "dog"), seed=5)
    refused(capsys, command, "This is not the model", "has been trained since")
    save_classifier(model, ("cat", "cow"))
    refused(capsys, command, "This is not the model")
    save_classifier(model, ("cat", "dog"))
    (model / "model.safetensors").write_bytes(kept)
    work = tmp_path / "results.csv.partial/work.json"
    said = work.read_text()
    work.write_text("[]")
    refused(capsys, command, "is work of another version of beit")
    work.unlink()
    refused(capsys, command, "lacks its work.json")
    work.write_text(said)
    assert main([str(part) for part in command]) == 1
    assert len(output.read_text().splitlines()) == 12


def test_resume_alone(photos: Path, model: Path, capsys: Any) -> None:
    refused(capsys, ["predict", photos, "--model", model, "--resume"], "resume goes on with --output FILE")


def test_a_run_that_fails_at_once_leaves_nothing(tmp_path: Path, photos: Path, model: Path, monkeypatch: Any) -> None:
    end_at(monkeypatch, Journal, "add", 1)
    with pytest.raises(Ended):
        run(photos, "--model", model, "--output", tmp_path / "results.csv")
    assert not list(tmp_path.glob("results*"))


def test_two_processes_do_not_share_a_journal(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with Journal(tmp_path / "j", {"top": 1}) as journal:
        journal.add([{"image": "x", "error": "y"}])
        with pytest.raises(ConfigError, match="Another process works on"):
            Journal(tmp_path / "j", {"top": 1}, resume=True)


def test_a_full_disk_keeps_what_is_done(tmp_path: Path, monkeypatch: Any) -> None:
    journal = Journal(tmp_path / "j", {"top": 1})
    journal.add([{"image": "\udcff", "error": "y"}])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"No space left on device\. What it holds already is kept"), journal:
            journal.add([{"image": "z", "error": "y"}])
    with Journal(tmp_path / "j", {"top": 1}, resume=True) as journal:
        assert next(iter(journal.predictions()))["image"] == "\udcff"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_killed(tmp_path: Path, photos: Path, model: Path) -> None:
    """A real process and a real SIGKILL."""
    whole, output = tmp_path / "whole.csv", tmp_path / "results.csv"
    command = [str(photos), "--model", str(model)]
    run(*command, "--output", whole)
    script = (
        "import sys, time; from beit.inference import predict_files as f; from beit.inference.journal import Journal; "
        "f._BATCH = 2; add = Journal.add; Journal.add = lambda *a: (add(*a), time.sleep(0.5)); "
        "from beit.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [sys.executable, "-c", script, "predict", *command, "--output", str(output)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    batches = tmp_path / "results.csv.partial/batches.jsonl"
    limit = time.monotonic() + 60
    while not (batches.exists() and batches.stat().st_size) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    assert run(*command, "--output", output, "--resume") == 1
    assert content(output) == content(whole)


def test_attention_goes_on_too(tmp_path: Path, photos: Path, model: Path, monkeypatch: Any) -> None:
    looks = tmp_path / "looks"
    command = [photos, "--model", model, "--output", tmp_path / "results.csv", "--attention", looks]
    with monkeypatch.context() as patch:
        end_at(patch, Journal, "add", 3)
        with pytest.raises(Ended):
            run(*command)
    assert run(*command, "--resume") == 1
    assert len(list(looks.iterdir())) == 10
    assert run(*command[:-2], "--attention", looks) == 1  # something is there already

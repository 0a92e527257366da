"""`beit similar` on what `beit embed` writes: neighbours, groups, the gallery, and models that do not fit."""

from __future__ import annotations

import csv
import html
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("torch")
parquet = pytest.importorskip("pyarrow.parquet")

from beit.cli import main
from fixtures_runs import refused, save_classifier, write_images


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_classifier(tmp_path / "model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images, of which one is there twice, and one is damaged."""
    folder = write_images(tmp_path / "photos", 20)
    shutil.copy(folder / "003.png", folder / "x <b>&.png")
    (folder / "bad.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def index(tmp_path: Path, photos: Path, model: Path, monkeypatch: Any, capsys: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["embed", "--images", "photos", "--model", "model", "--output", "f.parquet"]) == 0
    assert "beit similar f.parquet --html" in capsys.readouterr().out
    return tmp_path / "f.parquet"


def run(*arguments: Any) -> int:
    return main(["similar", *map(str, arguments)])


def test_the_index_says_how_it_was_made(index: Path) -> None:
    said = json.loads(parquet.read_schema(index).metadata[b"beit"])
    assert said["model"] == str(index.parent / "model")
    assert said["layer"] is None
    assert len(said["sample"]) == 32


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_copy_is_the_nearest(index: Path, suffix: str) -> None:
    output = index.parent / f"near{suffix}"
    assert run(index, "--top", "2", "--output", output) == 0
    if suffix == ".csv":
        rows: Any = list(csv.DictReader(output.read_text().splitlines()))
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        rows = parquet.read_table(output).to_pylist()
    assert len(rows) == 21 * 2
    assert all(row["query"] != row["image"] for row in rows)
    (first,) = [row for row in rows if row["query"] == "photos/003.png" and int(row["rank"]) == 1]
    assert first["image"] == "photos/x <b>&.png"
    assert float(first["cosine"]) == pytest.approx(1, abs=1e-5)


def test_images_from_elsewhere_are_asked_for(index: Path, photos: Path, capsys: Any) -> None:
    queries = index.parent / "queries"
    queries.mkdir()
    shutil.copy(photos / "007.png", queries / "mine.png")
    (queries / "bad.png").write_bytes(b"")
    assert run(index, "--query", queries, "--top", "1") == 1  # the model is the one that the index names
    printed = capsys.readouterr()
    assert f"{queries / 'mine.png'}\n  1.000  photos/007.png\n" in printed.out
    assert f"{queries / 'bad.png'}: " in printed.out
    assert "1 of 2 images could not be read." in printed.err
    assert run(index, "--query", queries, "--output", index.parent / "q.jsonl", "--html", index.parent / "q.html") == 1
    rows = [json.loads(line) for line in (index.parent / "q.jsonl").read_text().splitlines()]
    assert ["error" in row for row in rows] == [True] + [False] * 5
    assert (index.parent / "q.html").read_text().count("<img") == 6


def test_frames_are_asked_for(index: Path, capsys: Any) -> None:
    frames = [Image.new("RGB", (16, 16), (50 * i, 0, 100)) for i in range(3)]
    frames[0].save("film.gif", save_all=True, append_images=frames[1:])
    assert run(index, "--query", "film.gif", "--top", "1") == 0
    assert "2 further frames of 1 film were left out" in capsys.readouterr().err
    assert run(index, "--query", "film.gif", "--frames", "2", "--top", "1", "--html", "page.html") == 0
    assert "cannot be read" not in capsys.readouterr().err
    assert Path("page.html").read_text().count('alt="film.gif#') == 2


def test_groups_and_their_gallery(index: Path, capsys: Any) -> None:
    output, page = index.parent / "groups.csv", index.parent / "groups.html"
    assert run(index, "--within", "1", "--output", output, "--html", page) == 0
    assert "2 of 21 images are near-duplicates, in 1 group (cosine at least 1). Keeping one" in capsys.readouterr().out
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert [(row["group"], row["size"], row["image"]) for row in rows] == [
        ("1", "2", "photos/003.png"),
        ("1", "2", "photos/x <b>&.png"),
    ]
    assert run(index, "--within", "-1") == 0
    assert "21 of 21 images are near-duplicates, in 1 group" in capsys.readouterr().out


def test_the_gallery_is_one_file_with_escaped_names(index: Path, photos: Path, capsys: Any, monkeypatch: Any) -> None:
    (photos / "019.png").unlink()
    elsewhere = index.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # relative paths of the index are found all the same
    assert run(index, "--html", "page.html", "--top", "20", "--shown", "3") == 0
    assert "3 pictures of the gallery cannot be read" in capsys.readouterr().err
    page = Path("page.html").read_text()
    assert "<b>&.png" not in page
    assert html.escape("photos/x <b>&.png") in page
    assert "18 further images are not on this page." in page
    pictures = page.split("<img")[1:]
    assert len(pictures) == 3 * 21
    assert all('alt="photos/' in picture and 'src="data:image/jpeg;base64,' in picture for picture in pictures)
    assert "http" not in page.split("</style>")[1]
    assert "cannot be written" not in page
    refused(capsys, ["similar", index, "--html", "page.html"], "page.html exists already")


def test_another_model_or_layer_is_refused(index: Path, photos: Path, capsys: Any) -> None:
    query = ["similar", index, "--query", photos / "001.png"]
    save_classifier(index.parent / "other", seed=1)
    refused(capsys, [*query, "--model", "other"], "This is another model, or another state of it", "the pooled output")
    save_classifier(index.parent / "wide", hidden_size=64)
    refused(capsys, [*query, "--model", "wide"], "gives 64 numbers per image", "has 32")
    refused(capsys, [*query, "--layer", "1"], "layer is 1", "holds the pooled output")
    shutil.copytree("model", "moved")
    assert run(*query[1:], "--model", "moved") == 0  # the same model at another place


def test_an_array_does_not_say_its_model(index: Path, photos: Path, capsys: Any) -> None:
    assert main(["embed", "--images", "photos", "--model", "model", "--output", "f.npy", "--layer", "1"]) == 0
    query = ["f.npy", "--query", photos / "001.png"]
    refused(capsys, ["similar", *query], "does not say which model made it. Name it: --model MODEL")
    assert run(*query, "--model", "model", "--layer", "1", "--top", "1") == 0
    assert "1.000  photos/001.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--within", "2"], "it is the cosine of an angle"),
        (["--within", "0.9", "--query", "x.png"], "Give one of them"),
        (["--frames", "all"], "model, layer and frames are for the images of --query"),
        (["--model", "m"], "model, layer and frames are for the images of --query"),
        (["--output", "x.txt"], "must end in .csv, .jsonl, .parquet"),
        (["--html", "x.txt"], "must end in .html"),
        (["--top", "0"], "top is 0; it must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit(arguments: list[str], says: str, capsys: Any) -> None:
    refused(capsys, ["similar", "f.parquet", *arguments], says)

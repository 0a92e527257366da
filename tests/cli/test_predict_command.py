"""`beit predict` into files and folders: every image has its row, and nothing is overwritten."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("torch")

from beit.cli import main
from fixtures_runs import refused, save_classifier, write_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_images(tmp_path / "photos", 6, labelled=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_classifier(tmp_path / "model", ("a/b", "dog"))


def run(*arguments: Any) -> int:
    return main(["predict", *map(str, arguments)])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_image_has_its_row(tmp_path: Path, photos: Path, model: Path, suffix: str, capsys: Any) -> None:
    (photos / "flat/bad.png").write_bytes(b"no image")
    output = tmp_path / f"results{suffix}"
    assert run(photos, "--model", model, "--output", output, "--top", "2") == 1
    printed = capsys.readouterr()
    assert f"Wrote {output}: 6 images." in printed.out
    assert "1 of 7 images could not be read" in printed.err
    if suffix == ".csv":
        rows: Any = list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))
        assert list(rows[0]) == [
            "image",
            "class",
            "probability",
            "error",
            "class_1",
            "probability_1",
            "class_2",
            "probability_2",
        ]
        assert all(row["class"] == row["class_1"] for row in rows)
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert all("labels" in row or "error" in row for row in rows)
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(output).to_pylist()
        assert rows[0]["class"] == rows[0]["classes"][0]
    assert [row["image"] for row in rows] == sorted(str(path) for path in photos.rglob("*.png"))
    assert sum(bool(row.get("error")) for row in rows) == 1
    refused(capsys, ["predict", photos, "--model", model, "--output", output], "exists already. Give a new name")


def test_below_the_threshold_an_image_has_no_class(tmp_path: Path, photos: Path, model: Path) -> None:
    output = tmp_path / "results.csv"
    assert run(photos, "--model", model, "--output", output, "--threshold", "1") == 0
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert all(row["class"] == "" and row["class_1"] for row in rows)


def test_several_labels_per_image(tmp_path: Path, photos: Path) -> None:
    model = save_classifier(tmp_path / "several", ("x", "y", "z"), problem_type="multi_label_classification")
    output = tmp_path / "results.jsonl"
    assert run(photos, "--model", model, "--output", output, "--top", "1", "--threshold", "0") == 0
    for line in output.read_text().splitlines():
        row = json.loads(line)
        assert sorted(row["classes"]) == ["x", "y", "z"]
        assert len(row["labels"]) == 3


def test_images_are_sorted_into_folders(tmp_path: Path, photos: Path, model: Path) -> None:
    shutil.copy(photos / "flat/000.png", photos / "upright/000.png")  # two of one name
    count = len(list(photos.rglob("*.png")))
    assert run(photos, "--model", model, "--sort-into", tmp_path / "sorted") == 0
    found = list((tmp_path / "sorted").rglob("*.png"))
    assert len(found) == count
    assert {path.parent.name for path in found} <= {"a_b", "dog"}  # no folder below "a"
    assert not any(path.is_symlink() for path in found)
    assert run(photos, "--model", model, "--sort-into", tmp_path / "links", "--link") == 0
    links = list((tmp_path / "links").rglob("*.png"))
    assert len(links) == count
    assert all(path.is_symlink() and path.resolve().is_relative_to(photos.resolve()) for path in links)
    assert run(photos, "--model", model, "--sort-into", tmp_path / "sorted") == 1


def test_a_class_of_the_name_unsure_has_its_own_folder(tmp_path: Path) -> None:
    from beit.inference.results import Sorted

    (tmp_path / "x.png").write_bytes(b"x")
    sorted_ = Sorted(tmp_path / "sorted", ["unsure", "Unsure", "cat"])
    for classes in ([], ["unsure"], ["Unsure"], ["cat"]):
        sorted_.add(str(tmp_path / "x.png"), classes)
    assert len(list((tmp_path / "sorted").iterdir())) == 4


def test_patterns_and_lists(tmp_path: Path, photos: Path, model: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("photos/flat/000.png\n\nphotos/upright\n")
    assert run("photos/fl*/*.png", "@list.txt", "--model", model, "--json") == 0
    names = [row["image"] for row in json.loads(capsys.readouterr().out)]
    assert names == [f"photos/flat/{i}.png" for i in ("000", "002", "004")] + ["photos/flat/000.png"] + [
        f"photos/upright/{i}.png" for i in ("001", "003", "005")
    ]
    (tmp_path / "@cat.png").write_bytes((photos / "flat/000.png").read_bytes())
    (tmp_path / "list.txt").write_text("@cat.png\n")
    assert run("photos/*", "@list.txt", "--model", model, "--json") == 0  # folders that match, too
    names = [row["image"] for row in json.loads(capsys.readouterr().out)]
    assert len(names) == 7
    assert names[-1] == "@cat.png"
    refused(capsys, ["predict", "photos/*.bmp", "--model", model], "Nothing matches photos/*.bmp")
    refused(capsys, ["predict", "@gone.txt", "--model", model], "The list gone.txt cannot be read")
    refused(capsys, ["predict", "https://x.org/a.jpg", "--model", model], "https://x.org/a.jpg is an address")


def test_a_path_that_is_not_there_is_said_once(tmp_path: Path, photos: Path, model: Path, capsys: Any) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "holiday.png")
    assert run(tmp_path / "holliday.png", "--model", model) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'holliday.png'}: no such file.\n"
    assert f"Did you mean {tmp_path / 'holiday.png'}?" in printed.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--output", "x.txt"], "must end in .csv, .jsonl, .parquet"),
        (["--threshold", "2"], "it is a probability"),
        (["--threshold", "0.5"], "threshold is for --output FILE and --sort-into FOLDER"),
        (["--json", "--output", "x.csv"], "Give one of them"),
        (["--link"], "link is for --sort-into"),
    ],
)
def test_arguments_that_do_not_fit(model: Path, arguments: list[str], says: str, capsys: Any) -> None:
    refused(capsys, ["predict", "x.png", "--model", model, *arguments], says)


def test_embed_overwrites_only_when_told_to(tmp_path: Path, photos: Path, model: Path, capsys: Any) -> None:
    command = ["embed", "--images", str(photos), "--model", str(model), "--output", str(tmp_path / "f.npy")]
    assert main(command) == 0
    refused(capsys, command, "exists already. Give a new name, or --overwrite")
    assert main([*command, "--overwrite"]) == 0


def save_film(path: Path, count: int = 5) -> Path:
    frames = [Image.new("RGB", (16, 16), (50 * i, 0, 100)) for i in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def test_frames_of_films(tmp_path: Path, photos: Path, model: Path, capsys: Any) -> None:
    film = save_film(photos / "film.gif")
    still = photos / "flat/000.png"
    assert run(film, still, "--model", model, "--json") == 0
    printed = capsys.readouterr()
    assert [row["image"] for row in json.loads(printed.out)] == [str(film), str(still)]
    assert "4 further frames of 1 film were left out: --frames all takes them" in printed.err
    assert run(film, still, "--model", model, "--frames", "2", "--json") == 0
    printed = capsys.readouterr()
    assert [row["image"] for row in json.loads(printed.out)] == [f"{film}#{i}" for i in (0, 2, 4)] + [str(still)]
    assert "left out" not in printed.err
    refused(capsys, ["predict", film, "--model", model, "--frames", "0"], "frames is '0'; choose first, all")
    refused(
        capsys,
        ["predict", film, "--model", model, "--frames", "all", "--sort-into", tmp_path / "x"],
        "copies files, and frames are none",
    )


def test_frames_are_embedded_and_found(tmp_path: Path, photos: Path, model: Path, capsys: Any) -> None:
    pytest.importorskip("pyarrow")
    save_film(photos / "film.gif")
    index, page = tmp_path / "f.parquet", tmp_path / "page.html"
    command = ["embed", "--images", str(photos), "--model", str(model), "--output", str(index)]
    assert main([*command, "--frames", "all"]) == 0
    assert "11 images, 32 numbers each." in capsys.readouterr().out
    assert main(["similar", str(index), "--html", str(page), "--top", "10"]) == 0
    assert "cannot be read" not in capsys.readouterr().err
    assert "film.gif#4" in page.read_text()
    assert main([*command, "--overwrite"]) == 0
    assert "4 further frames of 1 film were left out" in capsys.readouterr().err


@pytest.mark.parametrize("framework", ["torch", "flax"])
def test_attention_over_each_image(tmp_path: Path, photos: Path, model: Path, framework: str, capsys: Any) -> None:
    pytest.importorskip(framework)
    (photos / "flat/bad.png").write_bytes(b"no image")
    command = [photos, "--model", model, "--framework", framework, "--attention", tmp_path / "looks"]
    assert run(*command) == 1
    printed = capsys.readouterr()
    assert f"Wrote 6 pictures of the attention to {tmp_path / 'looks'}." in printed.err
    assert "%" in printed.out
    found = {path.relative_to(tmp_path / "looks") for path in (tmp_path / "looks").rglob("*.png")}
    assert found == {path.relative_to(photos) for path in photos.rglob("0*.png")}
    refused(capsys, ["predict", *command], "looks exists already. Give a new folder for the pictures")


def test_each_label_has_the_threshold_that_its_evaluation_found(tmp_path, photos, capsys):
    model = save_classifier(tmp_path / "several", ("x", "y", "z"), problem_type="multi_label_classification")
    command = ["--model", model, "--output", tmp_path / "best.jsonl", "--threshold"]
    refused(capsys, ["predict", str(photos), *map(str, command), "best"], "which has none", "Give a number from 0 to 1")
    labels = [{"name": "x", "threshold": 0.0}, {"name": "y", "threshold": 1.0}, {"name": "z", "threshold": None}]
    (model / "evaluation.json").write_text(json.dumps({"labels": labels}))
    assert run(photos, *command, "best") == 0
    assert run(photos, "--model", model, "--output", tmp_path / "half.jsonl") == 0
    best, half = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("best", "half")
    )
    for row, other in zip(best, half, strict=True):
        assert ("z" in row["classes"]) == ("z" in other["classes"])  # not known: one half
        assert "x" in row["classes"]
        assert "y" not in row["classes"]
    single = save_classifier(tmp_path / "single", ("x", "y"))
    command = ["predict", photos, "--model", single, "--output", tmp_path / "new.csv", "--threshold", "best"]
    refused(capsys, command, "several labels an image")

"""`beit segment …` as a user calls it: the whole way, and mistakes that are explained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beit.cli import main
from fixtures_runs import refused as command_refused
from fixtures_runs import save_small_model
from fixtures_segment import NAMES, blocks, save_segmenter, write_names, write_segmented

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")

SMALL = ["--workers", "0", "--batch-size", "4", "--steps", "2", "--precision", "fp32", "--auxiliary-channels", "8"]


def run(*arguments: Any) -> int:
    return main(["segment", *map(str, arguments)])


def refused(capsys: Any, arguments: list[Any], *parts: str, status: int = 1) -> None:
    """As `fixtures_runs.refused`, of `beit segment`."""
    command_refused(capsys, ["segment", *arguments], *parts, status=status)


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    return write_segmented(tmp_path, 12)


@pytest.fixture
def training(tmp_path, folders) -> list[Any]:
    """Arguments of a training run that works."""
    names = write_names(tmp_path / "names.txt")
    model = save_small_model(tmp_path / "start", num_hidden_layers=4)
    arguments = ["train", "--images", folders[0], "--maps", folders[1], "--classes", names, "--model", model]
    return [*arguments, "--output", tmp_path / "run", *SMALL]


@pytest.fixture
def model(tmp_path) -> Path:
    return save_segmenter(tmp_path / "model")


# --- the whole way -----------------------------------------------------------------------------------------------


def test_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for arguments in ([], ["-h"], ["--help"]):
        assert run(*arguments) == 0
        assert "beit segment {train,evaluate,predict,demo}" in capsys.readouterr().out
    for action, options in (
        ("train", ["--maps", "--ignore-index", "--reduce-labels", "--short-side", "--cat-max", "--schedule"]),
        ("evaluate", ["--mode", "--scales", "--flip", "--maps"]),
        ("predict", ["--output", "--model"]),
        ("demo", ["--smoke"]),
    ):
        assert run(action, "--help") == 0
        text = capsys.readouterr().out
        assert f"usage: beit segment {action}" in text
        assert all(option in text for option in options)
    refused(capsys, ["eat"], "no action 'eat'. Choose train, evaluate, predict, demo.")
    refused(capsys, ["train", "--colour", "3"], "--colour", status=2)


def test_from_label_maps_to_overlays(tmp_path, folders, training, capsys):
    output = tmp_path / "run"
    validation = ["--validation-images", folders[0], "--validation-maps", folders[1]]
    assert run(*training, *validation) == 0
    printed = capsys.readouterr()
    assert f"Saved {output}: " in printed.out
    assert "of the training pixels right" in printed.out
    assert "Validation: mIoU" in printed.out
    assert "step 2/2: validation mIoU" in printed.err

    evaluate = ["evaluate", "--model", output, "--images", folders[0], "--maps", folders[1]]
    assert run(*evaluate, "--output", tmp_path / "found") == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "found/evaluation.json").read_text())
    own = json.loads((output / "evaluation.json").read_text())
    assert (found["miou"], found["confusion"]) == (own["miou"], own["confusion"])
    assert lines[0].startswith(f"mIoU {found['miou']:.1%}, pixel accuracy")
    assert [line.split()[0] for line in lines[1:4]] == list(NAMES)
    assert (tmp_path / "found/report.html").exists()
    assert run(*evaluate, "--mode", "whole", "--batch-size", "2") == 0
    assert run(*evaluate, "--scales", "0.75", "1.25", "--flip", "--short-side", "12") == 0
    names = write_names(tmp_path / "others.txt", ("a", "b", "c"))
    assert run(*evaluate, "--classes", names) == 0
    assert "  b " in capsys.readouterr().out

    assert run("predict", folders[0] / "a/00.png", folders[0] / "b", "--model", output, "--output", tmp_path / "p") == 0
    assert "Wrote 7 label maps" in capsys.readouterr().out
    assert len(list((tmp_path / "p/maps").glob("*.png"))) == len(list((tmp_path / "p/overlays").glob("*.png"))) == 7


def test_settings_of_an_earlier_run(tmp_path, training):
    assert run(*training) == 0
    again = ["train", "--settings", tmp_path / "run/settings.json", "--output", tmp_path / "again"]
    assert run(*again) == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "run/model.safetensors").read_bytes()


def test_labels_as_in_ade20k(tmp_path, training, folders, capsys):
    """Classes from 1, 0 for no label: the model remembers it, so that evaluation needs no flag."""
    images, maps = write_segmented(tmp_path / "ade", 6, shift=1)
    labels = np.asarray(Image.open(maps / "a/00.png")).copy()
    labels[:3] = 0
    Image.fromarray(labels).save(maps / "a/00.png")
    arguments = [*training, "--maps", maps, "--images", images]
    refused(capsys, arguments, "has the values 3. Wanted 0 to 2", "--reduce-labels")
    arguments[arguments.index("--output") + 1] = tmp_path / "reduced"
    assert run(*arguments, "--reduce-labels") == 0
    evaluate = ["evaluate", "--model", tmp_path / "reduced", "--images", images, "--maps", maps]
    assert run(*evaluate, "--output", tmp_path / "found") == 0
    confusion = np.array(json.loads((tmp_path / "found/evaluation.json").read_text())["confusion"])
    pixels = sum(np.asarray(Image.open(path)).size for path in maps.rglob("*.png"))
    assert confusion.sum() == pixels - labels[:3].size
    assert run(*evaluate, "--reduce-labels") == 0  # says it once more


def test_label_maps_in_colour(tmp_path, folders, training, capsys):
    """The table names the classes; evaluation matches them by name, whatever the order of its own table."""
    images, maps = folders
    colours = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142)], np.uint8)
    for path in maps.rglob("*.png"):
        Image.fromarray(colours[np.asarray(Image.open(path))]).save(path)
    (tmp_path / "colours.txt").write_text("0 0 0 ground\n128 64 128 red\n0 0 142 green\n")
    (tmp_path / "other.json").write_text('{"green": [0, 0, 142], "red": [128, 64, 128], "ground": [0, 0, 0]}')
    position = training.index("--classes")
    training = training[:position] + training[position + 2 :]
    validation = ["--validation-images", images, "--validation-maps", maps]
    refused(capsys, training, "mode RGB; save class numbers", "--colors")
    assert run(*training, *validation, "--colors", tmp_path / "colours.txt") == 0, capsys.readouterr().err
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["id2label"] == {"0": "ground", "1": "red", "2": "green"}
    evaluate = [
        "evaluate",
        "--model",
        tmp_path / "run",
        "--images",
        images,
        "--maps",
        maps,
        "--output",
        tmp_path / "found",
    ]
    assert run(*evaluate, "--colors", tmp_path / "other.json") == 0
    found, own = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("found", "run"))
    assert found["confusion"] == own["confusion"]
    assert np.asarray(found["confusion"]).sum(1).min() > 0
    (tmp_path / "other.json").write_text('{"red": [128, 64, 128], "ground": [0, 0, 0]}')
    refused(capsys, [*evaluate, "--colors", tmp_path / "other.json"], "(0, 0, 142)", "--unknown-colors void")
    (tmp_path / "other.json").write_text('{"rot": [128, 64, 128], "ground": [0, 0, 0]}')
    refused(capsys, [*evaluate, "--colors", tmp_path / "other.json"], "the classes rot are none of the 3 classes")
    # A model that goes on learning keeps the order of its classes.
    (tmp_path / "other.json").write_text('{"green": [0, 0, 142], "red": [128, 64, 128], "ground": [0, 0, 0]}')
    again = [
        *training,
        "--model",
        tmp_path / "run",
        "--output",
        tmp_path / "again",
        "--colors",
        tmp_path / "other.json",
    ]
    assert run(*again) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "again/config.json").read_text())["id2label"] == config["id2label"]


def outlines_of(labels: np.ndarray) -> list[tuple[int, list[tuple[int, int]]]]:
    """(class number, corners) of a square around each pixel that is not ground."""
    return [
        (int(labels[y, x]), [(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)]) for y, x in np.argwhere(labels).tolist()
    ]


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_outlines_train_as_their_maps_do(tmp_path, training, capsys, form):
    """The same labels as label maps and as outlines: the same weights; validation and evaluation see the same classes."""
    images, maps = write_segmented(
        tmp_path / "images", 8
    )  # in images/images, so that YOLO's labels are in images/labels
    write_names(tmp_path / "names.txt", ("background", "red", "green"))
    ids = {1: 12, 2: 5}  # red has the higher id, so it comes second; --classes brings both into one order
    coco: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 12, "name": "red"}, {"id": 5, "name": "green"}],
    }
    for path in sorted(maps.rglob("*.png")):
        labels, name = np.asarray(Image.open(path)), path.relative_to(maps)
        height, width = labels.shape
        coco["images"].append({"id": str(name), "file_name": str(name), "height": height, "width": width})
        lines = []
        for number, corners in outlines_of(labels):
            flat = [float(value) for corner in corners for value in corner]
            coco["annotations"].append({"image_id": str(name), "category_id": ids[number], "segmentation": [flat]})
            scaled = [value / (width, height)[i % 2] for i, value in enumerate(flat)]
            lines.append(" ".join(map(str, [number - 1, *scaled])))
        file = (tmp_path / "images/labels" / name).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines))
    (tmp_path / "c.json").write_text(json.dumps(coco))
    (tmp_path / "data.yaml").write_text("names: [red, green]\n")

    def take(*names: str) -> list[Any]:
        kept = list(training)
        for name in names:
            position = kept.index(name)
            del kept[position : position + 2]
        return [*kept, "--images", images]

    with_maps = [*take("--maps"), "--maps", maps, "--validation-images", images, "--validation-maps", maps]
    assert run(*with_maps, "--output", tmp_path / "maps_run") == 0, capsys.readouterr().err
    given = ["--annotations", tmp_path / "c.json"] if form == "coco" else []
    arguments = [*take("--maps"), *given, "--validation-images", images]
    if form == "coco":
        refused(capsys, arguments, "Give --validation-annotations", status=2)
        arguments += ["--validation-annotations", tmp_path / "c.json"]
    assert run(*arguments) == 0, capsys.readouterr().err
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "maps_run" / file).read_bytes()
    evaluate = ["evaluate", "--model", tmp_path / "run", "--images", images, *given, "--output", tmp_path / "found"]
    assert run(*evaluate) == 0, capsys.readouterr().err
    found, own = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("found", "maps_run"))
    assert found["confusion"] == own["confusion"]
    void = [*take("--maps", "--classes"), *given, "--unlabelled", "void", "--output", tmp_path / "void"]
    if form == "coco":
        refused(capsys, [*void, "--maps", maps], "both hold labels; give one of them")
        refused(capsys, [*void, "--colors", tmp_path / "names.txt"], "Outlines of COCO and YOLO say their classes")
    assert run(*void) == 0, capsys.readouterr().err
    names = list(json.loads((tmp_path / "void/config.json").read_text())["id2label"].values())
    assert names == (["green", "red"] if form == "coco" else ["red", "green"])


def test_the_embedded_task(tmp_path, capsys):
    images = ["--images", "embedded:pasted_garments"]
    size = ["--model", "tiny", "--image-size", "96", "--patch-size", "24"]
    assert run("train", *images, *size, *SMALL, "--output", tmp_path / "run") == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["id2label"]["10"] == "Ankle boot"
    refused(
        capsys, ["train", "--images", "embedded:cats", *size, "--output", tmp_path / "x"], "no embedded images 'cats'"
    )
    refused(capsys, ["evaluate", *images, "--model", save_segmenter(tmp_path / "m")], "has 3 classes", "has 11")


def test_the_demonstration(tmp_path, capsys):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/settings.json").write_text('{"kind": "segment demo"}')  # an earlier demo may be replaced
    (tmp_path / "demo/old.txt").write_text("")
    assert run("demo", "--smoke", "--output", tmp_path / "demo") == 0
    assert not (tmp_path / "demo/old.txt").exists()
    printed = capsys.readouterr()
    assert "Always guessing the commonest class: mIoU" in printed.out
    page = (tmp_path / "demo/report.html").read_text()
    assert "A smoke run" in page
    assert page.count("<b>image</b><b>truth</b><b>prediction</b>") == 2  # examples, worst cases
    assert not re.search(r"https?://|url\(|@import|<script|<link", page)
    found = json.loads((tmp_path / "demo/results.json").read_text())
    assert found["count"] == 8
    assert found["constant_guess"]["miou"] == pytest.approx(found["constant_guess"]["pixel_accuracy"] / 11, rel=0.3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("years of work")
    refused(capsys, ["demo", "--smoke", "--output", tmp_path / "other"], "other than an earlier demo")
    assert (tmp_path / "other/thesis.txt").exists()


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["0", "2"])
def test_label_values_outside_the_classes(folders, training, model, capsys, workers):
    images, maps = folders
    Image.new("L", (16, 16), 77).save(maps / "a/00.png")
    parts = ("a/00.png has the values 77.", "Wanted 0 to 2", "--classes", "--ignore-index")
    refused(capsys, [*training, "--workers", workers], *parts)
    refused(capsys, ["evaluate", "--model", model, "--images", images, "--maps", maps], *parts)
    assert run("evaluate", "--model", model, "--images", images, "--maps", maps, "--ignore-index", "77") == 0


def test_wrong_labels_are_found_before_the_first_step(tmp_path, folders, training, capsys):
    images, maps = write_segmented(tmp_path / "val", 3)
    Image.new("L", (16, 16), 9).save(maps / "b/01.png")
    validation = ["--validation-images", images, "--validation-maps", maps]
    refused(capsys, [*training, *validation], "b/01.png has the values 9.")
    assert not (tmp_path / "run/log.jsonl").exists()


def test_an_ignore_index_that_is_a_class_too(tmp_path, folders, training, capsys):
    names = write_names(tmp_path / "many.txt", tuple(f"class {i}" for i in range(300)))
    arguments = [*training, "--classes", names]
    refused(capsys, arguments, "ignore_index 255 is also the number of one of the 300 classes", "--ignore-index 65535")
    assert run(*arguments, "--ignore-index", "65535") == 0
    lost = [*training, "--output", tmp_path / "x", "--reduce-labels", "--ignore-index", "0"]
    refused(capsys, lost, "ignore_index 0 is also the number of one of the 3 classes")


def test_reports_bear_odd_shapes_and_names(tmp_path, capsys):
    images, maps = tmp_path / "images", tmp_path / "maps"
    for name, size in {"price_$5_$6": (40, 40), "tall": (2, 1000), "long": (1000, 1), "猫": (20, 24)}.items():
        for folder, mode in ((images, "RGB"), (maps, "L")):
            folder.mkdir(exist_ok=True)
            Image.new(mode, size, 1 if mode == "L" else (200, 30, 30)).save(folder / f"{name}.png")
    model = save_segmenter(tmp_path / "model", ("a$x_$", "b", "犬"))
    arguments = ["evaluate", "--model", model, "--images", images, "--maps", maps, "--output", tmp_path / "found"]
    assert run(*arguments) == 0, capsys.readouterr().err
    assert "a$x_$" in (tmp_path / "found/report.html").read_text()
    refused(capsys, [*arguments, "--examples", "0"], "examples is 0; it must be at least 1")


def test_maps_of_another_size_or_kind(folders, training, capsys):
    _, maps = folders
    Image.new("L", (16, 12)).save(maps / "a/00.png")
    refused(capsys, training, "a/00.png has shape (12, 16) and its image (16, 16)", "at the size of the image")
    Image.new("RGB", (16, 16)).save(maps / "a/00.png")
    refused(capsys, training, "mode RGB; save class numbers, one per pixel, as grey or palette PNG")
    Image.new("RGB", (16, 16)).save(maps / "a/00.jpg")
    (maps / "a/00.png").unlink()
    refused(capsys, training, "00.jpg is a JPEG file")


def test_missing_partners_and_folders(tmp_path, folders, training, model, capsys):
    images, maps = folders
    (tmp_path / "empty").mkdir()
    position = training.index("--maps")
    without = training[:position] + training[position + 2 :]
    refused(capsys, without, "Got no label maps", "--maps")
    refused(capsys, [*without, "--maps", tmp_path / "gone"], "gone is not a folder", "label maps")
    refused(capsys, [*without, "--maps", tmp_path / "empty"], "empty has no label maps")
    refused(capsys, [*training, "--images", tmp_path / "empty"], "empty has no images")
    refused(capsys, [*training, "--classes", tmp_path / "gone.txt"], "gone.txt cannot be read")
    refused(capsys, ["evaluate", "--model", model, "--images", images], "Got no label maps")
    (maps / "a/02.png").unlink()
    refused(capsys, training, "1 images have no label map and 0 label maps no image", "a/02.png")
    (images / "a/02.png").unlink()
    (images / "b/03.png").unlink()
    refused(capsys, training, "0 images have no label map and 1 label maps no image", "b/03.png")
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_is_taken(tmp_path, folders, training, model, capsys):
    assert run(*training) == 0
    refused(capsys, training, "already holds a run")
    refused(capsys, [*training, "--output", model], "holds a model")
    predict = ["predict", folders[0], "--model", model, "--output", tmp_path / "p"]
    assert run(*predict) == 0
    refused(capsys, predict, "exists already", "another --output")
    (tmp_path / "list.txt").write_text(f"{folders[0]}/a\n")
    assert run("predict", f"{folders[0]}/b/*.png", f"@{tmp_path}/list.txt", *predict[2:-1], tmp_path / "q") == 0
    maps = [{path.name for path in (tmp_path / name / "maps").rglob("*.png")} for name in "pq"]
    assert len(maps[1]) > 1
    assert maps[1] <= maps[0]
    refused(
        capsys, ["predict", "https://x.org/a.png", *predict[2:]], "is an address", "beit segment predict reads files"
    )
    refused(capsys, ["predict", "x/*.png", *predict[2:]], "Nothing matches x/*.png")
    (tmp_path / "file").write_text("")
    refused(capsys, [*predict[:-1], tmp_path / "file"], "is a file; give a folder")


def test_a_batch_without_labels(folders, training, model, capsys):
    for path in folders[1].rglob("*.png"):
        with Image.open(path) as labels:
            size = labels.size
        Image.new("L", size, 255).save(path)
    refused(capsys, training, "3 of the 3 classes are in none of the label maps", "--map-value 255=0")
    arguments = ["evaluate", "--model", model, "--images", folders[0], "--maps", folders[1]]
    refused(capsys, arguments, "No pixel of the 12 label maps has a label", "--ignore-index")
    position = training.index("--classes")
    refused(
        capsys, [*training[:position], *training[position + 2 :], "--output", folders[0].parent / "x"], "have no label"
    )


def test_images_smaller_than_the_window_and_damaged_ones(tmp_path, training, model, capsys):
    images, maps = write_segmented(tmp_path / "mixed", 12)
    image, labels = blocks(0, 7, 40)
    Image.fromarray(image).save(images / "a/00.png")
    Image.fromarray(labels).save(maps / "a/00.png")
    (images / "b/01.png").write_bytes(b"nothing")
    assert run(*training, "--images", images, "--maps", maps, "--steps", "6") == 0
    capsys.readouterr()
    assert run("evaluate", "--model", model, "--images", images, "--maps", maps, "--short-side", "6") == 0
    printed = capsys.readouterr()
    assert "on 11 images" in printed.out
    assert "1 images were skipped" in printed.err
    refused(capsys, ["predict", images, "--model", model, "--output", tmp_path / "p"], "1 of 12 images", "b/01.png")
    assert len(list((tmp_path / "p/maps").rglob("*.png"))) == 11
    refused(capsys, ["predict", tmp_path / "gone.png", "--model", model, "--output", tmp_path / "q"], "1 of 1 images")
    refused(capsys, ["predict", "--model", model, "--output", tmp_path / "q"], "No image was given")
    (tmp_path / "empty").mkdir()
    refused(capsys, ["predict", tmp_path / "empty", "--model", model, "--output", tmp_path / "q"], "has no images")


def test_a_class_that_never_appears(tmp_path, folders, capsys):
    model = save_segmenter(tmp_path / "four", names=(*NAMES, "unicorn"))
    from beit import BeitForSemanticSegmentation

    changed = BeitForSemanticSegmentation.from_pretrained(model)
    with torch.no_grad():
        changed.decode_head.classifier.bias[3] = -1e4
    changed.save_pretrained(model)
    assert run("evaluate", "--model", model, "--images", folders[0], "--maps", folders[1]) == 0
    printed = capsys.readouterr().out
    assert "1 of 4 classes are absent" in printed
    assert re.search(r"unicorn +absent", printed)


def test_models_and_settings_that_do_not_fit(tmp_path, folders, training, model, capsys):
    start = tmp_path / "start"
    data = ["--images", folders[0], "--maps", folders[1]]
    refused(capsys, ["evaluate", "--model", start, *data], "was not trained for segmentation", "beit segment train")
    refused(capsys, ["evaluate", "--model", tmp_path / "gone", *data], "No such folder")
    refused(
        capsys, ["predict", folders[0], "--model", start, "--output", tmp_path / "p"], "not trained for segmentation"
    )
    refused(capsys, ["evaluate", "--model", model, *data, "--mode", "whole", "--scales", "0.5"], "scales are for")
    names = write_names(tmp_path / "two.txt", ("a", "b"))
    refused(capsys, ["evaluate", "--model", model, *data, "--classes", names], "names 2 classes")
    refused(capsys, [*training, "--patch-size", "8"], "for training from scratch")
    refused(capsys, [*training, "--batch-size", "1"], "batch norm needs at least 2", status=2)
    refused(capsys, [*training, "--validation-images", folders[0]], "--validation-maps")
    assert not (tmp_path / "run").exists()

"""The images of a stream by number, to measure on; and data sets in a local folder, whose labels are plain values."""

from __future__ import annotations

import gc
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit.core.errors import DataError, InputError
from beit.data.sources import open_images, open_to_measure
from beit.data.sources.class_checks import warn_of_absent_classes
from beit.data.sources.spooled import SpooledImages
from beit.data.sources.wnids import imagenet_wnids
from fixtures_runs import save_classifier
from fixtures_streams import colour, encoded, write_tar


def labelled_tar(path: Path, labels: list[Any], broken: tuple[int, ...] = ()) -> Path:
    members: list[tuple[str, bytes]] = []
    for number, label in enumerate(labels):
        image = b"no image" if number in broken else colour(number)
        members += [(f"{number:03}.png", image)]
        members += [] if label is None else [(f"{number:03}.cls", str(label).encode())]
    return write_tar(path, members)


def number_of(images: Any, index: int) -> int:
    red, green, _ = np.asarray(images.read(index))[0, 0].tolist()
    return 256 * red + green


def test_the_samples_of_all_shards_by_number(tmp_path: Path) -> None:
    labelled_tar(tmp_path / "0.tar", [0, 1, 1])
    labelled_tar(tmp_path / "1.tar", [1, 0])
    images = open_to_measure(f"{tmp_path}/{{0,1}}.tar", ["cat", "dog"])
    assert isinstance(images, SpooledImages)
    assert len(images) == 5
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1, 1, 0]
    assert [number_of(images, index) for index in (4, 0, 2, 2)] == [1, 0, 2, 2]  # in any order, and again
    few = images.subset(np.array([3, 1]))
    assert [number_of(few, index) for index in range(2)] == [0, 1]
    assert [few.target(index) for index in range(2)] == [1, 1]
    assert few.name(0).endswith("1.tar: 000.png")


def test_what_is_damaged_keeps_its_place_and_says_why(tmp_path: Path) -> None:
    images = open_to_measure(labelled_tar(tmp_path / "x.tar", [0, 1, None], broken=(1,)), ["cat", "dog"])
    assert len(images) == 3
    with pytest.raises(DataError, match=r"001\.png"):
        images.read(1)
    with pytest.raises(DataError, match="no label"):
        images.read(2)
    with pytest.raises(InputError, match="wanted a number from 0 to 1"):
        open_to_measure(labelled_tar(tmp_path / "y.tar", [7]), ["cat", "dog"])
    write_tar(tmp_path / "z.tar", [])
    with pytest.raises(DataError, match="has no images to measure on"):
        open_to_measure(tmp_path / "z.tar", ["cat", "dog"])


def test_an_image_without_a_label_is_of_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = open_to_measure(labelled_tar(tmp_path / "x.tar", [1, None]), ["cat", "dog"])
    warn_of_absent_classes(images, ["cat", "dog"])
    assert "1 of the 2 classes have no image in the images to measure on: cat." in caplog.text


def test_evaluate_and_validation_take_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("accelerate")
    from beit.cli import main

    shard = labelled_tar(tmp_path / "x.tar", [0, 1, 0, 1, 1, 0])
    save_classifier(tmp_path / "model", ("cat", "dog"))
    assert main(["evaluate", "--model", str(tmp_path / "model"), "--images", str(shard)]) == 0
    assert "on 6 images" in capsys.readouterr().out
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    arguments = ["finetune", "--images", str(shard), "--classes", str(names), "--steps", "2", "--batch-size", "2"]
    arguments += ["--model", str(tmp_path / "model"), "--validation", str(shard), "--output", str(tmp_path / "run")]
    assert main([*arguments, "--workers", "1", "--precision", "fp32", "--shuffle-buffer", "2"]) == 0
    assert "on 6 images" in capsys.readouterr().out


# --- data sets whose columns are plain -------------------------------------------------------------------------------


# `datasets` leaves files open; they are closed, with a warning, whenever Python collects them: here, and in no other test.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


def write_table(folder: Path, **columns: Any) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder.mkdir()
    parquet.write_table(pyarrow.table(columns), folder / "train-00000-of-00001.parquet")
    return folder


def targets(stream: Any) -> list[int]:
    return [stream.target(sample) for sample in stream.shards.read(0)]


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)  # datasets leaves it open
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_labels_of_a_metadata_file_are_texts(tmp_path: Path, hub_home: None, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    lines = ["file_name,label"]
    for number, name in enumerate(["dog", "cat", "dog"]):
        (folder / f"{number}.png").write_bytes(colour(number))
        lines.append(f"{number}.png,{name}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    with caplog.at_level(logging.INFO, logger="beit"):
        stream: Any = open_images(f"hub:{folder}", labelled=True)
    assert "labels are taken from the column label" in caplog.text
    assert stream.classes == ["cat", "dog"]
    assert targets(stream) == [1, 0, 1]
    # A model's own classes decide, as for every source.
    assert targets(open_images(f"hub:{folder}", labelled=True, classes=["dog", "cow", "cat"])) == [0, 2, 0]


def test_files_in_plain_columns(tmp_path: Path, hub_home: None) -> None:
    structs = [{"bytes": colour(number), "path": f"{number}.png"} for number in range(3)]
    stream: Any = open_images(f"hub:{write_table(tmp_path / 'a', image=structs, label=[10, 2, 10])}", labelled=True)
    assert stream.classes == ["2", "10"]  # numbers in their order
    assert targets(stream) == [1, 0, 1]
    table = write_table(tmp_path / "b", picture=[colour(0), None], category=["x", ""], size=[1, 2])
    stream = open_images(f"hub:{table}", labelled=True)
    assert stream.classes == ["x"]
    good, bad = stream.shards.read(0)
    assert stream.read(good).size == (8, 8)
    with pytest.raises(DataError, match="the row has no image"):
        stream.read(bad)
    with pytest.raises(DataError, match="no label"):
        stream.target(bad)


def test_class_folders_and_their_parts(tmp_path: Path, hub_home: None) -> None:
    for part in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            (tmp_path / "set" / part / name / "0.png").write_bytes(colour(number + 2 * (part == "test")))
    stream: Any = open_images(f"hub:{tmp_path / 'set'}:test", labelled=True)
    assert stream.classes == ["cat", "dog"]
    assert targets(stream) == [0, 1]
    assert [number_of(open_to_measure(f"hub:{tmp_path / 'set'}:test", ["cat", "dog"]), i) for i in (0, 1)] == [2, 3]


@pytest.mark.parametrize("value", ["x" * 2000, "9" * 5000])
def test_texts_that_are_no_labels(tmp_path: Path, hub_home: None, value: str) -> None:
    table = write_table(tmp_path / "a", image=[colour(0)], label=[value])
    with pytest.raises(DataError, match="has texts of more than 1,000 letters, and is no label"):
        open_images(f"hub:{table}", labelled=True)


def test_several_columns_of_files(tmp_path: Path, hub_home: None) -> None:
    buffer = io.BytesIO(encoded(np.zeros((8, 8, 3), np.uint8)))
    table = write_table(tmp_path / "a", left=[buffer.getvalue()], right=[buffer.getvalue()])
    with pytest.raises(DataError, match="several columns of the kind bytes and none is called image: left, right"):
        open_images(f"hub:{table}")


# --- folders of ImageNet ---------------------------------------------------------------------------------------------


def test_wnids_are_matched_to_the_classes_of_imagenet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wnids = imagenet_wnids()
    assert len(set(wnids)) == 1000
    assert list(wnids) == sorted(wnids)
    assert (wnids[0], wnids[207], wnids[999]) == (
        "n01440764",
        "n02099601",
        "n15075141",
    )  # tench, golden retriever, tissue
    for wnid in ("n02099601", "n15075141"):
        (tmp_path / wnid).mkdir()
        (tmp_path / wnid / "0.png").write_bytes(colour(1))
    names = [f"LABEL_{number}" for number in range(1000)]
    images = open_to_measure(tmp_path, names)
    assert images.labels is not None
    assert images.labels.tolist() == [207, 999]
    assert images.classes == names
    assert "n02099601 is class 207, LABEL_207" in caplog.text
    # A model that knows the wnids themselves, in whatever order, is asked by them.
    own = open_to_measure(tmp_path, ["n15075141", *wnids[:-1]])
    assert own.labels is not None
    assert own.labels.tolist() == [208, 0]
    with pytest.raises(DataError, match="classes that the model does not know: n02099601"):
        open_to_measure(tmp_path, names[:10])

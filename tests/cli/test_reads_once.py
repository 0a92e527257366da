"""A command reads each weight file once, whether the settings are in a config.json or inferred from the tensors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from beit import BeitForImageClassification, BeitForSemanticSegmentation, BeitImageProcessor
from beit.checkpoints import read_weights
from beit.cli import main
from fixtures_runs import save_classifier, write_images
from fixtures_segment import save_segmenter, write_segmented

KINDS = ("model.pth", "sharded")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each weight file is read."""
    counted: Counter[str] = Counter()
    read_file = read_weights.read_file

    def counting(path: Path, *rest: Any) -> Any:
        counted[str(path)] += 1
        return read_file(path, *rest)

    monkeypatch.setattr(read_weights, "read_file", counting)
    return counted


def save_both(model: Any, root: Path) -> None:
    """The weights as a file of `torch.save` alone, and as a folder of several safetensors files."""
    tensors = {name: torch.from_numpy(array.copy()) for name, array in model.disk_tensors().items()}
    torch.save(tensors, root / "model.pth")
    model.save_pretrained(root / "sharded", max_shard_size=10_000)
    BeitImageProcessor(size=16, do_center_crop=False).save_pretrained(root / "sharded")


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classifiers")
    names = ("LABEL_0", "LABEL_1")  # as a file without settings calls its classes
    save_both(BeitForImageClassification.from_pretrained(save_classifier(root / "model", names)), root)
    images = write_images(root / "images", 12, labelled=True)
    for folder, name in zip(sorted(images.iterdir()), names, strict=True):
        folder.rename(images / name)
    return root


@pytest.fixture(scope="module")
def segmenters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("segmenters")
    save_both(BeitForSemanticSegmentation.from_pretrained(save_segmenter(root / "model")), root)
    write_segmented(root, 3)
    return root


def files_of(place: Path) -> dict[str, int]:
    files = [place] if place.is_file() else [*place.glob("*.safetensors")]
    assert len(files) == 1 or len(files) > 3
    return {str(path): 1 for path in files}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "command",
    [
        "predict IMAGES --json",
        "evaluate --images IMAGES --output OUT",
        "embed --images IMAGES --output OUT.npy",
        "knn --images IMAGES --k 3",
        "probe --images IMAGES --k 3 --epochs 1",
    ],
)
def test_commands_of_a_classifier(
    command: str, kind: str, classifiers: Path, reads: Counter[str], tmp_path: Path
) -> None:
    arguments = command.replace("IMAGES", str(classifiers / "images")).replace("OUT", str(tmp_path / "out"))
    assert main([*arguments.split(), "--model", str(classifiers / kind)]) == 0
    assert reads == files_of(classifiers / kind)


@pytest.mark.parametrize("kind", KINDS)
def test_commands_of_flax(kind: str, classifiers: Path, reads: Counter[str]) -> None:
    pytest.importorskip("flax")
    arguments = ["predict", str(classifiers / "images"), "--model", str(classifiers / kind)]
    assert main([*arguments, "--framework", "flax"]) == 0
    assert reads == files_of(classifiers / kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "command", ["segment evaluate --images IMAGES --maps MAPS", "segment predict IMAGES --output OUT"]
)
def test_commands_of_segmentation(
    command: str, kind: str, segmenters: Path, reads: Counter[str], tmp_path: Path
) -> None:
    arguments = command.replace("IMAGES", str(segmenters / "images")).replace("MAPS", str(segmenters / "maps"))
    assert main([*arguments.replace("OUT", str(tmp_path)).split(), "--model", str(segmenters / kind)]) == 0
    assert reads == files_of(segmenters / kind)


@pytest.mark.parametrize("kind", KINDS)
def test_commands_of_checkpoints(
    kind: str, classifiers: Path, reads: Counter[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written is read once too, where it is compared with the source."""
    place = classifiers / kind
    assert main(["inspect", str(place), "--json", "--tensors"]) == 0
    assert json.loads(capsys.readouterr().out)["class"] == "BeitForImageClassification"
    assert reads == files_of(place)
    for command, more in (("convert", ["--to", "hf"]), ("resize", ["--image-size", "24"])):
        reads.clear()
        assert main([command, str(place), str(tmp_path / command), *more]) == 0
        assert reads == {**files_of(place), str(tmp_path / command / "model.safetensors"): 1}

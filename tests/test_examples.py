"""The examples run as a reader would run them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

from beit.data import embedded as assets


def test_folder_to_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = assets.fashion_mnist_subset()
    for number in range(40):
        name = assets.GARMENTS[data["y_train"][number]].replace("/", "-")
        (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(data["x_train"][number]).save(tmp_path / "images" / name / f"{number}.png")
    example = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "folder_to_classifier.py"))
    example["main"](tmp_path / "images", tmp_path / "runs", 3)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 3
    assert "'probability'" in lines[0]
    assert (tmp_path / "runs" / "classifier" / "model.safetensors").is_file()

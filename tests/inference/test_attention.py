"""Attention of the last layer: the plain formula's, in both frameworks, drawn where the patches lie in the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beit.core.errors import ConfigError
from beit.data.decode import read_image
from beit.data.processor import BeitImageProcessor
from beit.inference import attention
from beit.inference.attention import (
    AttentionFiles,
    attention_maps,
    box_of_patches,
    check_attention_folder,
    heat_over,
)
from beit.inference.files import png_names
from beit.inference.trained import open_classifier
from fixtures_runs import save_classifier

torch = pytest.importorskip("torch")


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("mean", [False, True])
def test_maps_are_the_models_own_weights(tmp_path: Path, pixels: np.ndarray, mean: bool, monkeypatch: Any) -> None:
    model, _ = open_classifier(save_classifier(tmp_path / "model", use_mean_pooling=mean))
    with torch.no_grad():
        weights = model(torch.from_numpy(pixels), output_attentions=True).attentions[-1].numpy().mean(1)
    wanted = weights[:, 1:, 1:].mean(1) if mean else weights[:, 0, 1:]
    found = attention_maps(model, pixels)
    assert found.shape == (5, 4, 4)
    np.testing.assert_allclose(found.reshape(5, 16), wanted, atol=1e-6)
    monkeypatch.setattr(attention, "_MOST_BYTES", 4 * 2 * 2 * 17**2 * 2)  # two images at once
    np.testing.assert_allclose(attention_maps(model, pixels), found, atol=1e-6)


def test_flax_has_the_same_maps(tmp_path: Path, pixels: np.ndarray, monkeypatch: Any) -> None:
    pytest.importorskip("flax")
    folder = save_classifier(tmp_path / "model", use_mean_pooling=False)
    maps = [attention_maps(open_classifier(folder, framework)[0], pixels) for framework in ("torch", "flax")]
    np.testing.assert_allclose(maps[0], maps[1], atol=2e-6)
    assert np.ptp(maps[0]) > 1e-4
    monkeypatch.setattr(attention, "_MOST_BYTES", 4 * 2 * 2 * 17**2 * 2)
    np.testing.assert_allclose(attention_maps(open_classifier(folder, "flax")[0], pixels), maps[0], atol=2e-6)


@pytest.mark.parametrize(
    ("settings", "size", "wanted"),
    [
        ({"do_center_crop": False, "size": 16}, (64, 32), (0, 0, 64, 32)),
        ({"do_center_crop": True, "size": 32, "crop_size": 16}, (64, 32), (16, 8, 48, 24)),
        ({"do_center_crop": True, "size": {"shortest_edge": 16}, "crop_size": 16}, (64, 32), (16, 0, 48, 32)),
        ({"do_center_crop": True, "size": 8, "crop_size": 16}, (64, 32), (-32, -16, 96, 48)),
        ({"do_center_crop": False, "do_resize": False}, (14, 14), (0, 0, 16, 16)),  # the model pads to whole patches
    ],
)
def test_where_the_patches_lie(settings: dict[str, Any], size: tuple[int, int], wanted: tuple[int, ...]) -> None:
    assert box_of_patches(BeitImageProcessor(**settings), size, (4, 4), (4, 4)) == pytest.approx(wanted)


def test_bright_is_where_attention_is() -> None:
    picture = Image.new("RGB", (40, 40), (90, 90, 90))
    weights = np.zeros((4, 4), np.float32)
    weights[1, 2] = 0.2
    heat = np.asarray(heat_over(picture, weights)).astype(int).sum(2)
    assert (heat > 500).sum() == 100
    assert (heat[10:20, 20:30] > 500).all()
    cropped = np.asarray(heat_over(picture, weights, (10, 10, 30, 30))).astype(int)
    assert (cropped.sum(2)[15:20, 20:25] > 500).all()
    assert (cropped[:10] == 90).all()  # what the model does not see is grey
    assert (cropped[:, 30:] == 90).all()


def test_files_have_the_names_of_the_images(tmp_path: Path) -> None:
    model, processor = open_classifier(save_classifier(tmp_path / "model"))
    names = ["photos/a/x.jpg", "photos/a/x.png", "photos/b/X.jpg", "photos/film.gif#3"]
    files = AttentionFiles(tmp_path / "out", names, model, processor)
    sizes = [(2000, 1000), (16, 8), (300, 200), (16, 16)]
    files.add(range(4), [Image.new("RGB", size) for size in sizes])
    found = {
        str(path.relative_to(tmp_path / "out")): read_image(path).size for path in (tmp_path / "out").rglob("*.png")
    }
    assert found == {
        "a/x.png": (1024, 512),
        "a/x-2.png": (256, 128),
        "b/X.png": (300, 200),
        "film#3.png": (256, 256),
    }
    assert files.written == 4


def test_names_of_files_that_no_system_confuses() -> None:
    names = [
        Path(name) for name in ("a.jpg", "A.bmp", "b/a.jpg", "film.gif#1", "film.gif#2", "film.png#1", "odd#x.png")
    ]
    assert [str(name) for name in png_names(names)] == [
        "a.png", "A-2.png", "b/a.png", "film#1.png", "film#2.png", "film#1-2.png", "odd#x.png"
    ]  # fmt: skip


def test_a_folder_with_something_in_it(tmp_path: Path) -> None:
    check_attention_folder(tmp_path / "new", resume=False)
    (tmp_path / "a").mkdir()
    half = tmp_path / "a/.x.png.abc.tmp"
    half.touch()
    with pytest.raises(ConfigError, match=r"exists already\. Give a new folder for the pictures"):
        check_attention_folder(tmp_path, resume=False)
    check_attention_folder(tmp_path, resume=True)
    assert not half.exists()

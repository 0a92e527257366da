"""Colours of classes, and label maps of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fixtures_segment import COLOURS, NAMES, blocks, save_segmenter

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")
pytest.importorskip("matplotlib")


from beit import BeitForSemanticSegmentation, BeitImageProcessor
from beit.core.errors import DataError
from beit.data.decode import read_image
from beit.data.sources.labelled_folders import LabelledFolders
from beit.evaluation.segmentation import evaluate_segmentation
from beit.inference.colors import coloured, legend, overlay, palette
from beit.inference.segment_files import predict_maps
from beit.inference.torch.segmentation import Segmenter

Model = tuple[BeitForSemanticSegmentation, BeitImageProcessor]


@pytest.fixture
def trained(tmp_path) -> Model:
    folder = save_segmenter(tmp_path / "model")
    return BeitForSemanticSegmentation.from_pretrained(folder), BeitImageProcessor.from_pretrained(folder)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def test_colours_of_classes():
    for count in (2, 11, 150):
        colours = palette(count)
        assert colours.shape == (count, 3)
        assert len({tuple(colour) for colour in colours.tolist()}) == count
    np.testing.assert_array_equal(palette(150)[:11], palette(11))
    distance = np.abs(palette(20)[:, None].astype(int) - palette(20)).sum(-1) + 999 * np.eye(20, dtype=int)
    assert distance.min() > 50
    found = coloured(np.array([[0, 2, 255, -1]]), COLOURS)
    assert found.tolist() == [[COLOURS[0].tolist(), COLOURS[2].tolist(), [255] * 3, [255] * 3]]
    mixed = np.asarray(overlay(Image.new("RGB", (2, 1)), np.array([[1, 2]]), COLOURS, 0.5))
    np.testing.assert_allclose(mixed[0], COLOURS[1:] / 2, atol=1)
    picture = np.asarray(legend(["cat", "a long name of a class"], palette(2)))
    for colour in palette(2):
        assert (picture == colour).all(-1).sum() > 300
    assert legend(["x"] * 150, palette(150)).height < 1100


def test_predicted_maps_have_the_pictures_size_and_names(tmp_path, trained):
    (tmp_path / "photos/deep").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(20, 30).save(tmp_path / "photos/deep/x.jpg", exif=exif)
    picture(24, 18).save(tmp_path / "photos/y.png")
    picture(20, 20).save(tmp_path / "y.bmp")
    picture(20, 20).save(tmp_path / "Y.png")
    (tmp_path / "broken.png").write_text("nothing")
    given = [tmp_path / "photos", tmp_path / "y.bmp", tmp_path / "broken.png", tmp_path / "Y.png"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    written, failed = predict_maps(*trained, given, tmp_path / "out")
    names = [str(path.relative_to(tmp_path / "out/maps")) for path in written]
    assert names == [str(Path("deep/x.png")), "y.png", "y-2.png", "Y-3.png"]
    assert len(failed) == 1
    assert "broken.png" in failed[0]
    for path, source in zip(written, ("photos/deep/x.jpg", "photos/y.png", "y.bmp", "Y.png"), strict=True):
        with Image.open(path) as found:
            found.load()
        assert found.mode == "P"
        image = read_image(tmp_path / source)
        assert found.size == image.size
        labels = Segmenter(*trained)(image).numpy()
        np.testing.assert_array_equal(np.asarray(found), labels)
        np.testing.assert_array_equal(np.asarray(found.convert("RGB")), palette(3)[labels])
        over = read_image(tmp_path / "out/overlays" / path.relative_to(tmp_path / "out/maps"))
        np.testing.assert_array_equal(np.asarray(over), np.asarray(overlay(image, labels, palette(3))))
    with Image.open(tmp_path / "out/legend.png") as found:
        assert found.width > 60
    assert all(path.read_bytes() == content for path, content in before.items())
    with pytest.raises(DataError, match="exists already"):
        predict_maps(*trained, given, tmp_path / "out")
    # What was predicted can be evaluated: it agrees with itself.
    images = tmp_path / "again"
    images.mkdir()
    picture(24, 18).save(images / "y.png")
    maps = tmp_path / "again_out"
    predict_maps(*trained, [images], maps)
    assert evaluate_segmentation(*trained, LabelledFolders(images, maps / "maps", NAMES)).miou == 1.0


def test_more_classes_than_a_palette_has(tmp_path):
    folder = save_segmenter(tmp_path / "model", names=tuple(map(str, range(300))))
    model = BeitForSemanticSegmentation.from_pretrained(folder)
    with torch.no_grad():
        model.decode_head.classifier.bias[290] = 1e4
    Image.fromarray(blocks(0)[0]).save(tmp_path / "x.png")
    (path,), _ = predict_maps(model, BeitImageProcessor.from_pretrained(folder), [tmp_path / "x.png"], tmp_path / "out")
    assert np.unique(np.asarray(Image.open(path))).tolist() == [290]

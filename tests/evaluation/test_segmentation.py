"""Segmenting pictures of any size, and measuring it: windows, scales, flips, IoU, against plain formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fixtures_segment import COLOURS, NAMES, blocks, save_segmenter, write_segmented

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")
pytest.importorskip("matplotlib")

import torch.nn.functional as F

from beit import BeitForSemanticSegmentation, BeitImageProcessor
from beit.core.errors import CheckpointError, ConfigError, DataError
from beit.data.decode import read_image
from beit.data.sources.label_maps import LabelledFolders, LabelRules
from beit.evaluation.report_segmentation import write_report
from beit.evaluation.segmentation import evaluate_segmentation, mean_of, scores_of
from beit.inference.colors import coloured, legend, overlay, palette
from beit.inference.segment_files import predict_maps
from beit.inference.sliding_window import SlidingWindow, stride_of, window_starts
from beit.inference.torch import segmentation
from beit.inference.torch.segmentation import Segmenter, best_classes, enlarged_rows

Model = tuple[BeitForSemanticSegmentation, BeitImageProcessor]


@pytest.fixture
def trained(tmp_path) -> Model:
    folder = save_segmenter(tmp_path / "model")
    return BeitForSemanticSegmentation.from_pretrained(folder), BeitImageProcessor.from_pretrained(folder)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def logits_of(trained: Model, pixels: Any) -> Any:
    with torch.no_grad():
        return trained[0].eval()(pixels).logits


def as_pixels(trained: Model, image: Image.Image) -> Any:
    """`(1, 3, H, W)`, by hand."""
    array = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return ((array - 0.5) / 0.5)[None]


# --- windows -----------------------------------------------------------------------------------------------------


def test_windows_cover_the_picture():
    assert stride_of(512, 4) == 340  # the authors' 341 and 426, on the logits' grid
    assert stride_of(640, 4) == 424
    assert stride_of(4, 4) == 4
    assert window_starts(512, 512, 340) == [0]
    assert window_starts(300, 512, 340) == [0]
    assert window_starts(684, 512, 340) == [0, 172]
    assert window_starts(2048, 512, 340) == [0, 340, 680, 1020, 1360, 1536]


@pytest.mark.parametrize("size", [(16, 40), (35, 16), (16, 16)])
def test_sliding_windows_are_averaged(trained, size):
    """Four logits a patch of four pixels: here scores have the size of the picture, so that a plain loop can do the same."""
    image = picture(*size)
    pixels = as_pixels(trained, image)
    total, count = torch.zeros(3, *size), torch.zeros(size)
    for top in window_starts(size[0], 16, 10):
        for left in window_starts(size[1], 16, 10):
            total[:, top : top + 16, left : left + 16] += logits_of(
                trained, pixels[..., top : top + 16, left : left + 16]
            )[0]
            count[top : top + 16, left : left + 16] += 1
    assert bool((count > 0).all())
    expected = (total / count).argmax(0)
    for batch_size in (1, 3, 50):
        found = Segmenter(*trained, SlidingWindow(batch_size=batch_size))(image)
        assert found.shape == size
        assert float((found == expected).float().mean()) > 0.998  # equal scores up to rounding
    assert len(found.unique()) > 1


def test_windows_of_another_grid(tmp_path):
    """Patches of 6 pixels: 1.5 pixels a logit. Windows must begin where logits do."""
    folder = save_segmenter(tmp_path / "six", image_size=24, patch_size=6)
    trained = BeitForSemanticSegmentation.from_pretrained(folder), BeitImageProcessor.from_pretrained(folder)
    segmenter = Segmenter(*trained, SlidingWindow(short_side=24))
    assert segmenter.unit == (3, 3)
    image = picture(24, 39)
    pixels = as_pixels(trained, image)
    total, count = torch.zeros(3, 16, 26), torch.zeros(16, 26)
    for left in (0, 15):
        total[..., left * 2 // 3 : left * 2 // 3 + 16] += logits_of(trained, pixels[..., left : left + 24])[0]
        count[:, left * 2 // 3 : left * 2 // 3 + 16] += 1
    expected = F.interpolate((total / count)[None], size=(24, 39), mode="bilinear")[0].argmax(0)
    assert float((segmenter(image) == expected).float().mean()) > 0.998


def test_pictures_smaller_than_the_window_are_padded(trained):
    """With 0 after normalisation, at the right and below; the padding gets no class."""
    image = picture(10, 12)
    pixels = F.pad(as_pixels(trained, image), (0, 4, 0, 6))
    expected = logits_of(trained, pixels)[0, :, :10, :12].argmax(0)
    assert torch.equal(Segmenter(*trained, SlidingWindow(short_side=10))(image), expected)


def test_a_picture_is_resized_with_its_proportions(trained):
    image = picture(50, 80)
    small = image.resize((26, 16), Image.Resampling.BILINEAR)
    scores = Segmenter(*trained)._scores(small, 1.0)
    assert scores.shape == (3, 16, 26)
    expected = F.interpolate(scores[None], size=(50, 80), mode="bilinear")[0].argmax(0)
    assert torch.equal(Segmenter(*trained)(image), expected)


def test_the_processors_filter_is_used(trained, monkeypatch):
    model, processor = trained
    image = Image.fromarray(blocks(3, 40, 40)[0])
    seen = {}
    for number in (Image.Resampling.NEAREST, Image.Resampling.BILINEAR):
        monkeypatch.setattr(processor, "resample", number)
        seen[number] = Segmenter(model, processor)._scores(image, 1.0)
    assert not torch.allclose(*seen.values())


def test_the_whole_picture_as_the_processor_has_it(trained):
    model, processor = trained
    image = picture(50, 80)
    logits = logits_of(trained, processor(image, return_tensors="pt")["pixel_values"])
    (expected,) = processor.post_process_semantic_segmentation(logits, [(50, 80)])
    assert torch.equal(Segmenter(model, processor, SlidingWindow(mode="whole"))(image), expected)
    assert not torch.equal(Segmenter(model, processor)(image), expected)


def test_scales_and_flips_average_probabilities(trained):
    image = picture(24, 32)
    views = []
    for mirrored in (False, True):
        source = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
        for scale in (0.75, 1.5):
            scores = Segmenter(*trained)._scores(source, scale)
            enlarged = F.interpolate(scores[None], size=(24, 32), mode="bilinear")[0]
            views.append((enlarged.flip(2) if mirrored else enlarged).softmax(0))
    segmenter = Segmenter(*trained, SlidingWindow(scales=(0.75, 1.5), flip=True))
    found = segmenter(image)
    assert torch.equal(found, torch.stack(views).mean(0).argmax(0))
    turned = segmenter(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert float((turned.flip(1) == found).float().mean()) > 0.995
    assert not torch.equal(found, Segmenter(*trained)(image))


def test_enlarging_in_bands_is_enlarging(monkeypatch):
    scores = torch.randn(5, 7, 9, generator=torch.Generator().manual_seed(0))
    for size in ((30, 23), (7, 9), (4, 31)):
        whole = F.interpolate(scores[None], size=size, mode="bilinear")[0]
        rows = F.interpolate(scores[None], size=(size[0], 9), mode="bilinear")[0]
        torch.testing.assert_close(enlarged_rows(scores, size[0], 1, 4), rows[:, 1:4])
        for band in (1, 5 * size[1] * 3, 1 << 24):
            monkeypatch.setattr(segmentation, "_BAND", band)
            assert torch.equal(best_classes([scores], size), whole.argmax(0))


def test_ways_that_make_no_sense(trained):
    for changes, message in (
        ({"mode": "crop"}, "choose slide or whole"),
        ({"scales": ()}, "wanted factors above 0"),
        ({"scales": (0.0,)}, "wanted factors above 0"),
        ({"mode": "whole", "scales": (0.5, 1.0)}, "scales are for --mode slide"),
        ({"short_side": 0}, "short_side is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            SlidingWindow(**changes)
    with torch.no_grad():
        trained[0].decode_head.classifier.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN"):
        Segmenter(*trained)(picture(16, 16))


# --- measures ----------------------------------------------------------------------------------------------------


def test_scores_by_hand():
    iou, accuracy = scores_of(np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]))
    assert iou == [6 / 9, 3 / 7, None, 0.0]  # class 2 is nowhere; class 3 was not found
    assert accuracy == [6 / 8, 3 / 4, None, 0.0]
    assert mean_of(iou) == pytest.approx((6 / 9 + 3 / 7) / 3)
    assert mean_of([None, None]) is None


def test_evaluation_counts_pixels(tmp_path, trained):
    images, maps = write_segmented(tmp_path, 5)
    labels = np.asarray(Image.open(maps / "b/01.png")).copy()
    labels[:5] = 255
    Image.fromarray(labels).save(maps / "b/01.png")
    source = LabelledFolders(images, maps, NAMES)
    found = evaluate_segmentation(*trained, source, examples=2)
    confusion, single = np.zeros((3, 3), int), []
    segmenter = Segmenter(*trained)
    for index in range(5):
        own = np.zeros((3, 3), int)
        for true, guess in zip(
            source.target(index).flat, segmenter(source.read(index)).flatten().tolist(), strict=True
        ):
            if true != 255:
                own[true, guess] += 1
        single.append((mean_of(scores_of(own)[0]), source.name(index)))
        confusion += own
    np.testing.assert_array_equal(found.confusion, confusion)
    assert found.miou == mean_of(scores_of(confusion)[0])
    assert found.pixel_accuracy == confusion.trace() / confusion.sum()
    assert found.mean_accuracy == pytest.approx(np.mean(confusion.diagonal() / confusion.sum(1)))
    assert [(value, name) for name, value in found.worst] == sorted(single)[:2]
    assert [case.name for case in found.examples] == [source.name(0), source.name(4)]
    assert found.seconds_per_image > 0

    found.save(tmp_path / "result")
    assert not (tmp_path / "result/report.html").exists()  # a result does not draw itself
    assert write_report(tmp_path / "result", found) == tmp_path / "result/report.html"
    saved = json.loads((tmp_path / "result/evaluation.json").read_text())
    assert saved["miou"] == found.miou
    assert saved["classes"][1] == {
        "name": "red",
        "iou": found.iou[1],
        "accuracy": found.accuracy[1],
        "pixels": int(confusion[1].sum()),
    }
    page = (tmp_path / "result/report.html").read_text()
    assert page.count("data:image/png;base64,") == 4  # legend, examples, worst cases, confusion
    assert f"mIoU {found.miou:.1%}" in page


def test_a_class_that_never_appears(tmp_path):
    folder = save_segmenter(tmp_path / "model", names=(*NAMES, "unicorn"))
    model = BeitForSemanticSegmentation.from_pretrained(folder)
    with torch.no_grad():
        model.decode_head.classifier.bias[3] = -1e4  # it is never predicted
    source = LabelledFolders(*write_segmented(tmp_path, 3), [*NAMES, "unicorn"])
    found = evaluate_segmentation(model, BeitImageProcessor.from_pretrained(folder), source)
    assert found.iou[3] is None
    assert found.miou == pytest.approx(sum(value or 0 for value in found.iou[:3]) / 3)
    assert "1 of 4 classes are absent" in str(found)
    found.save(tmp_path / "result")
    write_report(tmp_path / "result", found)
    assert "absent" in (tmp_path / "result/report.html").read_text()


def test_evaluation_passes_over_damaged_files(tmp_path, trained):
    images, maps = write_segmented(tmp_path, 12)
    (images / "a/00.png").write_bytes(b"nothing")
    found = evaluate_segmentation(*trained, LabelledFolders(images, maps, NAMES))
    assert found.count == 11
    assert "00.png" in found.skipped[0]
    (maps / "b/01.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="2 of 12 images cannot be used"):
        evaluate_segmentation(*trained, LabelledFolders(images, maps, NAMES))
    trained[0].config.semantic_loss_ignore_index = 0
    for path in maps.rglob("*.png"):
        if path.name in ("00.png", "01.png"):
            continue
        Image.fromarray(np.zeros(np.asarray(Image.open(path)).shape, np.uint8)).save(path)
    blank = LabelledFolders(images, maps, NAMES, LabelRules(0)).subset(np.array([1, 2, 3, 4, 5, 7, 8, 9]))
    with pytest.raises(DataError, match="No pixel of the 8 label maps has a label: all are 0"):
        evaluate_segmentation(*trained, blank)


# --- pictures ----------------------------------------------------------------------------------------------------


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

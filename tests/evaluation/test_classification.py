"""Evaluation, prediction and features, against numbers found another way."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from fixtures_runs import save_classifier, save_small_model, stripes, write_images

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")

from beit import BeitForImageClassification, BeitImageProcessor, BeitModel
from beit.core.errors import DataError
from beit.data.sources.images import ArrayImages, FolderImages
from beit.evaluation.classification import evaluate, wilson
from beit.inference.classification import logits_of, predict
from beit.inference.features import embed
from beit.inference.files import ImageFiles

SEVEN = tuple("abcdefg")


@pytest.fixture
def trained(tmp_path):
    folder = save_classifier(tmp_path / "model", SEVEN)
    return BeitForImageClassification.from_pretrained(folder), BeitImageProcessor.from_pretrained(folder)


def direct(model, array: np.ndarray) -> torch.Tensor:
    """Logits without processor and batches; the images have the model's size."""
    pixels = (torch.from_numpy(array).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        return model(pixels).logits


def test_wilson_by_hand():
    # 8 of 10 at 95 %: textbook values.
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=2e-4)
    assert high == pytest.approx(0.9433, abs=2e-4)
    # The ends solve |p - p̂| = z √(p (1 - p) / n).
    for right, count in ((3, 7), (50, 1000), (999, 1000)):
        for p in wilson(right, count):
            assert abs(p - right / count) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / count), rel=1e-9)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 20)[1] == pytest.approx(0.1611, abs=1e-4)


@pytest.mark.parametrize("batch_size", [5, 64])
def test_evaluation_by_hand(trained, batch_size, tmp_path):
    model, processor = trained
    array, _ = stripes(40)
    labels = np.random.default_rng(0).integers(0, 7, 40)
    result = evaluate(model, processor, ArrayImages(array, labels, SEVEN), batch_size)
    ranked = direct(model, array).argsort(-1, descending=True).numpy()
    top1 = float(np.mean(ranked[:, 0] == labels))
    top5 = float(np.mean([label in row[:5] for label, row in zip(labels, ranked, strict=True)]))
    assert 0 < top1 < top5 < 1
    assert result.count == 40
    assert result.top1 == pytest.approx(top1)
    assert result.top5 == pytest.approx(top5)
    assert result.interval == wilson(round(40 * top1), 40)
    confusion = np.zeros((7, 7), int)
    for label, row in zip(labels, ranked, strict=True):
        confusion[label, row[0]] += 1
    np.testing.assert_array_equal(result.confusion, confusion)
    assert confusion.sum(0).max() < 40  # the model does not say the same of all
    assert result.classes == list(SEVEN)
    assert result.skipped == []
    assert result.images_per_second > 0
    assert str(result).startswith(f"top-1 {top1:.1%} (95 % interval")
    assert f"top-5 {top5:.1%}" in str(result)
    result.save(tmp_path)
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["confusion"] == confusion.tolist()
    assert saved["top1"] == pytest.approx(top1)


def test_five_classes_have_no_top_5(tmp_path):
    folder = save_classifier(tmp_path / "model", SEVEN[:5])
    model, processor = BeitForImageClassification.from_pretrained(folder), BeitImageProcessor.from_pretrained(folder)
    result = evaluate(model, processor, ArrayImages(*stripes(6), SEVEN[:5]))
    assert result.top5 is None
    assert "top-5" not in str(result)


def test_images_that_cannot_be_read_are_skipped(trained, tmp_path):
    write_images(tmp_path / "images", 24, labelled=True)
    for name, number in (("a", "flat"), ("b", "upright")):
        (tmp_path / "images" / number).rename(tmp_path / "images" / name)
    model, processor = trained
    images = FolderImages(tmp_path / "images", labelled=True, classes=SEVEN)
    whole = evaluate(model, processor, images)
    (tmp_path / "images/a/002.png").write_bytes(b"")
    (tmp_path / "images/b/005.png").write_text("x")
    result = evaluate(model, processor, images, batch_size=4)
    assert (whole.count, result.count) == (24, 22)
    assert [reason.split(": ")[0][-9:] for reason in result.skipped] == ["a/002.png", "b/005.png"]
    assert result.confusion.sum(1).tolist() == [11, 11, 0, 0, 0, 0, 0]
    assert (whole.confusion - result.confusion).min() >= 0
    missed: dict[int, str] = {}
    kept, logits = logits_of(model, processor, images, missed.__setitem__)
    assert sorted(missed) == [1, 14]
    assert kept == [i for i in range(24) if i not in (1, 14)]
    assert logits.shape == (22, 7)
    (tmp_path / "images/a/004.png").write_bytes(b"")
    with pytest.raises(DataError, match="3 of 24"):
        evaluate(model, processor, images)


def test_evaluation_needs_labels(trained):
    with pytest.raises(DataError, match="needs labelled images"):
        evaluate(*trained, ArrayImages(stripes(4)[0]))


def test_predictions_keep_the_order_of_the_files(trained, tmp_path):
    model, processor = trained
    array, _ = stripes(6)
    paths = []
    for number in (4, 0, 5, 2, 1):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(array[number]).save(paths[-1])
    paths.insert(2, tmp_path / "missing.png")
    (tmp_path / "broken.png").write_text("no image")
    paths.append(tmp_path / "broken.png")
    results = list(predict(model, processor, ImageFiles(paths), top=7, batch_size=2))
    assert [result["image"] for result in results] == [str(path) for path in paths]
    assert [sorted(result.keys() - {"image"}) for result in results] == [["labels"]] * 2 + [["error"]] + [
        ["labels"]
    ] * 3 + [["error"]]
    expected = direct(model, array).softmax(-1)
    for path, result in zip(paths, results, strict=True):
        if "labels" not in result:
            assert path.name in result["error"]
            continue
        found = {entry["label"]: entry["probability"] for entry in result["labels"]}
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        for number, name in enumerate(SEVEN):
            assert found[name] == pytest.approx(float(expected[int(path.stem), number]), abs=2e-5)
    for top, shown in ((3, 3), (99, 7)):
        found = predict(model, processor, ImageFiles(paths[:2]), top)
        assert [len(result["labels"]) for result in found] == [shown, shown]
    assert ["error" in result for result in predict(model, processor, ImageFiles([tmp_path / "missing.png"]))] == [True]
    assert list(predict(model, processor, ImageFiles([]))) == []


def test_features_are_the_models_own(trained):
    model, processor = trained
    array, _ = stripes(7)
    images = ArrayImages(array)
    pixels = (torch.from_numpy(array).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        output = model.beit(pixels, output_hidden_states=True)
    kept, pooled, skipped = embed(model, processor, images, batch_size=3)
    assert kept == list(range(7))
    assert skipped == []
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, output.pooler_output, atol=2e-5)
    for layer in (1, 2):
        _, found, _ = embed(model, processor, images, layer=layer)
        assert found.shape == (7, 32)
        np.testing.assert_allclose(found, output.hidden_states[layer][:, 1:].mean(1), atol=2e-5)
    for layer in (0, 3, -1):
        with pytest.raises(DataError, match="choose one from 1 to 2"):
            embed(model, processor, images, layer=layer)


def test_features_without_a_pooler(tmp_path, trained):
    body = BeitModel.from_pretrained(save_small_model(tmp_path / "mim"), add_pooling_layer=False)
    array, _ = stripes(3)
    _, found, _ = embed(body, trained[1], ArrayImages(array))
    _, last, _ = embed(body, trained[1], ArrayImages(array), layer=2)
    np.testing.assert_allclose(found, last, atol=1e-6)


def test_features_of_a_folder_with_a_bad_image(tmp_path, trained):
    write_images(tmp_path / "images", 12)
    (tmp_path / "images/003.png").write_bytes(b"")
    kept, found, skipped = embed(*trained, FolderImages(tmp_path / "images"), batch_size=5)
    assert kept == [0, 1, 2, *range(4, 12)]
    assert found.shape == (11, 32)
    assert len(skipped) == 1
    assert "003.png" in skipped[0]

"""Scores of classifiers, against numbers found another way."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fixtures_runs import save_classifier, stripes, write_images

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")

from beit import BeitForImageClassification, BeitImageProcessor
from beit.core.errors import DataError
from beit.data.sources.images import ArrayImages, FolderImages
from beit.evaluation.classification import wilson
from beit.evaluation.evaluate import evaluate
from beit.inference.classification import logits_of

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

"""Scores of segmentation against plain formulas."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fixtures_segment import NAMES, save_segmenter, write_segmented

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")
pytest.importorskip("matplotlib")


from beit import BeitForSemanticSegmentation, BeitImageProcessor
from beit.core.errors import DataError
from beit.data.label_maps import LabelRules
from beit.data.sources.labelled_folders import LabelledFolders
from beit.evaluation.report_segmentation import write_report
from beit.evaluation.segmentation import Case, SegmentationEvaluation, evaluate_segmentation, mean_of, scores_of
from beit.inference.colors import palette
from beit.inference.sliding_window import DEFAULT_WINDOW
from beit.inference.torch.segmentation import Segmenter

Model = tuple[BeitForSemanticSegmentation, BeitImageProcessor]


@pytest.fixture
def trained(tmp_path) -> Model:
    folder = save_segmenter(tmp_path / "model")
    return BeitForSemanticSegmentation.from_pretrained(folder), BeitImageProcessor.from_pretrained(folder)


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
    # Image, truth and prediction of two examples and of two worst cases; and the confusion.
    assert page.count("data:image/png;base64,") == 2 * 2 * 3 + 1
    assert page.count("<b>image</b><b>truth</b><b>prediction</b>") == 2
    assert page.count("</i>") == len(NAMES) + 1  # colours of the classes, and of no label
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


def result(classes: int, **changes: Any) -> SegmentationEvaluation:
    """An evaluation of one image, in which the class of number n has the IoU n / classes, and no label is in the first row."""
    iou = [number / classes for number in range(classes)]
    truth, prediction = np.ones((4, 4), int), np.ones((4, 4), int)
    truth[0] = 255
    case = Case("x.png", 1.0, np.zeros((4, 4, 3), np.uint8), truth, prediction)
    names = [f"class {number}" for number in range(classes)]
    confusion = np.eye(classes, dtype=np.int64)
    return SegmentationEvaluation(
        1, 0.5, 0.5, 0.5, iou, iou, confusion, names, 255, DEFAULT_WINDOW, 0.1, [], [("x.png", 1.0)], [case], [case]
    )


def test_the_page_of_many_classes_shows_the_weakest_and_folds_the_rest(tmp_path):
    page = write_report(tmp_path, result(40)).read_text()
    assert "The 30 classes with the lowest IoU:" in page
    assert "<summary>All 40 classes</summary>" in page
    shown = page[: page.index("<details>")]
    assert "<td>class 29</td>" in shown
    assert "<td>class 30</td>" not in shown
    assert "<details>" not in write_report(tmp_path, result(30)).read_text()


def test_void_is_white_in_the_truth_and_not_in_the_prediction(tmp_path):
    page = write_report(tmp_path, result(3)).read_text()
    sources = re.findall(r'alt="(?:image|truth|prediction)" src="data:image/png;base64,([^"]+)"', page)
    _, truth, prediction = (np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in sources[:3])
    assert (truth[0] == 255).all()
    assert (truth[1:] == palette(3)[1]).all()
    assert (prediction == palette(3)[1]).all()

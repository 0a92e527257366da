"""The page about a classifier, and the figures on it: against plain formulas."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beit.core.errors import InputError, MissingExtraError
from beit.evaluation import figures
from beit.evaluation.calibration import BINS, calibration, cross_entropy, fit_temperature
from beit.evaluation.classification import evaluation_of
from beit.evaluation.gallery import Attended, Gallery
from beit.evaluation.multi_label import label_scores, mean_average_precision
from beit.evaluation.regression import regression_scores
from beit.evaluation.report import Report
from beit.evaluation.report_classification import write_report
from beit.evaluation.reports import report_on_run
from beit.evaluation.scores import class_scores, confused_pairs, confusion_of, macro_f1, weakest, wilson
from fixtures_runs import save_classifier, write_images


def some(count: int, classes: int, seed: int = 0, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), labels] += 1
    return (scale * logits).astype(np.float32), labels


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


# --- calibration -----------------------------------------------------------------------------------------------------


def test_the_calibration_error_is_the_plain_formula() -> None:
    logits, labels = some(300, 4)
    top, right = softmax(logits).max(1), logits.argmax(1) == labels
    error = 0.0
    for number in range(1, BINS + 1):
        inside = (top > (number - 1) / BINS) & (top <= number / BINS)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    found = calibration(logits, labels)
    assert found.ece == pytest.approx(error, abs=1e-9)
    assert found.counts.sum() == 300
    assert found.right.sum() == right.sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.2, 8))
def test_the_temperature_has_the_least_cross_entropy(seed: int, scale: float) -> None:
    logits, labels = some(80, 3, seed, scale)
    best = fit_temperature(logits, labels)
    if best is None:
        return
    least = cross_entropy(logits, labels, best)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2):
        assert least <= cross_entropy(logits, labels, best * factor) + 1e-9


def test_a_temperature_that_was_applied_is_found_again() -> None:
    logits, labels = some(500, 3)
    first, again = fit_temperature(logits, labels), fit_temperature(3 * logits, labels)
    assert first is not None
    assert again == pytest.approx(3 * first, rel=1e-4)
    assert fit_temperature(10 * np.eye(3, dtype=np.float32), np.arange(3)) is None  # all right: no least
    assert fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, int)) is None


# --- classes ---------------------------------------------------------------------------------------------------------


def test_scores_of_classes_by_hand() -> None:
    confusion = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]])
    cat, dog, owl = class_scores(confusion, ["cat", "dog", "owl"])
    assert (cat.support, cat.predicted, cat.precision, cat.recall) == (10, 9, 8 / 9, 0.8)
    assert cat.f1 == pytest.approx(2 * (8 / 9) * 0.8 / (8 / 9 + 0.8))
    assert cat.recall_interval == wilson(8, 10)
    assert (owl.support, owl.precision, owl.recall, owl.f1) == (0, None, None, None)
    assert macro_f1([cat, dog, owl]) == pytest.approx((cat.f1 + (dog.f1 or 0)) / 2)
    assert [row.name for row in weakest([cat, dog, owl], 1)] == ["dog"]
    assert confused_pairs(confusion, 5) == [(0, 1, 2), (1, 0, 1)]


def test_average_precision_is_the_plain_formula() -> None:
    rng = np.random.default_rng(1)
    logits, truth = rng.normal(size=(40, 3)), rng.random((40, 3)) < 0.3
    truth[:, 2] = False
    rows = label_scores(logits, truth, ["a", "b", "c"])
    for number in range(2):
        order = np.argsort(-logits[:, number])
        hits = truth[order, number]
        precision = np.cumsum(hits) / np.arange(1, 41)
        assert rows[number].average_precision == pytest.approx(precision[hits].mean())
    assert rows[2].average_precision is None
    known = [row.average_precision or 0 for row in rows[:2]]
    assert mean_average_precision(rows) == pytest.approx(np.mean(known))


def test_numbers_of_a_regression() -> None:
    found = regression_scores(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    assert (found.mse[0], found.mae[0]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found.r2[0] == pytest.approx(1 - 1 / 2)
    with pytest.raises(InputError, match="wanted two arrays"):
        regression_scores(np.zeros(3), np.zeros(4))


# --- the page --------------------------------------------------------------------------------------------------------

HISTORY = [
    {"step": 2, "loss": 1.0, "accuracy": 0.5},
    {"step": 4, "loss": 0.5, "validation_loss": 0.7, "validation_top1": 0.6},
]


@pytest.mark.parametrize("classes", [2, 40])
def test_the_page_has_all_parts(tmp_path: Path, classes: int) -> None:
    pytest.importorskip("matplotlib")
    logits, labels = some(200, classes)
    names = [f"class <{number}>" for number in range(classes)]
    found = evaluation_of(logits, labels, names)
    text = write_report(tmp_path, found, HISTORY).read_text()
    for heading in ("Training", "Scores", "Classes", "Confusion", "Calibration"):
        assert f"<h2>{heading}</h2>" in text
    assert "class &lt;1&gt;" in text
    assert "class <1>" not in text
    assert "The commonest mistakes" in text
    assert not re.search(r'(src|href)="http', text)  # opens without a connection
    saved = json.loads(json.dumps(found.to_dict()))
    assert saved["macro_f1"] == pytest.approx(macro_f1(class_scores(confusion_of(logits, labels), names)))
    assert list(saved)[:3] == ["count", "top1", "top5"]


def test_intervals_stay_whole_and_other_text_does_not(tmp_path: Path) -> None:
    page = Report("t", "l")
    page.table(["class", "recall"], [["a – b", "75.6% (61% – 86%)"], ["c", "69.0% – 77.6%"]])
    page.write(tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert '75.6% <span class="whole">(61% – 86%)</span>' in text
    assert '<span class="whole">69.0% – 77.6%</span>' in text
    assert "<td>a – b</td>" in text


def test_rows_and_columns_of_a_page(tmp_path: Path) -> None:
    page = Report("t", "l")
    with page.row():
        page.text("one")
        with page.column():
            page.text("two")
    page.text("three")
    page.write(tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert '<div class="row"><p>one</p>\n<div class="column"><p>two</p></div></div>\n<p>three</p>' in text


def test_a_matrix_of_ten_classes_fits_a_phone() -> None:
    assert figures.least_width(10) <= 360 < figures.least_width(20)


def test_the_legend_of_the_reliability_plot_covers_no_dot() -> None:
    pytest.importorskip("matplotlib")
    counts = np.array([3, 0, 5])
    figure = figures.reliability(counts, np.array([0.1, 0, 0.9]), np.array([3, 0, 1]), [(0.3, 1.0), (0, 1), (0, 0.6)])
    figure.canvas.draw()
    [legend] = figure.legends
    assert legend.get_window_extent().y0 >= figure.axes[0].get_window_extent().y1
    figures.load_pyplot().close(figure)


def test_attention_stands_beside_its_image(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    gallery = Gallery()
    gallery.attended = [Attended("a/x.png", 0, 1, np.full((8, 8, 3), 0.5, np.float32), np.eye(2, dtype=np.float32))]
    found = evaluation_of(*some(20, 3), ["a", "b", "c"], gallery=gallery)
    text = write_report(tmp_path, found).read_text()
    assert '<div class="cards pairs"><figure><img' in text
    [source] = re.findall(r'class="cards pairs">.*?base64,([^"]+)"', text)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))).astype(int)
    assert picture.shape == (8, 16, 3)
    assert (picture[:, :8] == 128).all()
    assert picture[0, 8].sum() > picture[0, 15].sum()  # the first patch has the attention, the second has none


def test_without_matplotlib_sentences_stand_in_for_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise MissingExtraError("matplotlib is needed for figures and is not installed.")

    monkeypatch.setattr("beit.evaluation.figures.load_pyplot", missing)
    text = write_report(tmp_path, evaluation_of(*some(50, 3), ["a", "b", "c"]), HISTORY).read_text()
    assert "A figure is left out. matplotlib is needed" in text
    assert "<img" not in text


def test_a_report_that_fails_does_not_end_a_run(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr("beit.evaluation.reports.add_training", lambda *_: 1 / 0)
    report_on_run(tmp_path, None, HISTORY)
    assert "finished and saved" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_evaluate_writes_a_page_with_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("torch")
    from beit.cli import main

    images = write_images(tmp_path / "photos", 12, labelled=True)
    model = save_classifier(tmp_path / "model", ("flat", "upright"))
    command = ["evaluate", "--model", str(model), "--images", str(images), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"Open {tmp_path / 'out/report.html'}" in printed
    assert "calibration error (ECE)" in printed
    text = (tmp_path / "out/report.html").read_text()
    assert "Least sure" in text or "least sure" in text
    assert "attention" in text.lower()
    assert text.count("<img") > 5

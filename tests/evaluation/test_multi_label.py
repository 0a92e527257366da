"""Several labels an image and numbers: intervals against the plain formula, the worst images, the whole evaluation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from beit.evaluation import multi_label as module
from beit.evaluation.multi_label import (
    bootstrap,
    label_scores,
    map_interval,
    mean_average_precision,
    multi_label_evaluation,
)
from beit.evaluation.regression import regression_scores
from beit.evaluation.reports import write_report
from beit.evaluation.worst import Worst, label_errors, number_errors


@given(st.integers(2, 12), st.integers(1, 3), st.integers(0, 10**6), st.booleans())
def test_a_resample_has_the_map_of_its_images(count, classes, seed, ties):
    """Counts instead of copied images: the same as the plain formula on the images that were drawn."""
    rng = np.random.default_rng(seed)
    logits = (
        rng.integers(0, 3, (count, classes)).astype(np.float32)
        if ties
        else rng.normal(size=(count, classes)).astype(np.float32)
    )
    truth = rng.random((count, classes)) < 0.5
    truth[0] = True
    scores: list[float] = []
    draws: list[np.ndarray] = []

    def seen(images, score, resamples=1000):
        for _ in range(5):
            draws.append(rng.integers(images, size=images))
            scores.append(score(np.bincount(draws[-1], minlength=images)))
        return 0.0, 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "bootstrap", seen)
        map_interval(logits, truth)
    for chosen, score in zip(draws, scores, strict=True):
        rows = label_scores(logits[chosen], truth[chosen], [str(i) for i in range(classes)])
        known = [row.average_precision for row in rows if row.average_precision is not None]
        assert (score != score) if not known else score == pytest.approx(mean_average_precision(rows))


def test_intervals_hold_what_they_say():
    """Of 200 samples of a mean, about 95 % of the intervals hold the true one."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        values = rng.normal(size=60)
        low, high = bootstrap(60, lambda draws, values=values: float((draws * values).sum() / draws.sum()), 300)
        held += low <= 0 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_r2_has_an_interval_around_it():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(100, 2))
    found = regression_scores(truth + 0.3 * rng.normal(size=(100, 2)), truth, ["a", "b"])
    for r2, ends in zip(found.r2, found.r2_interval, strict=True):
        assert r2 is not None
        assert ends is not None
        assert 0.75 < ends[0] < r2 < ends[1] < 0.97
    flat = regression_scores(np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert flat.r2_interval == [None]


def test_the_worst_images_are_kept_with_their_answers():
    logits = np.array([[5.0, -5.0], [-5.0, 5.0], [0.5, -0.5]], np.float32)
    truth = np.array([[True, False], [True, False], [False, False]])
    errors, texts = label_errors(logits, truth, ["sky", "tree"])
    assert texts == ["right: sky", "wrong: tree; missing: sky", "wrong: sky"]
    worst = Worst(2)
    pictures = [Image.new("RGB", (400, 10))] * 3
    worst.look_at(["a", "b", "c"], pictures, errors, texts)
    assert [shown.name for shown in worst.images] == ["b", "c"]
    assert max(worst.images[0].picture.size) == 192
    # Numbers of different units count in deviations.
    errors, texts = number_errors(np.array([[1.0, 0.0], [0.0, 100.0]]), np.zeros((2, 2)), np.array([1.0, 1000.0]))
    assert errors.tolist() == [1.0, 0.1]
    assert texts[1] == "0, is 0; 100, is 0"


def test_a_page_about_several_labels(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.random((30, 2)) < 0.5
    worst = Worst(3)
    logits = rng.normal(size=(30, 2)).astype(np.float32)
    worst.look_at(
        [f"<{i}>" for i in range(30)], [Image.new("RGB", (8, 8))] * 30, *label_errors(logits, truth, ["<b>", "tree"])
    )
    found = multi_label_evaluation(logits, truth, ["<b>", "tree"], skipped=["x.png is damaged"], worst=worst)
    history = [{"step": 2, "loss": 0.5, "validation_map": 0.4, "validation_loss": 0.6}]
    text = write_report(tmp_path, found, history).read_text(encoding="utf-8")
    assert "&lt;b&gt;" in text
    assert "<b>tree" not in text
    assert "mean average precision (mAP)" in text
    assert "Largest errors" in text
    assert "1 images were skipped" in text
    found.save(tmp_path)
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["labels"][1]["name"] == "tree"
    assert saved["problem_type"] == "multi_label_classification"
    assert "mAP" in found.summary()
    assert repr(found).startswith("<MultiLabelEvaluation: mAP")

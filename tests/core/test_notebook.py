"""What prompts and notebooks show of results: short, escaped, and without opening a file."""

from __future__ import annotations

from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import beit
from beit import BeitConfig
from beit.checkpoints import Checkpoint
from beit.core.notebook import html_table, one_line
from beit.evaluation.classification import evaluation_of
from beit.evaluation.regression import regression_scores
from beit.evaluation.segmentation import SegmentationEvaluation
from beit.inference.sliding_window import SlidingWindow
from beit.train.history import History

HOSTILE = "<script>alert(1)</script>\x1b[31m&"


def tags(page: str) -> set[str]:
    """The tags of a page that is well formed."""
    found: list[str] = []
    depth: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attributes: Any) -> None:
            found.append(tag)
            depth.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert depth.pop() == tag

    Parser().feed(page)
    assert not depth
    return set(found)


def check(shown: Any) -> tuple[str, str]:
    """Both forms of an object, which must be short and safe."""
    text, page = repr(shown), shown._repr_html_()
    assert tags(page) <= {"table", "caption", "tr", "th", "td"}
    assert "\x1b" not in text + page
    assert "\n" not in text
    assert len(text) < 300
    assert len(page) < 4000
    return text, page


def test_an_evaluation() -> None:
    names = [HOSTILE, "b", "c", *map(str, range(200))]
    logits = np.eye(203, dtype=np.float32)[[0, 1, 1]]
    text, page = check(evaluation_of(logits, np.array([0, 1, 0]), names, skipped=["x" * 10_000] * 50))
    assert text.startswith("<Evaluation: top-1 66.7%")
    assert "95 % interval" in page
    assert "&lt;script&gt;" in page
    assert "50" in page


def test_numbers_and_label_maps() -> None:
    text, page = check(regression_scores(np.ones(3), np.array([1, 2, 3.0]), [HOSTILE]))
    assert "MSE" in page
    counts = np.array([[5, 1], [0, 4]])
    result = SegmentationEvaluation(
        count=2,
        miou=0.8,
        pixel_accuracy=0.9,
        mean_accuracy=0.85,
        iou=[5 / 6, None],
        accuracy=[5 / 6, None],
        confusion=counts,
        classes=[HOSTILE, "b"],
        ignore_index=255,
        sliding_window=SlidingWindow(),
        seconds_per_image=1.0,
        skipped=[],
        worst=[],
    )
    text, page = check(result)
    assert text.startswith("<SegmentationEvaluation: mIoU 80.0%")
    assert "IoU of b" not in page


def test_a_log() -> None:
    lines = History({"step": step, "loss": 5.0 - step / 1000, "data_wait": 0.1} for step in range(1, 1001))
    text, page = check(lines)
    assert text == "<History of 1000 lines to step 1000: loss 4.999 → 4>"
    assert page.count("<tr>") == 13
    assert "data_wait" not in page
    assert lines == list(lines)
    assert repr(History()) == "<History: no lines>"
    assert tags(History()._repr_html_())


def test_a_config_and_a_checkpoint(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(num_labels=None, id2label={0: HOSTILE, **{number: str(number) for number in range(1, 1000)}})
    page = config._repr_html_()
    assert tags(page) <= {"table", "caption", "tr", "th", "td"}
    assert "classes (1000)" in page
    assert len(page) < 4000
    assert BeitConfig()._repr_html_().startswith("<table><caption>BeitConfig")

    config.save_pretrained(tmp_path)
    checkpoint = Checkpoint(tmp_path, given={"num_labels": 3})
    monkeypatch.setattr(Path, "read_text", None)  # looking reads nothing
    text, page = check(checkpoint)
    assert str(tmp_path.name) in text
    assert "given num_labels" in page


def test_the_description_of_a_checkpoint(tmp_path: Path, tiny: Any) -> None:
    pytest.importorskip("torch")
    from beit.export.describe import describe, text_of

    beit.BeitForMaskedImageModeling(tiny()).save_pretrained(tmp_path)
    found = describe(Checkpoint(tmp_path))
    text, page = check(found)
    assert "BeitForMaskedImageModeling" in text
    assert "hidden_size" in page
    assert "Settings" in text_of(found)
    assert dict(found)["class"] == "BeitForMaskedImageModeling"


def test_a_forecast() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from beit.train.plan import Forecast, describe
    from beit.train.plan.work import Work

    plan = Forecast(
        steps=10, epochs=1.0, images=80, batch_size=8, devices=1, work=Work(1000, 10**6, 2 * 10**6), step=0.5, fastest=4.0,
        slowest=6.0, time=5.0, end=datetime(2030, 1, 2, 3, 4), checkpoint=100, checkpoints=2, disk=1000, free=10_000,
        where=Path("/tmp"), measured=None, notes=[HOSTILE],
    )  # fmt: skip
    text, page = check(plan)
    assert text.startswith("<Forecast: steps 10 of 8 images")
    assert "<th>time</th><td>5 s" in page
    assert "time" in describe(plan, "pretrain")


def test_the_pieces() -> None:
    assert one_line("T", []) == "<T>"
    assert one_line("T", [("a", 1), ("b", "x" * 500), ("c", "x" * 500)]).endswith(", …>")
    assert html_table("T<", [("a&", 1)], ["h"]) == (
        "<table><caption>T&lt;</caption><tr><th>h</th></tr><tr><th>a&amp;</th><td>1</td></tr></table>"
    )

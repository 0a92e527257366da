"""`beit demo --smoke`: the whole chain in a few steps, and its report."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("accelerate")

import beit
from beit.cli import main
from beit.core.errors import DataError
from beit.demo.classification import run_demo
from beit.demo.experiment import embedded_data
from beit.demo.settings import DemoSettings
from beit.demo.torch.baselines import raw_pixel_baselines


class Page(HTMLParser):
    """Collects what a page refers to, and checks that its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.sources: list[str] = []
        self.captions: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.sources += [values[name] for name in ("src", "href", "srcset", "data") if name in values]
        if tag == "img":
            self.captions.append(values["alt"])
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.mark.slow
def test_the_demonstration_runs_and_reports(tmp_path, capsys):
    output = tmp_path / "demo"
    report = run_demo(DemoSettings(output=output, smoke=True))
    assert report == output / "report.html"
    raw = report.read_text(encoding="utf-8")
    page = Page()
    page.feed(raw)
    assert page.open == []

    # One file that needs no connection: every source is inside.
    assert len(page.sources) >= 8
    for source in page.sources:
        assert source.startswith("data:image/png;base64,")
        assert base64.b64decode(source.partition(",")[2], validate=True).startswith(b"\x89PNG")
        assert len(source) > 4000  # not an empty picture
    assert not re.search(r"https?://|url\(|@import|<script|<link", raw)
    assert all(page.captions)

    headings = " | ".join(page.headings)
    for part in ("Results", "tokenizer", "Pre-training", "Fine-tuning", "How it was made"):
        assert part in headings
    assert "smoke run" in page.text.lower()
    assert "nan" not in page.text.lower().split()

    # The numbers in the page are those in results.json, and those of the models that lie beside it.
    results = json.loads((output / "results.json").read_text())
    for name, folder in (("pretrained", "finetune"), ("scratch", "scratch")):
        found = results[name]
        assert found["count"] == 1000
        assert found == json.loads((output / folder / "evaluation.json").read_text())
        confusion = np.array(found["confusion"])
        assert confusion.shape == (10, 10)
        assert confusion.sum(1).tolist() == [100] * 10
        assert found["top1"] == pytest.approx(confusion.trace() / 1000)
        assert f"{found['top1']:.1%}" in page.text
        assert type(beit.load(output / folder)) is beit.BeitForImageClassification
    assert {"codes_used", "perplexity", "error", "blank"} <= results["tokenizer"].keys()
    assert results["seconds"]["total"] > 0
    assert type(beit.load(output / "pretrain")) is beit.BeitForMaskedImageModeling
    printed = capsys.readouterr()
    assert f"Pre-trained {results['pretrained']['top1']:.1%}" in printed.out
    assert "4/4" in printed.err

    # An earlier demo may be replaced, but nothing else is deleted.
    (output / "settings.json").unlink()
    assert main(["demo", "--smoke", "--output", str(output)]) == 1
    assert "holds something other than an earlier demo" in capsys.readouterr().err
    assert report.exists()


def test_folders_with_something_else_are_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="something other than an earlier demo"):
        run_demo(DemoSettings(output=tmp_path, smoke=True))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(DataError, match="is a file"):
        run_demo(DemoSettings(output=tmp_path / "thesis.txt", smoke=True))
    other = tmp_path / "run"
    other.mkdir()
    (other / "settings.json").write_text('{"images": "photos", "steps": 5}')  # a training run's
    (other / "model.safetensors").write_text("weights")
    with pytest.raises(DataError, match="something other than an earlier demo"):
        run_demo(DemoSettings(output=other, smoke=True))
    assert (other / "model.safetensors").exists()


def test_the_raw_pixel_baselines():
    """1-nearest-neighbour against a plain loop; logistic regression at least beats it less than clearly, as is known."""
    data = embedded_data()
    assert len(data.unlabelled) == 5000
    assert np.bincount(data.labelled.labels).tolist() == [100] * 10
    assert len(data.test) == 1000
    found = raw_pixel_baselines(data.labelled, data.test)
    train = data.labelled.array[..., 0].reshape(1000, -1).astype(float)
    right = 0
    for image, label in zip(data.test.array[:, :, :, 0].reshape(1000, -1).astype(float), data.test.labels, strict=True):
        right += int(data.labelled.labels[((train - image) ** 2).sum(1).argmin()] == label)
    assert abs(found["1-nearest-neighbour"] - right) <= 3  # ties and float32
    assert 700 < found["logistic regression"] < 900

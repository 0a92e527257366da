"""The model card of a run: what stands in it, and what it must not say or overwrite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from beit.checkpoints import model_card
from beit.evaluation.classification import evaluation_of
from beit.evaluation.multi_label import multi_label_evaluation
from beit.evaluation.regression import regression_scores
from beit.train.card import Card, figures_of, name_of
from beit.train.settings import FinetuneSettings, PretrainSettings, SegmentSettings, TokenizerSettings
from fixtures_runs import save_small_model, save_tokenizer, write_images

HOSTILE = "a|b `c` <script>\n*d*"


def a_card(tmp_path: Path, kind: Any = FinetuneSettings, **changes: Any) -> Card:
    settings = {"images": tmp_path / "photos", "output": tmp_path / "run", **changes}
    return Card(settings=kind(**settings), data="4 images", history=[{"step": 3, "loss": 0.25, "data_wait": 0.1}])


def evaluation() -> Any:
    logits = np.eye(6, dtype=np.float32)[[0, 1, 2, 3, 4, 5, 0, 0]] * 5
    return evaluation_of(logits, np.array([0, 1, 2, 3, 4, 5, 0, 1]), [HOSTILE, *"bcdef"])


def test_the_front_matter_is_that_of_the_hub(tmp_path: Path) -> None:
    card = Card(
        settings=FinetuneSettings(images=tmp_path / "photos: new", output=tmp_path / "run", steps=3),
        data="8 images",
        history=[],
        classes=[HOSTILE, "b"],
        result=evaluation(),
    )
    card.save()
    data = ModelCard.load(tmp_path / "run" / "README.md").data
    assert data.library_name == "beit"
    assert data.pipeline_tag == "image-classification"
    assert data.metrics == ["accuracy", "f1"]
    assert data.base_model == "timm/beitv2_base_patch16_224.in1k_ft_in22k"
    accuracy = data.eval_results[0]
    assert (accuracy.metric_type, accuracy.metric_value, accuracy.dataset_name) == ("accuracy", 0.875, "photos: new")


def test_figures_have_their_intervals_and_their_number_of_images(tmp_path: Path) -> None:
    result = evaluation()
    by_name = {figure.name: figure for figure in figures_of(result)}
    low, high = result.interval
    assert by_name["top-1"].interval == f"{low:.1%} to {high:.1%}"
    assert by_name["top-5"].interval
    assert "Number of images: 8." in Card(settings=a_card(tmp_path).settings, data="", history=[], result=result).text()
    numbers = figures_of(regression_scores(np.array([1.0, 2.0]), np.array([1.0, 3.0]), ["age"]))
    assert next((figure.name, figure.value) for figure in numbers) == ("age: MSE", "0.5")


def test_numbers_and_several_labels_have_their_own_figures(tmp_path: Path) -> None:
    settings = a_card(tmp_path).settings
    rng = np.random.default_rng(0)
    truth = rng.random((20, 2)) < 0.5
    several = multi_label_evaluation(rng.normal(size=(20, 2)).astype(np.float32), truth, ["sky", "tree"])
    assert several.interval is not None
    text = Card(settings=settings, data="", history=[], result=several).text()
    assert "An image classifier that gives several labels, fine-tuned" in text
    assert f"{several.interval[0]:.1%} to {several.interval[1]:.1%}" in text
    numbers = regression_scores(truth + rng.normal(size=(20, 2)), truth.astype(float), ["age", "size"])
    [ends, _] = numbers.r2_interval
    assert ends is not None
    text = Card(settings=settings, data="", history=[], result=numbers).text()
    assert "numbers (regression), fine-tuned" in text
    assert f"| age: R² | {numbers.r2[0]:.4g} | {ends[0]:.3f} to {ends[1]:.3f} |" in text


def test_no_path_of_this_machine_and_nothing_that_markdown_or_html_obeys(tmp_path: Path) -> None:
    model = save_small_model(tmp_path / "start")
    card = a_card(tmp_path, model=str(model), validation=tmp_path / "measured", seed=7, steps=3)
    text = Card(settings=card.settings, data=HOSTILE, history=card.history, classes=[HOSTILE]).text()
    assert str(tmp_path) not in text
    assert "`photos`" in text
    assert "`measured`" in text
    assert "Start: `start`." in text
    assert "<script>" not in text
    assert "a\\|b" in text
    assert "\\*d\\*" in text
    assert "| seed | 7 |" in text
    assert "| steps | 3 |" in text
    assert "| epochs |" not in text
    assert "| loss | 0.25 |" in text
    assert "data wait" not in text
    assert "base_model" not in text


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/a/photos/", "photos"),
        ("hub:owner/name:test", "hub:owner/name:test"),
        ("https://me:secret@host/shards/train-{000..009}.tar?key=1", "train-{000..009}.tar"),
        ("owner/name", "name"),
    ],
)
def test_what_a_place_is_called(place: str, name: str) -> None:
    assert name_of(place) == name


def test_a_local_folder_behind_hub_gives_its_name_alone(tmp_path: Path) -> None:
    assert name_of(f"hub:{tmp_path}") == tmp_path.name


@pytest.mark.parametrize(
    ("kind", "changes", "load"),
    [
        (PretrainSettings, {"tokenizer": "some/tokenizer"}, "load("),
        (SegmentSettings, {"model": "owner/model"}, "beit segment predict"),
        (TokenizerSettings, {}, "load_tokenizer("),
    ],
)
def test_every_kind_of_run_says_how_its_result_is_loaded(tmp_path: Path, kind: Any, changes: Any, load: str) -> None:
    assert load in a_card(tmp_path, kind, **changes).text()


def test_a_page_of_a_person_is_kept_and_ours_is_written_anew(tmp_path: Path, caplog: Any) -> None:
    page = tmp_path / "README.md"
    assert model_card.write_card(tmp_path, "# One")
    assert model_card.write_card(tmp_path, "# Two")
    assert page.read_text().startswith("# Two\n")
    page.write_bytes(page.read_bytes().replace(b"\n", b"\r\n"))
    assert model_card.write_card(tmp_path, "# Three")  # git on Windows changes line ends, which is no edit
    for by_hand in (page.read_text().replace("Three", "Edited"), "By hand"):
        page.write_text(by_hand)
        assert not model_card.write_card(tmp_path, "# Four")
        assert page.read_text() == by_hand
    assert caplog.text.count("written or edited by hand and is kept") == 2


def test_runs_write_their_cards(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from beit.train.finetune import finetune
    from beit.train.pretrain import pretrain

    images = write_images(tmp_path / "images", 12, labelled=True)
    common = {"images": images, "workers": 0, "steps": 2, "batch_size": 4, "precision": "fp32"}
    model = save_small_model(tmp_path / "model")
    finetune(FinetuneSettings(**common, model=str(model), output=tmp_path / "tuned"))
    text = (tmp_path / "tuned" / "README.md").read_text()
    assert "12 images of 2 classes: flat 6, upright 6; 10 to learn from, 2 to measure on" in text
    assert "| top-1 |" in text
    assert model_card.is_untouched(text)
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    pretrain(PretrainSettings(**common, model=str(model), tokenizer=str(tokenizer), output=tmp_path / "trained"))
    text = (tmp_path / "trained" / "README.md").read_text()
    assert "`images`: 12 images" in text
    assert "| masked accuracy |" in text
    assert "tokenizer `tokenizer`" in text

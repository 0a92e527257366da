"""What somebody who mistyped a name may have meant."""

from __future__ import annotations

import pytest

from beit.core.suggest import did_you_mean, similar

NAMES = ["pretrain", "predict", "probe", "plan", "resize", "recipes", "tokenizer", "tokenize"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("predct", "predict"),
        ("pretrian", "pretrain"),
        ("PREDICT", "predict"),
        ("resiz", "resize"),
        ("reci", "recipes"),
        ("tokeniser", "tokenizer"),
        ("prbe", "probe"),
    ],
)
def test_the_most_similar_comes_first(typed: str, meant: str) -> None:
    assert similar(typed, NAMES)[0] == meant


@pytest.mark.parametrize("typed", ["", "x", "pr", "train-everything-now", "völlig"])
def test_nothing_is_guessed_from_nothing(typed: str) -> None:
    assert similar(typed, NAMES) == []


def test_a_long_name_by_its_beginning() -> None:
    names = ["beit-base-patch16-224-pt22k", "beitv2-base-patch16-224-pt1k", "dit-base"]
    assert similar("beit-bas", names)[0] == "beit-base-patch16-224-pt22k"


def test_at_most_three_are_named_and_their_case_stays() -> None:
    found = similar("model", ["Model1", "model2", "MODEL3", "model4", "modal"])
    assert len(found) == 3
    assert set(found) <= {"Model1", "model2", "MODEL3", "model4", "modal"}


def test_the_question() -> None:
    assert did_you_mean([]) == ""
    assert did_you_mean(["a", "b"]) == " Did you mean a or b?"
    assert did_you_mean(iter(["\x1b[31m"])) == " Did you mean \\x1b[31m?"

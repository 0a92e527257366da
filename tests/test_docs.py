"""The pages for readers keep their word: links, paths, commands and flags exist, and the Python snippets of the README run."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import beit
from beit.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
ROOMS = {path.name for path in (ROOT / "src" / "beit").iterdir() if path.is_dir()}
# Where a path in a page may start from.
BASES = (ROOT, ROOT / "src", ROOT / "src" / "beit")
GROUPS = ("tokenizer", "segment")  # commands whose first argument is another command

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)*/|[\w.-]+(?:/[\w.-]+)+\.(?:py|md|npz))`")


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def without_comments(code: str) -> str:
    return re.sub(r"\s*#[^\n]*", "", code)


# --- links and paths -------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_paths_exist(page: Path) -> None:
    """`train/targets/` and `core/errors.py`, say; folders that a run writes (`maps/`) are no rooms and not looked at."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    for path in _PATH.findall(text):
        first = path.split("/")[0]
        if path.endswith("/") and first not in ROOMS | {"src", "tests", "docs", "benchmarks", "examples"}:
            continue
        assert any((base / path).exists() for base in BASES), path


# --- commands --------------------------------------------------------------------------------------------------------


def command_lines(page: Path) -> list[list[str]]:
    """Words of each command line that calls `beit` or a Python file, from blocks and from text."""
    text = page.read_text(encoding="utf-8")
    code = "\n".join(blocks(page, "bash"))
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", _BLOCK.sub("", text))]
    found = []
    for line in [*code.replace("\\\n", " ").splitlines(), *spans]:
        line = re.split(r"(?:^|\s)#", line)[0]
        start = re.search(r"(?:^|\s)(?:beit(?=\s+[a-z])|-m beit\.cli|\S*python(?=\s+\S+\.py))\s", line)
        if start is not None:
            words = shlex.split(line[start.start() :].replace("-m beit.cli", "beit"))
            found.append(words)
    return found


@cache
def help_of(command: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main([*command.split(), "--help"]) == 0, command
    return text.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_and_flags_exist(page: Path) -> None:
    pytest.importorskip("tyro")
    for words in command_lines(page):
        flags = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        if words[0] != "beit":
            source = (ROOT / words[1]).read_text(encoding="utf-8")
            assert all(flag.removeprefix("--") in source for flag in flags), words
            continue
        if words[1] in ("COMMAND", "pretrain|finetune|evaluate|predict|demo"):
            continue
        command = " ".join(words[1:3] if words[1] in GROUPS and words[2:] and words[2].isalpha() else words[1:2])
        text = help_of(command)
        if words[1] == "plan" and words[2:] and words[2].isalpha():
            text += help_of(words[2])
        unknown = {flag for flag in flags if not re.search(rf"{flag}\b", text)}
        assert not unknown, words


# --- the README's Python ---------------------------------------------------------------------------------------------


def test_both_readmes_have_the_same_code() -> None:
    for language in ("python", "bash"):
        ours, theirs = ([without_comments(code) for code in blocks(page, language)] for page in READMES)
        assert ours == theirs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's snippets find their image and small models under the published names."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("readme")
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).resize((640, 480)).save(folder / "cat.jpg")
    body: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    models = {
        "microsoft/beit-base-patch16-224": beit.BeitForImageClassification(
            beit.BeitConfig(**body, num_hidden_layers=1, use_relative_position_bias=True, num_labels=1000)
        ),
        "microsoft/beit-base-patch16-224-pt22k": beit.BeitForMaskedImageModeling(
            beit.BeitConfig(**body, num_hidden_layers=1, use_mask_token=True, use_shared_relative_position_bias=True)
        ),
        "microsoft/beit-base-finetuned-ade-640-640": beit.BeitForSemanticSegmentation(
            beit.BeitConfig(**body, num_hidden_layers=4, image_size=640, num_labels=150, out_indices=[1, 2, 3, 4])
        ),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        size = 640 if "ade" in name else {"height": 256, "width": 256}
        beit.BeitImageProcessor(size=size, do_center_crop="ade" not in name).save_pretrained(folder / name)
    models["microsoft/beit-base-patch16-224"].save_pretrained(folder / "runs" / "base")
    return folder


def test_snippets_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one namespace, as a reader goes through the page; training is only called, not done."""
    monkeypatch.chdir(home)
    runs = []
    monkeypatch.setattr("beit.train.pretrain.pretrain", runs.append)
    monkeypatch.setattr("beit.train.finetune.finetune", lambda settings: (runs.append(settings), "evaluation"))
    small = beit.BeitConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1, intermediate_size=48)
    values: dict[str, Any] = {"small": small}
    for snippet in blocks(READMES[0], "python"):
        if "import jax" in snippet and importlib.util.find_spec("flax") is None:
            continue
        exec(snippet.replace("BeitModel(BeitConfig())", "BeitModel(small)"), values)
        if "BeitForMaskedImageModeling" in snippet:
            assert list(values["outputs"].logits.shape) == [1, 196, 8192]
        if "beit.load" in snippet:
            assert values["logits"].shape == (1, 1000)
    assert values["label_map"].shape == (480, 640)
    assert [type(settings).__name__ for settings in runs] == ["PretrainSettings", "FinetuneSettings"]


def test_the_first_classifier_is_trained_as_its_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Every command of the page, as it stands there, in order; the recommended checkpoint is a small one of its name."""
    pytest.importorskip("accelerate")
    from beit.checkpoints.catalogue import RECOMMENDED
    from fixtures_runs import save_classifier, write_images

    monkeypatch.chdir(tmp_path)
    save_classifier(tmp_path / RECOMMENDED, ("old", "classes", "of it"))
    write_images(tmp_path / "photos", 16, labelled=True)
    page = ROOT / "docs" / "first-classifier.md"
    commands = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    for made in (
        "runs/photos/report.html",
        "runs/photos/README.md",
        "results.csv",
        "sorted",
        "runs/report/report.html",
    ):
        assert (tmp_path / made).exists(), made
    shutil.copy(next((tmp_path / "photos").rglob("*.png")), tmp_path / "holiday.jpg")
    capsys.readouterr()
    for snippet in blocks(page, "python"):
        exec(snippet, {})
    assert capsys.readouterr().out.strip() in ("flat", "upright")

"""The catalogue of published checkpoints: agrees with itself, found by every name, as long as its sources' lists."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict

import pytest

from beit.checkpoints import catalogue
from beit.checkpoints.catalogue import NOT_PUBLISHED, PUBLISHED, find

BY_NAME = {entry.name: entry for entry in PUBLISHED}


def test_names_and_aliases_are_unique():
    names = [name for entry in PUBLISHED for name in (entry.name, *entry.aliases)]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert all(re.fullmatch(r"[a-z0-9-]+", entry.name) for entry in PUBLISHED)
    assert all(alias == alias.lower() for entry in PUBLISHED for alias in entry.aliases)


@pytest.mark.parametrize("entry", PUBLISHED, ids=BY_NAME)
def test_each_is_found_by_all_its_names(entry):
    for name in (entry.name, *entry.aliases, *(form.where for form in entry.forms)):
        assert find(name) is entry
        assert find(f" {name.upper()} ") is entry


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("beit-base-patch16-224", "beit-base-patch16-224-pt22k-ft22k-ft1k"),
        ("microsoft/beit-large-patch16-512", "beit-large-patch16-512-pt22k-ft22k-ft1k"),
        ("beit_base_patch16_224_pt22k.pth", "beit-base-patch16-224-pt22k"),
        ("beit_large_patch16_224_pt22k_ft1k", "beit-large-patch16-224-pt22k-ft1k"),
        ("beitv2_base_patch16_224.in1k_ft_in22k", "beitv2-base-patch16-224-pt1k-ft21k"),
        ("microsoft/dit-large-finetuned-rvlcdip", "dit-large-rvlcdip"),
        ("facebook/data2vec-vision-base-ft1k", "data2vec-vision-base-ft1k"),
        (
            "upernet_beit-base_8x2_640x640_160k_ade20k-eead221d.pth",
            "beit-base-patch16-640-pt22k-ft22k-ade20k-openmmlab",
        ),
    ],
)
def test_others_names_find_ours(asked, name):
    assert find(asked) is BY_NAME[name]


@pytest.mark.parametrize(
    "name", ["", "beit", "microsoft/beit-huge-patch16-224", "checkpoint-799.pth", "model.safetensors"]
)
def test_what_is_unknown_or_called_like_several_is_not_found(name):
    assert find(name) is None


@pytest.mark.parametrize("entry", PUBLISHED, ids=BY_NAME)
def test_facts_are_possible(entry):
    million = {
        ("base", "pretrained"): (85, 86),
        ("base", "classify"): (85, 103),
        ("base", "segment"): (160, 166),
        ("large", "pretrained"): (303, 304),
        ("large", "classify"): (303, 326),
        ("large", "segment"): (436, 446),
    }
    low, high = million[entry.size, entry.task]
    assert low < entry.parameters < high
    assert entry.size in entry.name
    assert entry.resolution in (224, 384, 512, 640)
    assert entry.name.startswith({"data2vec": "data2vec-vision-"}.get(entry.family, entry.family + "-"))
    assert (entry.classes is None) == (entry.task == "pretrained")
    assert (entry.classes == 150) == (entry.task == "segment")
    assert (entry.miou is not None) == (entry.task == "segment")
    # The accuracy of a classifier is published, but for those of ImageNet-22k.
    assert (entry.top1 is not None) == (entry.task == "classify" and entry.classes != 21841)
    if entry.top1 is not None:
        assert 83 < entry.top1 < 93
    if entry.top5 is not None:
        assert entry.top1 is not None
        assert 96 < entry.top5 < 99
        assert entry.top5 > entry.top1
    if entry.miou_multi_scale is not None:
        assert entry.miou is not None
        assert 53 < entry.miou < entry.miou_multi_scale < 58
    assert entry.mean_std in ("half", "imagenet")
    assert re.search(r"MIT|Apache-2\.0|CC-BY-NC", entry.licence)
    assert entry.source.startswith("https://")
    assert entry.training.startswith("self-supervised on ")
    assert ("fine-tuned" in entry.training) == (entry.task != "pretrained")


@pytest.mark.parametrize("entry", PUBLISHED, ids=BY_NAME)
def test_places_look_like_places(entry):
    assert entry.forms
    assert len({form.kind for form in entry.forms}) == len(entry.forms)
    for form in entry.forms:
        assert form.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", form.sha256)
        if form.kind == "hf":
            assert re.fullmatch(r"(microsoft|facebook)/[a-z0-9-]+", form.where)
        elif form.kind == "timm":
            assert re.fullmatch(r"timm/[a-z0-9_]+\.in\d+k\w+", form.where)
        else:
            assert re.fullmatch(r"https://[\w./-]+\.(pth|pt)", form.where)
        if form.kind == "openmmlab":
            assert form.sha256_prefix is not None
            assert form.where.endswith(f"-{form.sha256_prefix}.pth")
        else:
            assert form.sha256_prefix is None


def test_files_of_the_authors_bear_the_facts_of_their_entries():
    for entry in PUBLISHED:
        for form in entry.forms:
            name = form.where.rpartition("/")[2]
            if form.kind == "unilm" and entry.family in ("beit", "beitv2"):
                assert name.startswith(f"{entry.family}_{entry.size}_patch16_")
                assert f"_{entry.resolution}_" in name or (entry.family, entry.task) == ("beitv2", "segment")
                assert ("ade20k" in name) == (entry.task == "segment")
                assert ("_ft" in name) == (entry.task != "pretrained")


def test_as_long_as_the_sources_lists():
    assert Counter(entry.family for entry in PUBLISHED) == {"beit": 18, "beitv2": 18, "dit": 4, "data2vec": 6}
    # The authors' pages; conversions for transformers; timm's list; metafiles of mmpretrain (6), mmsegmentation (2).
    kinds = Counter((form.kind, entry.family) for entry in PUBLISHED for form in entry.forms)
    assert kinds == {
        ("unilm", "beit"): 14,
        ("unilm", "beitv2"): 16,
        ("unilm", "dit"): 4,
        ("unilm", "data2vec"): 5,
        ("hf", "beit"): 11,
        ("hf", "dit"): 4,
        ("hf", "data2vec"): 4,
        ("timm", "beit"): 7,
        ("timm", "beitv2"): 6,
        ("openmmlab", "beit"): 5,
        ("openmmlab", "beitv2"): 3,
    }


def test_what_is_not_published_is_said():
    assert len(NOT_PUBLISHED) > 10
    for what, why in NOT_PUBLISHED:
        assert why.endswith(".")
        assert find(what) is None
        for name in re.findall(r"\bbeit-[a-z0-9-]+(?:800e|openmmlab)\b", why):
            assert name in BY_NAME


def test_table_and_pages_show_the_facts():
    lines = catalogue.table(PUBLISHED).splitlines()
    assert len(lines) == 1 + len(PUBLISHED)
    assert max(map(len, lines)) <= 120
    assert lines[1].split()[:4] == ["beit-base-patch16-224-pt22k", "pretrained", "85.7", "224"]
    text = catalogue.page(BY_NAME["beit-base-patch16-640-pt22k-ft22k-ade20k"])
    for part in ("163 million", "150 classes", "mIoU 53.6", "54.2", "ImageNet's mean", "ade-640-640", "Apache-2.0"):
        assert part in text
    json.dumps([asdict(entry) for entry in PUBLISHED])  # as `beit models --json` prints it


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("beit-base-patch16-224-pt22k", ["finetune --images FOLDER --model {} --output NEW"]),
        (
            "microsoft/beit-base-patch16-224",
            ["predict IMAGES --model {}", "finetune --images FOLDER --model {} --output NEW"],
        ),
        (
            "microsoft/beit-base-finetuned-ade-640-640",
            [
                "segment predict IMAGES --model {} --output NEW",
                "segment train --images FOLDER --maps MAPS --model {} --output NEW",
            ],
        ),
    ],
)
def test_the_page_of_a_checkpoint_ends_with_the_next_command(name, commands, capsys):
    from beit.cli import main

    assert main(["models", name]) == 0
    entry = catalogue.find(name)
    assert entry is not None
    wanted = ["Next:", *(f"  beit {command.format(entry.name)}" for command in commands)]
    assert capsys.readouterr().out.splitlines()[-len(wanted) :] == wanted
    assert main(["models", name, "--json"]) == 0
    assert "Next:" not in capsys.readouterr().out


def test_the_table_says_what_to_start_with(capsys):
    from beit.cli import main

    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert f"start with {catalogue.RECOMMENDED}" in printed
    assert printed.splitlines()[-1] == f"  beit models {catalogue.RECOMMENDED}"

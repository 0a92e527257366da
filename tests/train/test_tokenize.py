"""Tokens computed once: a run that reads them sees and loses the same as one that computes them; what does not fit is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures_runs import log_lines, refused, save_small_model, save_tokenizer, weights_of, write_images
from fixtures_streams import striped

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from beit.cli import main
from beit.config import BeitConfig
from beit.core.errors import CheckpointError, ConfigError, DataError, InputError
from beit.core.files import write_json
from beit.data.sources.images import FolderImages
from beit.data.token_cache import TokenCache, write_shard
from beit.data.transforms.pretrain import PretrainViews
from beit.data.transforms.sample_seed import SampleSeed
from beit.train import tokenize as writing
from beit.train.pretrain import pretrain
from beit.train.settings import PretrainSettings, TokenizeSettings
from beit.train.tokenize import tokenize


@pytest.fixture
def parts(tmp_path) -> dict[str, Any]:
    """24 images of several sizes, which are read from disk; a tokenizer; a model."""
    return {
        "images": write_images(tmp_path / "images", 24, spread=2),
        "tokenizer": str(save_tokenizer(tmp_path / "tokenizer")),
        "model": str(save_small_model(tmp_path / "model")),
    }


def write(parts: dict[str, Any], output: Path, **changes: Any) -> TokenCache:
    return tokenize(TokenizeSettings(**{**parts, "output": output, "crops": 2, "workers": 0, **changes}))


def settings_of(parts: dict[str, Any], output: Path, **changes: Any) -> PretrainSettings:
    more = {"batch_size": 8, "steps": 8, "log_every": 1, "workers": 0, "precision": "fp32", "learning_rate": 1e-3}
    return PretrainSettings(**{**parts, **more, "output": output, **changes})


@pytest.mark.parametrize("kind", ["files", "in memory", "stream"])
def test_the_same_losses_with_and_without(parts, tmp_path, kind):
    """Over three passes, so that the two crops come again; with a file that is damaged."""
    if kind == "in memory":
        parts["images"] = write_images(tmp_path / "small", 24)
    elif kind == "stream":
        for shard in range(3):
            striped(tmp_path / f"{shard}.tar", 8, seed=shard, side=18)
        parts["images"] = str(tmp_path / "{0..2}.tar")
    else:
        (parts["images"] / "005.png").write_bytes(b"noise")
    cache = write(parts, tmp_path / "tokens", batch_size=5)
    assert cache.crops == 2
    assert len(cache) == 24
    assert sorted(path.name for path in cache.folder.iterdir() if "keys" in path.name)[0] == "keys-00000.npy"
    pretrain(settings_of(parts, tmp_path / "computed", crops=2, epochs=3))
    del parts["tokenizer"]
    pretrain(settings_of(parts, tmp_path / "read", token_cache=cache.folder))
    computed, read = log_lines(tmp_path / "computed"), log_lines(tmp_path / "read")
    assert len(read) == 8
    for one, two in zip(computed, read, strict=True):
        for line in (one, two):
            del line["images_per_second"], line["data_wait"]
        assert one == two
    assert weights_of(tmp_path / "computed") == weights_of(tmp_path / "read")
    # What changes from pass to pass without a cache is the crop; with one crop the tokens would be the same.
    tokens = [cache.tokens(int(cache.keys[3]), crop) for crop in range(2)]
    assert tokens[0].shape == (16,)
    assert (tokens[0] != tokens[1]).any()


def test_masks_never_come_again(parts, tmp_path):
    """Crops and tokens repeat every second pass, masks do not."""
    cache = write(parts, tmp_path / "tokens")
    settings = settings_of(parts, tmp_path / "run", token_cache=cache.folder)
    views = PretrainViews(settings, BeitConfig.from_pretrained(parts["model"]), None, cache)
    image = FolderImages(parts["images"]).read(7)
    first, second, third = (views.one(image, 0, SampleSeed(0, visit, 7)) for visit in range(3))
    for name in ("pixel_values", "tokens"):
        assert np.array_equal(first[name], third[name])
        assert not np.array_equal(first[name], second[name])
    assert not np.array_equal(first["mask"], third["mask"])


def test_what_is_there_is_left(parts, tmp_path, monkeypatch):
    """Stopped in the middle and started again, it computes what is missing, and ends with the same files."""
    monkeypatch.setattr(writing, "_PIECE", 10)
    whole = write(parts, tmp_path / "whole")
    assert whole.rows == [10, 10, 4]
    written: list[int] = []

    def failing(folder: Path, number: int, *arguments: Any) -> None:
        if len(written) == 1:
            raise CheckpointError("no space")
        written.append(number)
        write_shard(folder, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_shard", failing)
        with pytest.raises(CheckpointError, match="no space"):
            write(parts, tmp_path / "cut")
    with pytest.raises(DataError, match="an unfinished one"):
        TokenCache(tmp_path / "cut")
    with pytest.raises(ConfigError, match=r"(?s)holds tokens of something else:\n  seed: 0 there, 1 now\nChoose"):
        write(parts, tmp_path / "cut", seed=1)
    monkeypatch.setattr(writing, "write_shard", lambda *a: (written.append(a[1]), write_shard(*a)))
    write(parts, tmp_path / "cut")
    assert written == [0, 1, 2]
    names = sorted(path.name for path in whole.folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "cut").iterdir())
    for name in names:
        assert (whole.folder / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    write(parts, tmp_path / "cut")
    assert written == [0, 1, 2]  # finished: nothing to do


def test_shards_that_end_early_and_pictures_that_are_none(parts, tmp_path, caplog):
    for shard in range(2):
        striped(tmp_path / f"{shard}.tar", 12, seed=shard)
    data = bytearray((tmp_path / "1.tar").read_bytes())
    (tmp_path / "1.tar").write_bytes(data[: len(data) // 2 + 100])
    parts["images"] = str(tmp_path / "{0..1}.tar")
    cache = write(parts, tmp_path / "tokens")
    assert 12 < len(cache) < 24
    assert "1.tar" in caplog.text
    with pytest.raises(InputError, match="has no tokens"):
        cache.tokens(12345, 0)


def test_what_does_not_fit_is_refused(parts, tmp_path):
    cache = write(parts, tmp_path / "tokens").folder
    more = write_images(tmp_path / "more", 23, spread=2)
    other = str(save_tokenizer(tmp_path / "other", seed=1))
    bare = {name: value for name, value in parts.items() if name != "tokenizer"}

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(ConfigError, match=match):
            pretrain(settings_of(bare, tmp_path / "run", **{"token_cache": cache, **changes}))
        assert not (tmp_path / "run").exists()

    refused(r"crop_scale: \[0.08, 1.0\] in the cache, \(0.5, 1.0\) now", crop_scale=(0.5, 1.0))
    refused("jitter: 0.4 in the cache, 0.0 now", jitter=0.0)
    refused("crops: 2 in the cache, 3 now", crops=3)
    refused("the images, or their order, differ", images=more)
    refused("the tokenizer differs", tokenizer=other)
    larger = save_small_model(tmp_path / "larger", image_size=24)
    refused("4x4 tokens per image; the model has 6x6 patches", model=str(larger))
    refused("needs no token_cache", target="pixels")
    broken = tmp_path / "broken"
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:-40]), lambda path: path.unlink()):
        shutil.copytree(cache, broken)
        damage(broken / "tokens-00000.npy")
        with pytest.raises(DataError, match=r"is damaged .* Write it anew"):
            TokenCache(broken)
        shutil.rmtree(broken)
    with pytest.raises(DataError, match="is no token cache"):
        TokenCache(tmp_path)


def test_many_codes_take_four_bytes(tmp_path):
    tokens = np.arange(12).reshape(2, 1, 6) + 65_530
    write_shard(tmp_path, 0, np.array([9, 4]), tokens, 70_000)
    about = {"crops": 1, "seed": 0, "vocab_size": 70_000, "grid": [2, 3], "view_size": [8, 12], "shards": 1}
    write_json(tmp_path / "cache.json", about)
    cache = TokenCache(tmp_path)
    assert cache.tokens(4, 0).tolist() == tokens[1, 0].tolist()
    assert cache.tokens(9, 0).dtype == np.int64


def test_the_command(parts, tmp_path, capsys):
    arguments = ["tokenize"]
    for name in ("images", "tokenizer", "model"):
        arguments += [f"--{name}", str(parts[name])]
    arguments += ["--crops", "3", "--workers", "1"]
    assert main([*arguments, "--output", str(tmp_path / "tokens")]) == 0
    assert "3 crops of 24 images, 4x4 tokens each" in capsys.readouterr().out
    bad = [*arguments, "--output", str(tmp_path / "bad")]
    refused(capsys, [*bad, "--crops", "0"], "crops is 0; it must be at least 1", status=2)
    refused(capsys, [*bad, "--images", str(tmp_path / "none")], "is not a folder")
    refused(capsys, [*bad, "--tokenizer", str(tmp_path / "images")], "config.json")
    refused(capsys, [*bad, "--patch-size", "8"], "has patches of its own")
    refused(capsys, [*arguments, "--output", str(tmp_path / "images" / "000.png")], "is a file")

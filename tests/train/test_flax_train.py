"""Runs in Flax: the losses and weights of PyTorch's from the same start; resumed to the last bit; what cannot be is refused."""

from __future__ import annotations

import gc
import inspect
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CoroutineType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fixtures_runs import (
    log_lines,
    save_classifier,
    save_small_model,
    save_tokenizer,
    stripes,
    weights_of,
    write_images,
)
from fixtures_streams import striped

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
jax = pytest.importorskip("jax")
pytest.importorskip("flax")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")

import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from beit.checkpoints import read_weights as weight_files
from beit.checkpoints.flax_layout import from_tree
from beit.checkpoints.write_weights import write_tensors
from beit.core.errors import CheckpointError, ConfigError, Interrupted, TrainingError
from beit.core.files import read_json
from beit.data.sources.images import ArrayImages
from beit.models.flax.beit import FlaxBeitForImageClassification, FlaxBeitForMaskedImageModeling
from beit.models.torch.beit import BeitForImageClassification, BeitForMaskedImageModeling
from beit.train import checkpoint
from beit.train.distributed import Alone
from beit.train.finetune import finetune
from beit.train.flax import engine as flax_engine
from beit.train.flax import pretrain as flax_pretrain
from beit.train.flax import state as flax_state
from beit.train.flax.engine import FlaxEngine
from beit.train.flax.optim import AdamW
from beit.train.pretrain import pretrain
from beit.train.run import Run
from beit.train.settings import FinetuneSettings, PretrainSettings, TokenizeSettings
from beit.train.tokenize import tokenize
from beit.train.torch.optim import parameter_groups

IMAGES = ArrayImages(*stripes(24), ["flat", "upright"])
CLOCK = ("images_per_second", "data_wait")


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(quick_compiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Several runs have the same step, whose compilation takes most of their time."""
    wanted = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    for values in (wanted, before):
        compilation_cache.reset_cache()
        for name, value in values.items():
            jax.config.update(name, value)
        if values is wanted:
            yield


def stirred(folder: Path) -> Path:
    """A model folder whose weights, biases and scales are all of ordinary size.

    Adam's first steps have the size of the rate whatever the size of the gradient. Of a fresh model some gradients are next
    to nothing, and their rounding, which differs between frameworks, would decide which way such a weight goes.
    """
    path, rng = folder / "model.safetensors", np.random.default_rng(0)
    tensors = {
        name: value + rng.normal(0, 0.2, value.shape).astype(np.float32)
        for name, value in weight_files.read_tensors(path).items()
    }
    write_tensors(path, tensors)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What pre-training runs of few steps share."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "images": folder,
        "tokenizer": str(save_tokenizer(folder / "tokenizer")),
        "model": str(stirred(save_small_model(folder / "model", hidden_size=16, intermediate_size=24))),
        "batch_size": 8,
        "steps": 4,
        "learning_rate": 3e-3,
        "warmup": 0.0,
        "drop_path": 0.0,
        "precision": "fp32",
        "log_every": 1,
        "save_every": 2,
        "keep": 9,
        "framework": "flax",
    }


def trajectory(output: Path) -> list[dict[str, Any]]:
    """The log without its clock."""
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in log_lines(output)]


def start_of(folder: Path) -> dict[str, np.ndarray]:
    return weight_files.read_tensors(folder / "model.safetensors")


def assert_same(flax: Path, torch: Path, start: Path) -> None:
    """The same log, and weights that are far closer to each other than to where they come from."""
    lines = trajectory(flax), trajectory(torch)
    assert len(lines[0]) == 4
    for one, two in zip(*lines, strict=True):
        assert one == pytest.approx(two, rel=1e-5, abs=2e-6)  # the log has six decimal places
    for below in ("", *(["ema"] if (torch / "ema").exists() else [])):
        one, two, before = start_of(flax / below), start_of(torch / below), start_of(start)
        assert one.keys() == two.keys()
        for name in one:
            assert np.abs(one[name] - two[name]).max() < 2e-6, name
            if one[name].shape == before[name].shape:
                assert np.abs(one[name] - before[name]).max() > 5e-4, name


# --- the same runs as PyTorch's ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["tokens", "cached tokens, in parts", "pixels"])
def test_pretraining_is_pytorchs(parts, tmp_path, target):
    """Also in parts, whose masks have different numbers of patches: there, PyTorch takes each batch whole."""
    parts, more = dict(parts), {}
    if target == "tokens":
        parts |= {"ema": 0.9, "weight_decay": 0.3, "weight_decay_end": 0.1, "warmup": 0.3}
    else:
        pixels = target == "pixels"
        small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 48 if pixels else 16}
        parts["model"] = str(stirred(save_small_model(tmp_path / "model", **small)))
        tokenizer = parts.pop("tokenizer")
        if pixels:
            parts["target"] = "pixels"
        else:
            shared = {name: parts[name] for name in ("images", "model")}
            cache = TokenizeSettings(**shared, tokenizer=tokenizer, output=tmp_path / "cache", crops=2, workers=0)
            parts["token_cache"] = tokenize(cache, IMAGES).folder
            more = {"accumulate": 2}
    pretrain(PretrainSettings(**{**parts, "output": tmp_path / "flax", **more}), IMAGES)
    pretrain(PretrainSettings(**{**parts, "output": tmp_path / "torch", "framework": "torch"}), IMAGES)
    assert ("explained" if target == "pixels" else "prediction_entropy") in log_lines(tmp_path / "flax")[0]
    assert_same(tmp_path / "flax", tmp_path / "torch", Path(parts["model"]))


def test_fine_tuning_is_pytorchs(tmp_path):
    start = stirred(save_classifier(tmp_path / "model", hidden_size=16, intermediate_size=24))
    shared: dict[str, Any] = {"images": tmp_path, "model": str(start), "batch_size": 8, "steps": 4, "log_every": 1}
    shared |= {
        "mixup": 0.8,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "layer_decay": 0.65,
        "drop_path": 0.0,
        "warmup": 0.0,
    }
    shared |= {"learning_rate": 3e-3, "weight_decay": 0.1, "weight_decay_end": 0.5, "clip": 0.5, "ema": 0.9}
    found = {}
    for framework in ("flax", "torch"):
        settings = FinetuneSettings(**shared, output=tmp_path / framework, framework=framework, precision="fp32")
        validation = ArrayImages(*stripes(13, seed=5), ["flat", "upright"])
        found[framework] = finetune(settings, IMAGES, validation)[1]
    assert_same(tmp_path / "flax", tmp_path / "torch", start)
    assert max(line["gradient_norm"] for line in log_lines(tmp_path / "flax")) > 0.5  # clipping had something to do
    assert found["flax"].count == 13
    np.testing.assert_array_equal(found["flax"].confusion, found["torch"].confusion)


@pytest.mark.parametrize("kind", ["pre-training", "fine-tuning"])
def test_groups_are_pytorchs(parts, tmp_path, kind):
    """The optimiser in Flax sees other names and shapes, and finds the same rates and decays."""
    if kind == "pre-training":
        folder, classes = Path(parts["model"]), (FlaxBeitForMaskedImageModeling, BeitForMaskedImageModeling)
    else:
        folder = save_classifier(tmp_path / "model")
        classes = (FlaxBeitForImageClassification, BeitForImageClassification)
    flax, module = (kind.from_pretrained(folder) for kind in classes)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    expected = {
        names[id(parameter)]: (group["scale"], group["decays"])
        for group in parameter_groups(module, 0.05, layer_decay=0.7, depth=2)
        for parameter in group["params"]
    }
    marked = jax.tree.map(
        lambda leaf, group: np.broadcast_to(np.float32(0), leaf.shape) + np.float32(group[0] + 10 * group[1]),
        flax.params,
        AdamW(layer_decay=0.7, depth=2).groups(flax.params),
    )
    found = {name: float(array.flat[0]) for name, array in from_tree({"params": marked}).items()}
    assert found == pytest.approx({name: scale + 10 * decays for name, (scale, decays) in expected.items()})
    assert len(set(found.values())) == 8  # embeddings, two layers and the rest, each with and without decay


# --- one step, by hand -----------------------------------------------------------------------------------------------


def line_engine(tmp_path: Path, **changes: Any) -> tuple[FlaxEngine, list[Any]]:
    """A linear layer that learns by the mean squared error over rows that count; and the counts it tells."""
    rng = np.random.default_rng(1)
    params = {"line": {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "bias": jnp.zeros(2)}}
    model: Any = SimpleNamespace(params=params, config=SimpleNamespace(num_attention_heads=1, intermediate_size=1))
    settings = PretrainSettings(
        images=tmp_path, output=tmp_path / "run", learning_rate=0.1, weight_decay=0.2, **changes
    )
    told: list[Any] = []

    def loss(params: Any, batch: Any, key: Any, constants: Any) -> Any:
        error = batch["x"] @ params["line"]["kernel"] + params["line"]["bias"] - constants
        rows = (error**2).mean(-1)
        value = jnp.sum(rows, where=batch["counted"]) / batch["counted"].sum()
        return value, ({"twice": 2 * value}, batch["counted"].sum())

    engine = FlaxEngine(
        Run(Alone(), settings),
        model,
        AdamW(0.99, settings.clip),
        loss,
        weight=lambda batch: batch["counted"].sum().astype(jnp.float32),
        constants=jnp.asarray([1.0, -2.0]),
        count=told.append,
    )
    return engine, told


def rows(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {"x": rng.normal(size=(8, 3)).astype(np.float32), "counted": np.arange(8) % 5 != step}


def by_pytorch(steps: int, clip: float) -> tuple[list[float], list[dict[str, np.ndarray]]]:
    """(norms, weights after each step) of the same layer."""
    rng = np.random.default_rng(1)
    kernel, bias = torch.nn.Parameter(torch.tensor(rng.normal(size=(3, 2))).float()), torch.nn.Parameter(torch.zeros(2))
    groups = [{"params": [kernel], "weight_decay": 0.2}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    norms, weights = [], []
    for step in range(steps):
        batch = {name: torch.from_numpy(value) for name, value in rows(step).items()}
        error = batch["x"] @ kernel + bias - torch.tensor([1.0, -2.0])
        optimizer.zero_grad()
        (error**2).mean(-1)[batch["counted"]].mean().backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_([kernel, bias], clip)))
        optimizer.step()
        weights.append({"kernel": kernel.detach().numpy().copy(), "bias": bias.detach().numpy().copy()})
    return norms, weights


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_by_hand(tmp_path, accumulate):
    """Clipping, AdamW, average; in parts, of which none counts as much as the others."""
    engine, told = line_engine(tmp_path, clip=0.5, ema=0.9, accumulate=accumulate, batch_size=8)
    average = {"kernel": np.asarray(engine.state["params"]["line"]["kernel"]), "bias": np.zeros(2, np.float32)}
    norms, weights = by_pytorch(3, 0.5)
    assert min(norms) > 0.5
    for step in range(3):
        metrics = engine.step(rows(step), step, 0.1, None)
        assert float(metrics["gradient_norm"]) == pytest.approx(norms[step], rel=1e-5)
        assert float(metrics["twice"]) == pytest.approx(2 * float(metrics["loss"]), rel=1e-6)
        pace = min(0.9, (1 + step) / (10 + step))
        for name in ("kernel", "bias"):
            found = np.asarray(engine.state["params"]["line"][name])
            np.testing.assert_allclose(found, weights[step][name], atol=1e-6)
            average[name] = pace * average[name] + (1 - pace) * found
            np.testing.assert_allclose(engine.state["average"]["line"][name], average[name], atol=1e-6)
    assert [int(count) for count in told] == [int(rows(step)["counted"].sum()) for step in range(3)]
    last = weights[-1]["kernel"]
    with engine.averaged():
        np.testing.assert_allclose(engine.full_model().params["line"]["kernel"], average["kernel"], atol=1e-6)
    np.testing.assert_allclose(engine.full_model().params["line"]["kernel"], last, atol=1e-6)
    assert np.abs(average["kernel"] - last).max() > 1e-3


def test_decay_is_of_each_step(tmp_path):
    engine, _ = line_engine(tmp_path, clip=0.0)
    before = np.asarray(engine.state["params"]["line"]["kernel"])
    engine.step(rows(0), 0, 0.1, 5.0)
    other, _ = line_engine(tmp_path, clip=0.0)
    other.step(rows(0), 0, 0.1, 0.0)
    kernel, plain = (np.asarray(e.state["params"]["line"]["kernel"]) for e in (engine, other))
    np.testing.assert_allclose(plain - kernel, 0.1 * 5.0 * before, atol=1e-6)
    np.testing.assert_allclose(engine.state["params"]["line"]["bias"], other.state["params"]["line"]["bias"])
    assert engine.averaged() is None


def test_what_is_no_number_is_seen(tmp_path):
    engine, _ = line_engine(tmp_path)
    engine.step(rows(0), 0, 0.1, None)
    assert engine.finite()
    assert engine.finite_weights()
    engine.step(rows(1), 1, np.inf, None)  # a last update can spoil what a finite gradient came from
    assert engine.finite()
    assert not engine.finite_weights()
    engine, _ = line_engine(tmp_path)
    engine.step({**rows(0), "x": np.full((8, 3), 1e18, np.float32)}, 0, 0.0, None)  # the loss has a value, its norm not
    assert not engine.finite()
    assert engine.finite_weights()
    engine.step(rows(1), 1, 0.0, None)
    assert not engine.finite()  # nobody has looked in between


# --- interrupted, damaged, out of space, out of numbers --------------------------------------------------------------


@pytest.fixture(scope="module")
def long(parts) -> dict[str, Any]:
    """Settings of a run of six steps with everything random; on pixels, whose step is compiled sooner."""
    model = stirred(save_small_model(parts["images"] / "pixels", hidden_size=16, intermediate_size=24, vocab_size=48))
    changes = {"target": "pixels", "tokenizer": None, "model": str(model), "steps": 6, "drop_path": 0.4, "ema": 0.9}
    return {**parts, **changes}


@pytest.fixture(scope="module")
def whole(long) -> Path:
    """That run, undisturbed."""
    output = long["images"] / "whole"
    pretrain(PretrainSettings(**long, output=output), IMAGES)
    return output


@pytest.fixture
def cut(whole, tmp_path) -> Path:
    """It again, as it was when its fourth step was saved; with a line of the log that is not whole."""
    shutil.copytree(whole, tmp_path / "cut")
    for name in ("checkpoint-000006", "ema"):
        shutil.rmtree(tmp_path / "cut" / name)
    (tmp_path / "cut/model.safetensors").unlink()
    with open(tmp_path / "cut/log.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    return tmp_path / "cut"


def resumed(long: dict[str, Any], output: Path, images: Any = IMAGES) -> None:
    pretrain(PretrainSettings(**long, output=output, resume="must"), images)


def assert_equal(output: Path, whole: Path) -> None:
    assert trajectory(output) == trajectory(whole)
    for below in ("", "ema", "checkpoint-000006"):
        assert weights_of(output / below) == weights_of(whole / below)
    assert not [path for path in output.rglob(".*") if path.name.endswith((".tmp", ".lock"))]


def test_drop_path_is_drawn(long, whole, tmp_path):
    """Or the next test would prove little."""
    pretrain(PretrainSettings(**{**long, "drop_path": 0.0, "steps": 1, "output": tmp_path / "none"}), IMAGES)
    assert trajectory(tmp_path / "none")[0]["loss"] != trajectory(whole)[0]["loss"]


def test_told_to_stop_and_resumed_equals_undisturbed(long, whole, tmp_path, monkeypatch):
    step = FlaxEngine.step

    def told(self: FlaxEngine, batch: Any, number: int, *rest: Any) -> Any:
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, number, *rest)

    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(FlaxEngine, "step", told)
        with pytest.raises(Interrupted, match="Stopped by SIGTERM after step 3; saved"):
            pretrain(PretrainSettings(**long, output=output), IMAGES)
    assert not (output / "model.safetensors").exists()
    resumed(long, output)
    assert_equal(output, whole)
    before = weights_of(output)
    resumed(long, output)  # after the end nothing changes
    assert weights_of(output) == before


def biggest(folder: Path) -> Path:
    """The file with the most numbers."""
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "noise", "no manifest"])
def test_a_damaged_state_is_passed_over(cut, damage):
    state = cut / "checkpoint-000004/flax_state"
    victim = biggest(state)
    if damage == "gone":
        shutil.rmtree(state)
    elif damage == "empty":
        shutil.rmtree(state)
        state.mkdir()
    elif damage == "cut":
        victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    elif damage == "noise":
        victim.write_bytes(np.random.default_rng(0).bytes(victim.stat().st_size))
    else:
        (state / "manifest.ocdbt").unlink()
    with pytest.raises(CheckpointError, match=r"flax_state is missing or damaged \("):
        flax_state.check(state.parent)
    found = checkpoint.last(cut, flax_pretrain.check)
    assert found is not None
    assert found[0].name == "checkpoint-000002"


def test_damage_costs_steps_and_no_more(long, cut, whole):
    shutil.rmtree(cut / "checkpoint-000004/flax_state")
    resumed(long, cut)
    assert_equal(cut, whole)


def test_no_readable_state_is_an_error(long, cut):
    for folder in checkpoint.list_checkpoints(cut):
        shutil.rmtree(folder / "flax_state")
    with pytest.raises(TrainingError, match="No checkpoint can be read") as error:
        resumed(long, cut)
    assert str(error.value).count("flax_state") >= 2
    assert "is missing" in str(error.value)


def test_a_state_of_another_model_does_not_fit(long, cut, tmp_path):
    """As when files of two runs were mixed up: its average is of other shapes."""
    other = {"a": jnp.zeros(3)}
    shutil.rmtree(cut / "checkpoint-000002")
    state = cut / "checkpoint-000004"
    shutil.rmtree(state / "flax_state")
    flax_state.write(state, {"moments": other, "average": other})
    with pytest.raises(TrainingError, match=r"No checkpoint can be read.*\n.*flax_state"):
        resumed(long, cut)
    values = read_json(state / "state.json")
    kept = {name: value for name, value in values.items() if name not in ("files", "checksum")}
    (state / "state.json").write_text(json.dumps(kept))  # as version 0.1 wrote it, without checksums
    with pytest.raises((CheckpointError, TrainingError), match="does not fit this run"):
        resumed(long, cut)


def test_frameworks_do_not_go_on_with_each_others_runs(long, cut, tmp_path):
    with pytest.raises(TrainingError, match="framework: flax then, torch now"):
        resumed({**long, "framework": "torch"}, cut)
    theirs = {**long, "framework": "torch", "output": tmp_path / "torch", "steps": 2}
    pretrain(PretrainSettings(**theirs), IMAGES)
    with pytest.raises(TrainingError, match="framework: torch then, flax now"):
        resumed({**long, "steps": 2}, tmp_path / "torch")


def test_a_run_that_diverges_stops_and_spoils_nothing(long, tmp_path):
    output = tmp_path / "run"
    wild = {**long, "learning_rate": 1e30, "warmup": 0.5, "save_every": 1, "output": output}
    with pytest.raises(TrainingError, match="not finite at step 3") as error:  # the first rate is 0, the second throws
        pretrain(PretrainSettings(**wild), IMAGES)
    assert str(output / "checkpoint-000002") in str(error.value)
    found = checkpoint.list_checkpoints(output)
    assert [path.name for path in found] == ["checkpoint-000001", "checkpoint-000002"]
    assert all(np.isfinite(value).all() for folder in found for value in start_of(folder).values())
    assert not (output / "model.safetensors").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_a_full_disk_leaves_earlier_checkpoints(long, whole, tmp_path, monkeypatch):
    """The real thing: the kernel lets no file of the second state grow beyond 1,000 bytes, less than one array has."""
    output, before, writes = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE), []
    write = flax_engine.write

    def filling(*arguments: Any) -> None:
        writes.append(arguments)
        if len(writes) < 2:
            return write(*arguments)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            return write(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(flax_engine, "write", filling)
    with pytest.raises(CheckpointError, match=r"checkpoint-000004 could not be written.*free some space"):
        pretrain(PretrainSettings(**long, output=output), IMAGES)
    monkeypatch.undo()
    assert [path.name for path in checkpoint.list_checkpoints(output)] == ["checkpoint-000002"]
    assert not list(output.glob(".checkpoint*"))
    coroutines = [thing for thing in gc.get_objects() if type(thing) is CoroutineType]
    theirs = [coroutine for coroutine in coroutines if "orbax" in coroutine.cr_code.co_filename]
    assert not [left for left in theirs if inspect.getcoroutinestate(left) != inspect.CORO_CLOSED], (
        "they still write, or warn when they are collected"
    )
    resumed(long, output)
    assert_equal(output, whole)


def test_a_stream_trains_and_resumes(long, tmp_path, monkeypatch):
    for number in range(3):
        striped(tmp_path / f"{number}.tar", 9, number)
    long = {**long, "images": f"{tmp_path}/{{0..2}}.tar", "workers": 2, "shuffle_buffer": 5, "jitter": 0.0}
    pretrain(PretrainSettings(**long, output=tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("checkpoint-000006", "ema"):
        shutil.rmtree(tmp_path / "cut" / name)
    with pytest.raises(TrainingError, match="--workers 2"):
        resumed({**long, "workers": 1}, tmp_path / "cut", None)
    resumed(long, tmp_path / "cut", None)
    assert_equal(tmp_path / "cut", tmp_path / "whole")
    assert len({line["loss"] for line in trajectory(tmp_path / "cut")}) == 6


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"precision": "fp16"}, "choose --precision bf16"),
        ({"compile": True}, "leave out --compile"),
        ({"shard": True}, "choose --model-parallel"),
        ({"model_parallel": 0}, "must be at least 1"),
        ({"framework": "torch", "model_parallel": 2}, "or --framework flax"),
        ({"probe": Path("labelled")}, "beit probe --model OUTPUT"),
    ],
)
def test_settings_that_are_refused(parts, changes, advice):
    with pytest.raises(ConfigError, match=advice):
        PretrainSettings(**{**parts, "output": Path("run"), **changes})
    if "probe" not in changes:
        with pytest.raises(ConfigError, match=advice):
            FinetuneSettings(images="x", model="tiny", output=Path("run"), **{"framework": "flax", **changes})


def test_runs_that_are_refused(parts, tmp_path, monkeypatch):
    output = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"1 devices cannot be divided into groups of 2 \(model_parallel\)"):
        pretrain(PretrainSettings(**parts, output=output, model_parallel=2), IMAGES)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="Start it without torchrun"):
        pretrain(PretrainSettings(**parts, output=output), IMAGES)
    monkeypatch.delenv("WORLD_SIZE")
    assert not output.exists()
    # Of 24 images each batch has no more.
    with pytest.raises(ConfigError, match="A batch of 24 in 16 parts cannot be divided"):
        pretrain(PretrainSettings(**{**parts, "batch_size": 32, "accumulate": 16, "output": output}), IMAGES)


# --- as a user calls it ------------------------------------------------------------------------------------------

_WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "accelerate"):
            raise ImportError("blocked: " + name, name=name)

sys.meta_path.insert(0, Blocked())
"""
_COMMANDS = """
import json, sys
from beit.cli import main
codes = [main(arguments) for arguments in json.loads(sys.argv[1])]
print(json.dumps({"codes": codes, "torch": [name for name in sys.modules if name.partition(".")[0] == "torch"]}))
"""


@pytest.mark.slow
def test_the_command_line_without_pytorch(tmp_path):
    """Pre-training and fine-tuning on folders of image files, where PyTorch cannot be imported, in workers neither."""
    (tmp_path / "sitecustomize.py").write_text(_WITHOUT_TORCH)
    model = save_small_model(tmp_path / "model", num_hidden_layers=1)
    shared = ["--framework", "flax", "--workers", "2", "--batch-size", "8", "--steps", "3", "--log-every", "1"]
    shared += ["--precision", "fp32"]
    first = ["pretrain", *shared, "--images", write_images(tmp_path / "images", 24, spread=2)]
    first += ["--tokenizer", save_tokenizer(tmp_path / "tokenizer"), "--model", model, "--output", tmp_path / "first"]
    second = ["finetune", *shared, "--images", write_images(tmp_path / "labelled", 16, spread=2, labelled=True)]
    second += ["--validation", write_images(tmp_path / "validation", 6, seed=3, labelled=True)]
    second += ["--model", tmp_path / "first", "--output", tmp_path / "second"]
    commands = json.dumps([[str(argument) for argument in command] for command in (first, second)])
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(root / "src")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _COMMANDS, commands],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *said, last = done.stdout.splitlines()
    assert json.loads(last) == {"codes": [0, 0], "torch": []}, done.stderr[-3000:]
    assert any(line.startswith(f"Saved {tmp_path / 'first'}: masked tokens guessed") for line in said)
    assert any(line.startswith("Validation: top-1") for line in said)
    assert [line["step"] for line in log_lines(tmp_path / "second")] == [1, 2, 3]
    evaluation = read_json(tmp_path / "second/evaluation.json")
    assert evaluation["count"] == 6
    # An ordinary folder, also for PyTorch.
    assert BeitForImageClassification.from_pretrained(tmp_path / "second").config.id2label == {0: "flat", 1: "upright"}

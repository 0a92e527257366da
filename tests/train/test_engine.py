"""What a step does beyond the plain one: parts of a batch, averaged weights, decay that changes, precision, recomputed
activations, compiling; two runs in one folder; signals; alarms."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures_runs import log_lines, save_small_model, small_run, stripes, weights_of, write_images

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from torch import nn

from beit.checkpoints import read_weights as weight_files
from beit.core.errors import ConfigError, DataError, Interrupted, TrainingError
from beit.core.files import read_json, write_json
from beit.data.sources.images import ArrayImages
from beit.train import checkpoint
from beit.train.alarms import Watch
from beit.train.finetune import finetune
from beit.train.pretrain import pretrain
from beit.train.run import LOCK_FILE
from beit.train.schedule import cosine
from beit.train.settings import FinetuneSettings, PretrainSettings, TokenizerSettings
from beit.train.targets.tokens import entropy
from beit.train.targets.torch.pixels import patch_pixels
from beit.train.tokenizer import train_tokenizer
from beit.train.torch import engine as torch_engine
from beit.train.torch.ema import Average

IMAGES = ArrayImages(*stripes(24), ["flat", "upright"])


@pytest.fixture
def parts(tmp_path) -> dict[str, Any]:
    return small_run(tmp_path, save_every=2, steps=4, drop_path=0.0, learning_rate=1e-3, warmup=0.3)


def run(parts: dict[str, Any], name: str, **changes: Any) -> tuple[list[dict[str, float]], Path]:
    settings = PretrainSettings(**{**parts, "output": parts["images"] / name, **changes})
    return pretrain(settings, IMAGES), settings.output


def difference(a: Path, b: Path) -> float:
    """The largest difference between two folders' weights."""
    first, second = (weight_files.read_tensors(folder / "model.safetensors") for folder in (a, b))
    return max(float(abs(first[name] - second[name]).max()) for name in first)


# --- one step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [2, 8])
def test_a_batch_in_parts_is_the_same_step(parts, accumulate):
    """Masks have different numbers of patches, so the parts do not count alike."""
    whole, whole_folder = run(parts, "whole")
    split, split_folder = run(parts, "split", accumulate=accumulate)
    for a, b in zip(whole, split, strict=True):
        for name in ("loss", "gradient_norm", "masked_accuracy"):
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-6)
    assert difference(whole_folder, split_folder) < 1e-5
    assert difference(whole_folder, Path(parts["model"])) > 1e-4


def test_mixing_comes_before_the_parts(tmp_path):
    save_small_model(tmp_path / "model")

    def losses(accumulate: int) -> list[float]:
        settings = FinetuneSettings(
            images=tmp_path,
            output=tmp_path / str(accumulate),
            model=str(tmp_path / "model"),
            steps=3,
            batch_size=8,
            log_every=1,
            precision="fp32",
            mixup=0.8,
            cutmix=1.0,
            drop_path=0.0,
            accumulate=accumulate,
        )
        return [line["loss"] for line in finetune(settings, IMAGES)[0]]

    assert losses(4) == pytest.approx(losses(1), rel=1e-5)


def test_recomputed_activations_change_nothing(parts):
    parts["drop_path"] = 0.5  # the same paths are dropped the second time
    plain, plain_folder = run(parts, "plain")
    again, again_folder = run(parts, "again", gradient_checkpointing=True)
    assert [line["loss"] for line in plain] == [line["loss"] for line in again]
    assert difference(plain_folder, again_folder) < 1e-7
    with pytest.raises(ConfigError, match="tokenizer has no gradient checkpointing"):
        train_tokenizer(
            TokenizerSettings(images=parts["images"], output=parts["output"], gradient_checkpointing=True, steps=1),
            IMAGES,
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at tensors of all kinds
def test_a_compiled_model_learns_the_same(parts):
    plain, _ = run(parts, "plain", steps=2)
    compiled, folder = run(parts, "compiled", steps=2, compile=True)
    for a, b in zip(plain, compiled, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
    assert set(weight_files.read_tensors(folder / "model.safetensors")) == set(
        weight_files.read_tensors(Path(parts["model"]) / "model.safetensors")
    )


def test_half_precision_scales_the_loss_and_resumes(parts):
    whole, whole_folder = run(parts, "whole", precision="fp16")
    full, _ = run(parts, "full")
    assert [line["loss"] for line in whole] == pytest.approx([line["loss"] for line in full], rel=0.01)
    assert [line["loss"] for line in whole] != [line["loss"] for line in full]
    state = read_json(whole_folder / "checkpoint-000002/state.json")
    assert state["scaler"]["scale"] > 1
    cut = parts["images"] / "cut"
    shutil.copytree(whole_folder, cut)
    shutil.rmtree(cut / "checkpoint-000004")
    again, _ = run(parts, "cut", precision="fp16", resume="must")
    assert [line["loss"] for line in again] == [line["loss"] for line in whole]
    assert weights_of(cut) == weights_of(whole_folder)


def test_decay_falls_along_a_cosine(parts, monkeypatch):
    seen = []

    class Spy(torch.optim.AdamW):
        def step(self, *arguments: Any, **keywords: Any) -> Any:
            seen.append([(group["weight_decay"], group["decays"]) for group in self.param_groups])
            return super().step(*arguments, **keywords)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    run(parts, "run", weight_decay=0.4, weight_decay_end=0.0)
    assert len(seen) == 4
    for step, groups in enumerate(seen):
        expected = 0.2 * (1 + math.cos(math.pi * step / 4))
        assert [decays for _, decays in groups] == [False, True]
        assert [decay for decay, _ in groups] == pytest.approx([0.0, expected])
    assert cosine(0, 3, 1) == 3
    assert cosine(0.5, 3, 1) == pytest.approx(2)
    assert cosine(1, 3, 1) == 1


def test_a_live_probe_disturbs_nothing(parts):
    """Every second step the accuracy of each layer; the run is the one that it would be without."""
    labelled = write_images(parts["images"] / "labelled", 24, labelled=True)
    parts["drop_path"] = 0.3
    plain, plain_folder = run(parts, "plain")
    probed, folder = run(parts, "probed", probe=labelled, probe_every=2)
    assert [line["loss"] for line in probed] == [line["loss"] for line in plain]
    assert weights_of(folder) == weights_of(plain_folder)
    assert [line["step"] for line in probed if "linear_best" in line] == [2, 4]
    last = probed[-1]
    layers = [last["linear_layer_01"], last["linear_layer_02"]]
    assert max(layers) == last["linear_best"] == layers[int(last["best_layer"]) - 1]
    assert 0 <= last["knn_layer_02"] <= last["knn_best"] <= 1
    with pytest.raises(DataError, match="is not a folder"):
        run(parts, "other", probe=parts["images"] / "none")
    assert not (parts["images"] / "other").exists()


# --- averaged weights ------------------------------------------------------------------------------------------------


def test_the_average_by_hand():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    average = Average(model, decay=0.5)
    for step, (weight, expected) in enumerate([(2.0, 1.9), (4.0, 4 - (4 - 1.9) * 2 / 11), (8.0, None)]):
        with torch.no_grad():
            model[0].weight.fill_(weight)
            model[1].running_mean.fill_(weight)
        before = float(average.weights["0.weight"])
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))  # .1, 2/11, 3/12, …: the start is soon forgotten
        now = float(average.weights["0.weight"])
        assert now == pytest.approx(decay * before + (1 - decay) * weight)
        assert expected is None or now == pytest.approx(expected)
        assert float(average.weights["1.running_mean"]) == weight  # statistics are no weights
    average.update(1_000_000)
    assert float(average.weights["0.weight"]) == pytest.approx((now + 8) / 2)
    with average.applied():
        assert model[0].weight.item() == pytest.approx((now + 8) / 2)
    assert model[0].weight.item() == 8


def test_the_average_is_saved_and_resumed(parts):
    _, folder = run(parts, "whole", ema=0.9)
    assert 1e-6 < difference(folder, folder / "ema") < difference(folder, Path(parts["model"]))
    assert (folder / "ema/preprocessor_config.json").exists()
    cut = parts["images"] / "cut"
    shutil.copytree(folder, cut)
    shutil.rmtree(cut / "checkpoint-000004")
    shutil.rmtree(cut / "ema")
    run(parts, "cut", ema=0.9, resume="auto")
    assert weights_of(cut / "ema") == weights_of(folder / "ema")
    (cut / "checkpoint-000004/ema.pt").write_bytes(b"noise")
    found = checkpoint.last(cut, torch_engine.check)
    assert found is not None
    assert found[0].name == "checkpoint-000002"


# --- the folder, signals ---------------------------------------------------------------------------------------------


def test_two_runs_in_one_folder(parts):
    """The second is refused while the first writes, whatever it was told; the first goes on to its end."""
    settings = PretrainSettings(**{**parts, "output": parts["images"] / "run"})
    write_json(parts["images"] / "settings.json", settings.to_dict())
    code = (
        "import sys; from beit.train import loop; steps = loop._steps\n"
        "def slow(*arguments): print('inside', flush=True); sys.stdin.read(); steps(*arguments)\n"
        "loop._steps = slow\n"
        "from beit.train.pretrain import pretrain; from beit.train.settings import PretrainSettings, from_dict\n"
        "from beit.core.files import read_json; from pathlib import Path; from beit.data.sources.images import ArrayImages\n"
        "from fixtures_runs import stripes\n"
        "settings = from_dict(PretrainSettings, read_json(sys.argv[1]))\n"
        "pretrain(settings, ArrayImages(*stripes(24), ['flat', 'upright']))\n"
    )
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent / "src"), str(tests)])}
    command = [sys.executable, "-c", code, str(parts["images"] / "settings.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "inside\n"
        with pytest.raises(DataError, match=f"process {first.pid} on .*Wait for it or stop it"):
            run(parts, "run", resume="auto")
        first.communicate(timeout=900)
    assert first.returncode == 0
    folder = parts["images"] / "run"
    assert [line["step"] for line in log_lines(folder)] == [1, 2, 3, 4]
    assert not (folder / LOCK_FILE).exists()
    with pytest.raises(DataError, match="already holds a run"):
        run(parts, "run")


def test_resume_must_and_auto(parts):
    with pytest.raises(TrainingError, match="no checkpoint to continue from"):
        run(parts, "run", resume="must")
    assert not (parts["images"] / "run").exists()
    run(parts, "run", resume="auto")
    history, _ = run(parts, "run", resume="must")
    assert [line["step"] for line in history] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGUSR1, 75), (signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=str
)
def test_told_to_stop_it_saves_and_says_how(parts, monkeypatch, request, signum, code):
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, inherited))
    whole, whole_folder = run(parts, "whole")
    gradients = torch_engine.TorchEngine._gradients

    def told(engine: Any, batch: Any, step: int) -> Any:
        if step == 2:
            os.kill(os.getpid(), signum)
        return gradients(engine, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(torch_engine.TorchEngine, "_gradients", told)
        with pytest.raises(Interrupted, match=f"Stopped by {signum.name} after step 3; saved") as stop:
            run(parts, "run")
    assert stop.value.code == code
    again, folder = run(parts, "run", resume="must")
    assert [line["loss"] for line in again] == [line["loss"] for line in whole]
    assert weights_of(folder) == weights_of(whole_folder)


# --- pixels as target ------------------------------------------------------------------------------------------------


def test_pixels_as_target(parts):
    pixels = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6).sin()
    found = patch_pixels(pixels, 12)  # patches of 2x2 in a grid of 2x3
    assert found.shape == (2, 6, 12)
    patch = pixels[1, :, 2:4, 4:6].reshape(-1)
    torch.testing.assert_close(found[1, 5], (patch - patch.mean()) / (patch.var() + 1e-6).sqrt())
    del parts["tokenizer"]
    parts |= {"target": "pixels", "model": "tiny", "image_size": 12, "learning_rate": 3e-3, "steps": 200}
    history, folder = run(parts, "run", log_every=50, save_every=100, batch_size=24)
    assert history[0]["explained"] < 0.05
    assert history[-1]["explained"] > 0.1
    assert read_json(folder / "config.json")["vocab_size"] == 48
    finetune(FinetuneSettings(images=folder, output=folder.parent / "tuned", model=str(folder), steps=1), IMAGES)
    with pytest.raises(ConfigError, match="needs no tokenizer"):
        run(parts, "other", tokenizer="x")


def test_entropy_by_hand():
    assert entropy(np.array([4, 4, 0, 0])) == pytest.approx(math.log(2))
    assert entropy(np.array([0, 7])) == 0


# --- alarms ----------------------------------------------------------------------------------------------------------


def lines(count: int = 8, **changes: Any) -> list[dict[str, float]]:
    """A log of a run that goes well, but for `changes`; a function gives the value at each step."""
    good = {
        "loss": lambda step: 5 - step / 100,
        "gradient_norm": 1.0,
        "data_wait": 0.1,
        "masked_accuracy": 0.3,
        "commonest_token": 0.05,
        "token_entropy": 4.0,
        "prediction_entropy": 3.0,
        "codes_used": 0.8,
    }
    steps = [10 * (number + 1) for number in range(count)]
    return [
        {
            "step": step,
            **{name: value(step) if callable(value) else value for name, value in {**good, **changes}.items()},
        }
        for step in steps
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, None),
        ({"masked_accuracy": 0.05}, "no more than the commonest token alone gives (5.0%)"),
        ({"token_entropy": 0.3, "prediction_entropy": 0.2}, "few different tokens (entropy 0.30 nats"),
        ({"prediction_entropy": 0.1}, "guesses have collapsed to few tokens"),
        ({"perplexity": 2.0, "codes_used": 0.02}, "Only 2.0% of the codebook is in use"),
        ({"loss": lambda step: 1.0 if step < 40 else 2.0}, "The loss was 1 and is 2 now: the run diverges"),
        ({"data_wait": 0.8}, "80% of the time the model waits for images. Give more --workers"),
        ({"gradient_norm": 0.0}, "The gradient is zero"),
    ],
)
def test_alarms(changes, sentence):
    watch, history, found = Watch(steps=100, warmup=10), [], []
    for line in lines(**changes):
        history.append(line)
        found += watch.look(history)
    assert len(found) == (sentence is not None)  # once, however long it lasts
    assert sentence is None or sentence in found[0]


def test_an_alarm_waits_until_it_can_judge():
    watch = Watch(steps=100, warmup=50)
    history = lines(5, masked_accuracy=0.05)  # in the warm-up
    assert watch.look(history) == []


def test_alarms_are_written_down(parts, capsys):
    parts |= {"steps": 10, "learning_rate": 1e-9, "save_every": 100}
    _, folder = run(parts, "run", warmup=0.0)
    alarms = [json.loads(line) for line in (folder / "alarms.jsonl").read_text().splitlines()]
    assert any("no more than the commonest token" in alarm["alarm"] for alarm in alarms)
    assert f"Alarm at step {alarms[0]['step']}: " in capsys.readouterr().err

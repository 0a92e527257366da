"""Runs that are killed, told to stop, damaged, out of disk space or out of numbers: nothing is lost, and going on gives
what an undisturbed run gives, to the last bit."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures_runs import (
    log_lines,
    refused,
    save_small_model,
    save_tokenizer,
    small_run,
    stripes,
    weights_of,
    write_images,
)
from fixtures_streams import striped

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from beit.checkpoints import read_weights as weight_files
from beit.cli import main
from beit.core.errors import CheckpointError, DataError, Interrupted, TrainingError
from beit.data.sources.images import ArrayImages
from beit.train import checkpoint
from beit.train.finetune import finetune
from beit.train.pretrain import pretrain
from beit.train.settings import FinetuneSettings, PretrainSettings, TokenizerSettings
from beit.train.signals import caught_signals
from beit.train.tokenizer import train_tokenizer
from beit.train.torch import engine as torch_engine
from beit.train.torch import optim as torch_optim
from beit.train.torch import pretrain as torch_pretrain


def trajectory(output: Path) -> list[dict[str, Any]]:
    """The log without its clock."""
    lines = log_lines(output)
    for line in lines:
        assert line.pop("images_per_second") > 0
        assert 0 <= line.pop("data_wait") <= 1
    return lines


def same_state(a: Path, b: Path) -> bool:
    """Whether two checkpoints have the same weights and the same optimiser, bit by bit."""
    first, second = (torch_engine.read(folder / "optimizer.pt")["state"] for folder in (a, b))
    equal = all(torch.equal(first[i][name], second[i][name]) for i in first for name in first[i])
    return weights_of(a) == weights_of(b) and first.keys() == second.keys() and equal


def unfinished(output: Path) -> list[Path]:
    return [path for path in output.rglob("*") if path.name.startswith(".") or path.name.endswith(".tmp")]


# --- killed and stopped, as a user's machine does it -------------------------------------------------------------


# A busy machine may leave this process waiting while the run goes on: before a certain step it waits for us.
_WAITING = """
import sys
from beit.cli import main
from beit.train.torch.engine import TorchEngine

step = TorchEngine.step

def waiting(engine, batch, number, *rest):
    if number == int(sys.argv[1]):
        sys.stdin.read()
    return step(engine, batch, number, *rest)

TorchEngine.step = waiting
sys.exit(main(sys.argv[2:]))
"""


def start(arguments: list[str], waits_at: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "src"}
    command = [sys.executable, "-c", _WAITING, str(waits_at), *arguments]
    root = Path(__file__).parents[2]
    # A session of its own: signals go to all processes of a run, as a terminal or a cluster sends them.
    return subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for_step(process: subprocess.Popen[str], output: Path, step: int) -> None:
    """Until the log has come to `step`."""
    for _ in range(60000):
        log = output / "log.jsonl"
        if log.exists() and log.read_text().count("\n") >= step:
            return
        if process.poll() is not None:
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail(f"step {step} was not reached: {process.communicate()[1][-2000:]}")


@pytest.mark.parametrize(("kind", "signum"), [("folder", signal.SIGTERM), ("array", signal.SIGINT)])
def test_killed_stopped_and_resumed_equals_undisturbed(tmp_path, kind, signum, capsys):
    """SIGKILL at a random moment, --resume, SIGTERM or Ctrl-C, --resume: the same losses and weights."""
    write_images(tmp_path / "images", 40, spread=2 if kind == "folder" else 0)
    arguments = ["pretrain", "--images", str(tmp_path / "images"), "--model", str(save_small_model(tmp_path / "model"))]
    arguments += ["--tokenizer", str(save_tokenizer(tmp_path / "tokenizer")), "--steps", "45", "--batch-size", "8"]
    arguments += [
        "--save-every",
        "5",
        "--log-every",
        "1",
        "--drop-path",
        "0.3",
        "--workers",
        "2",
        "--precision",
        "fp32",
    ]
    expected, output = tmp_path / "expected", tmp_path / "run"
    assert main([*arguments, "--output", str(expected)]) == 0
    arguments += ["--output", str(output)]

    process = start(arguments, waits_at=30)
    wait_for_step(process, output, 6 + int(np.random.default_rng().integers(20)))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (output / "model.safetensors").exists()
    assert checkpoint.list_checkpoints(output)

    process = start([*arguments, "--resume"], waits_at=40)
    wait_for_step(process, output, 32)
    os.killpg(process.pid, signum)
    out, error = process.communicate(timeout=900)
    assert process.returncode == (130 if signum == signal.SIGINT else 75)  # 75: put it in the queue again
    saved = checkpoint.list_checkpoints(output)[-1]
    step = json.loads((saved / "state.json").read_text())["step"]
    assert 32 <= step < 45
    assert f"Stopped by {signum.name} after step {step}; saved. Go on with --resume --output {output}." in error
    assert "Traceback" not in error
    assert out == ""

    assert main([*arguments, "--resume"]) == 0
    assert trajectory(output) == trajectory(expected)
    assert len(trajectory(output)) == 45
    assert weights_of(output) == weights_of(expected)
    assert same_state(output / "checkpoint-000045", expected / "checkpoint-000045")
    assert not unfinished(output)

    # Once more, after the end: nothing changes.
    before, log = weights_of(output), log_lines(output)
    capsys.readouterr()
    assert main([*arguments, "--resume"]) == 0
    assert "Saved" in capsys.readouterr().out
    assert weights_of(output) == before
    assert log_lines(output) == log


def test_a_closed_terminal_stops_a_run_once_however_often_it_says_so(request):
    outside = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, outside))
    with caught_signals() as received:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)  # the shell sends one, the system another
        assert received == [signal.SIGHUP, signal.SIGHUP]
    assert Interrupted(signal.SIGHUP, "").code == 129
    inherited = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with caught_signals() as received:
            signal.raise_signal(signal.SIGHUP)
            assert received == []
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, inherited)


@pytest.mark.parametrize("output", ["/dev/null", "/dev/null/x", "file/x/y", "file", "x" * 300, "link"])
def test_an_output_that_cannot_be_a_folder_is_refused(tmp_path, capsys, output):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    write_images(tmp_path / "images", 4, labelled=True)
    arguments = ["finetune", "--images", tmp_path / "images", "--model", "tiny", "--steps", "1", "--workers", "0"]
    refused(capsys, [*arguments, "--output", tmp_path / output], "folder for the result")


def test_a_second_signal_is_not_held_back(request):
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, inherited))
    before = signal.getsignal(signal.SIGINT)
    with caught_signals() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# --- resuming, within this process -------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path) -> dict[str, Any]:
    return small_run(tmp_path, save_every=2, steps=6, learning_rate=1e-2)


IMAGES = ArrayImages(*stripes(24), ["flat", "upright"])


@pytest.mark.parametrize("kind", ["tokenizer", "finetune"])
def test_the_other_runs_resume_exactly_too(tmp_path, kind):
    """Gumbel noise, mixing, erasing and drop path of a step do not depend on the steps before it."""

    def run(output: Path, resume: bool = False) -> None:
        shared: dict[str, Any] = {
            "images": tmp_path,
            "output": output,
            "batch_size": 8,
            "precision": "fp32",
            "resume": "auto" if resume else "never",
        }
        shared |= {"steps": 6, "log_every": 1, "save_every": 3}
        if kind == "tokenizer":
            train_tokenizer(TokenizerSettings(**shared, image_size=8, factor=2, vocab_size=8, width=8), IMAGES)
        else:
            model = {"model": str(tmp_path / "model"), "drop_path": 0.5, "mixup": 0.8, "cutmix": 1.0, "erase": 0.5}
            finetune(FinetuneSettings(**shared, **model), IMAGES)

    save_small_model(tmp_path / "model")
    run(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoint-000006")
    (tmp_path / "cut/model.safetensors").unlink()
    with open(tmp_path / "cut/log.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # cut in the middle of a line
    run(tmp_path / "cut", resume="auto")
    assert trajectory(tmp_path / "cut") == trajectory(tmp_path / "whole")
    assert same_state(tmp_path / "cut/checkpoint-000006", tmp_path / "whole/checkpoint-000006")
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_resuming_with_other_settings_is_refused(parts):
    pretrain(PretrainSettings(**parts), IMAGES)
    changed = {**parts, "resume": "auto", "learning_rate": 3e-3, "seed": 4, "log_every": 5}
    with pytest.raises(TrainingError) as error:
        pretrain(PretrainSettings(**changed), IMAGES)
    assert "learning_rate: 0.01 then, 0.003 now" in str(error.value)
    assert "seed: 0 then, 4 now" in str(error.value)
    assert "log_every" not in str(error.value)
    with pytest.raises(DataError, match=r"already holds a run\. Go on with it: --resume --output"):
        pretrain(PretrainSettings(**parts), IMAGES)


# --- another length, another number of readers --------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    """`beit pretrain` on 24 images, but for --output and --steps."""
    folder = tmp_path_factory.mktemp("command")
    values = {"images": write_images(folder / "images", 24), "tokenizer": save_tokenizer(folder / "tokenizer")}
    values |= {"model": save_small_model(folder / "model"), "batch-size": 8, "learning-rate": 1e-2, "save-every": 2}
    values |= {"min-learning-rate": 0, "log-every": 1, "workers": 0, "precision": "fp32", "warmup": 0}
    return ["pretrain", *(str(text) for name, value in values.items() for text in (f"--{name}", value))]


def image_numbers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[int]]]:
    """Notes (step, numbers of the images) whenever a batch is made."""
    from beit.data.order import Order

    seen: list[tuple[int, list[int]]] = []
    share = Order.share

    def noted(self: Order, step: int, rank: int, world: int) -> Any:
        found = share(self, step, rank, world)
        seen.append((step, found[1].tolist()))
        return found

    monkeypatch.setattr(Order, "share", noted)
    return seen


@pytest.mark.parametrize("length", [["--steps", "8"], ["--epochs", "2.667"]])
def test_a_finished_run_goes_on_with_more_steps(command, tmp_path, caplog, monkeypatch, length):
    seen = image_numbers(monkeypatch)
    long, short = tmp_path / "long", tmp_path / "short"
    assert main([*command, "--output", str(long), *length]) == 0
    wanted = seen[:]
    seen.clear()
    caplog.clear()
    assert main([*command, "--output", str(short), "--steps", "4"]) == 0
    first = trajectory(short)
    assert "The run was to end" not in caplog.text
    assert main([*command, "--output", str(short), *length, "--resume", "must"]) == 0
    assert seen == wanted  # the order of the images is that of a run that was as long from the start
    assert "The run was to end after 4 steps, now after 8. It goes on after step 4" in caplog.text
    # A cosine from 0.01 to 0: a half of a half-wave in the fourth of four steps, in the middle at the fifth of eight.
    assert "the learning rate was 0.00146 in the last step and is 0.005 in the next" in caplog.text
    assert trajectory(short)[:4] == first
    assert [line["learning_rate"] for line in trajectory(short)[4:]] == [
        line["learning_rate"] for line in trajectory(long)[4:]
    ]
    assert weights_of(short) != weights_of(long)
    assert json.loads((short / "settings.json").read_text())["resume"] == "must"
    assert [path.name for path in checkpoint.list_checkpoints(short)] == ["checkpoint-000006", "checkpoint-000008"]

    # The same once more: nothing has changed, and nothing is said.
    caplog.clear()
    assert main([*command, "--output", str(short), *length, "--resume"]) == 0
    assert not caplog.text


def test_a_run_may_be_cut_short_but_not_undone(command, tmp_path, caplog, capsys):
    output = tmp_path / "run"
    assert main([*command, "--output", str(output), "--steps", "4"]) == 0
    weights = weights_of(output)
    refused(
        capsys,
        [*command, "--output", output, "--steps", "3", "--resume"],
        "has done 4 steps, more than the 3 that the run is to have now. Give at least --steps 4, or another output folder.",
    )
    assert weights_of(output) == weights
    shutil.rmtree(output / "checkpoint-000004")
    (output / "model.safetensors").unlink()
    caplog.clear()
    assert main([*command, "--output", str(output), "--steps", "2", "--resume"]) == 0
    assert "was to end after 4 steps; it ends after step 2 now, in the middle of its schedule" in caplog.text
    assert weights_of(output) == weights_of(output / "checkpoint-000002")
    assert [line["step"] for line in log_lines(output)] == [1, 2]


def test_another_number_of_processes_is_said(command, tmp_path, caplog):
    """The same with real processes: test_distributed.py."""
    output = tmp_path / "run"
    assert main([*command, "--output", str(output), "--steps", "4"]) == 0
    log, weights = trajectory(output), weights_of(output)
    shutil.rmtree(output / "checkpoint-000004")
    rewrite_json(output / "checkpoint-000002/state.json", processes=2)
    checkpoint.seal(output / "checkpoint-000002")
    caplog.clear()
    assert main([*command, "--output", str(output), "--steps", "4", "--resume", "must"]) == 0
    assert (
        "checkpoint-000002 was written by 2 process(es), now there are 1. Each step has the same images" in caplog.text
    )
    assert (trajectory(output), weights_of(output)) == (log, weights)
    assert json.loads((output / "checkpoint-000004/state.json").read_text())["processes"] == 1


def test_other_images_are_refused(command, tmp_path, capsys):
    output = tmp_path / "run"
    assert main([*command, "--output", str(output), "--steps", "2"]) == 0
    images = Path(command[command.index("--images") + 1])
    shutil.copy(images / "000.png", images / "zzz.png")
    try:
        refused(
            capsys, [*command, "--output", output, "--steps", "4", "--resume"], "their order or their classes are not"
        )
    finally:
        (images / "zzz.png").unlink()


def test_a_run_of_version_0_1_says_its_length_in_its_settings(command, tmp_path, caplog):
    output = tmp_path / "run"
    assert main([*command, "--output", str(output), "--epochs", "1"]) == 0
    for folder in checkpoint.list_checkpoints(output):  # as 0.1 wrote them
        state = json.loads((folder / "state.json").read_text())
        for name in ("files", "checksum", "steps"):
            del state[name]
        state["data"] += f", {state.pop('processes')} processes"
        (folder / "state.json").write_text(json.dumps(state))
    caplog.clear()
    assert main([*command, "--output", str(output), "--epochs", "1", "--resume"]) == 0
    assert not caplog.text
    assert main([*command, "--output", str(output), "--steps", "5", "--resume"]) == 0
    assert "was to end after 3 steps, now after 5" in caplog.text


def test_a_stream_read_by_other_workers_goes_on_when_that_is_allowed(command, tmp_path, caplog, capsys):
    for shard in range(4):
        striped(tmp_path / f"{shard}.tar", 6, seed=shard)
    command = [*command, "--images", str(tmp_path / "{0..3}.tar"), "--shuffle-buffer", "6"]
    output = tmp_path / "run"
    assert main([*command, "--output", str(output), "--steps", "4"]) == 0
    more = [*command, "--output", output, "--steps", "6", "--resume", "--workers", "2"]
    refused(capsys, more, "the order cannot be kept. Use as many as before (--workers 1)", "--allow-inexact-resume")
    assert [line["step"] for line in log_lines(output)] == [1, 2, 3, 4]
    caplog.clear()
    assert main([str(argument) for argument in [*more, "--allow-inexact-resume"]]) == 0
    assert "was read by 1 process(es) with 1 worker(s) each; now there are 1 with 2" in caplog.text
    assert "some images come twice in this pass and others not at all" in caplog.text
    assert [line["step"] for line in log_lines(output)] == [1, 2, 3, 4, 5, 6]


def test_resuming_where_nothing_is_starts(parts):
    history = pretrain(PretrainSettings(**parts, resume="auto"), IMAGES)
    assert [line["step"] for line in history] == [1, 2, 3, 4, 5, 6]
    # A run that died before its first checkpoint starts again, and its log with it.
    output = parts["output"]
    for folder in checkpoint.list_checkpoints(output):
        shutil.rmtree(folder)
    (output / "config.json").unlink()  # with it, the folder would be a finished run, and not be trained over
    again = pretrain(PretrainSettings(**parts, resume="auto"), IMAGES)
    assert [line["loss"] for line in again] == [line["loss"] for line in history]
    assert len(log_lines(output)) == 6


@pytest.mark.parametrize("victim", ["model.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "noise"])
def test_a_damaged_checkpoint_is_passed_over(parts, victim, damage):
    output = parts["output"]
    pretrain(PretrainSettings(**parts), IMAGES)
    weights, log = weights_of(output), trajectory(output)
    path = output / "checkpoint-000006" / victim
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))
    else:
        path.unlink()
    found = checkpoint.last(output, torch_engine.check)
    assert found is not None
    assert found[0].name == "checkpoint-000004"
    assert found[1]["step"] == 4
    pretrain(PretrainSettings(**parts, resume="auto"), IMAGES)
    assert weights_of(output) == weights
    assert trajectory(output) == log
    assert checkpoint.last(output, torch_engine.check)[0].name == "checkpoint-000006"


def rewrite_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def spoil_weights(folder: Path, value: float) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["beit.encoder.layer.0.layernorm_before.weight"][0] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def spoil_moments(folder: Path, change: Any) -> None:
    saved = torch.load(folder / "optimizer.pt")
    first = saved["state"][0]
    first["exp_avg_sq"] = change(first["exp_avg_sq"])
    torch.save(saved, folder / "optimizer.pt")


def spoil_average(folder: Path, change: Any) -> None:
    saved = torch.load(folder / "ema.pt")
    torch.save(change(saved), folder / "ema.pt")


DAMAGES: dict[str, Any] = {
    "config is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "config has words for numbers": lambda folder: rewrite_json(folder / "config.json", hidden_size="wide"),
    "config of another model": lambda folder: rewrite_json(folder / "config.json", hidden_size=64),
    "config is gone": lambda folder: (folder / "config.json").unlink(),
    "processor is cut": lambda folder: (folder / "preprocessor_config.json").write_text('{"size"'),
    "processor has a list for a mean": lambda folder: rewrite_json(
        folder / "preprocessor_config.json", image_mean=[[1]]
    ),
    "processor is gone": lambda folder: (folder / "preprocessor_config.json").unlink(),
    "a weight is NaN": lambda folder: spoil_weights(folder, float("nan")),
    "a weight is infinite": lambda folder: spoil_weights(folder, float("-inf")),
    "the step is off by one": lambda folder: rewrite_json(folder / "state.json", step=5),
    "the step is true": lambda folder: rewrite_json(folder / "state.json", step=True),
    "the settings are a number": lambda folder: rewrite_json(folder / "state.json", settings=3),
    "moments of another shape": lambda folder: spoil_moments(folder, lambda moments: moments[..., :1].clone()),
    "moments are NaN": lambda folder: spoil_moments(folder, lambda moments: moments * float("nan")),
    "moments are words": lambda folder: spoil_moments(folder, lambda moments: "none"),
    "the average is cut": lambda folder: (folder / "ema.pt").write_bytes((folder / "ema.pt").read_bytes()[:900]),
    "the average is empty": lambda folder: spoil_average(folder, lambda saved: {}),
    "the average is NaN": lambda folder: spoil_average(
        folder, lambda saved: {name: tensor * float("nan") for name, tensor in saved.items()}
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[str, Any]:
    """A finished run with averaged weights, and its settings."""
    parts = small_run(tmp_path_factory.mktemp("finished"), save_every=2, steps=6, learning_rate=1e-2, ema=0.9, keep=1)
    pretrain(PretrainSettings(**{**parts, "keep": 2}), IMAGES)
    return parts


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_damaged_an_older_checkpoint_takes_its_place(finished, tmp_path, caplog, damage, sealed):
    """`sealed`: with checksums; without them it is a checkpoint of version 0.1. Only one is kept, and it is never the damaged."""
    output = tmp_path / "run"
    shutil.copytree(finished["output"], output)
    newest = output / "checkpoint-000006"
    if not sealed:
        for folder in checkpoint.list_checkpoints(output):
            state = json.loads((folder / "state.json").read_text())
            del state["files"], state["checksum"]
            (folder / "state.json").write_text(json.dumps(state))
    DAMAGES[damage](newest)
    pretrain(PretrainSettings(**{**finished, "output": output, "resume": "must"}), IMAGES)
    assert "passed over for an older one, checkpoint-000004" in caplog.text
    assert "checkpoint-000006" in caplog.text
    assert weights_of(output) == weights_of(finished["output"])
    assert weights_of(output / "ema") == weights_of(finished["output"] / "ema")
    assert trajectory(output) == trajectory(finished["output"])
    assert [path.name for path in checkpoint.list_checkpoints(output)] == ["checkpoint-000006"]
    assert checkpoint.last(output, torch_engine.check)[0] == newest


def test_a_whole_checkpoint_is_not_doubted(finished, tmp_path, caplog):
    shutil.copytree(finished["output"], tmp_path / "run")
    pretrain(PretrainSettings(**{**finished, "output": tmp_path / "run", "resume": "must"}), IMAGES)
    assert not caplog.text
    assert weights_of(tmp_path / "run") == weights_of(finished["output"])


def test_the_last_good_checkpoint_stays_while_a_newer_one_is_damaged(parts):
    """With `keep` 1 the next save, of a step between the two, must not remove itself."""
    output = parts["output"]
    pretrain(PretrainSettings(**{**parts, "keep": 2}), IMAGES)
    (output / "checkpoint-000006/optimizer.pt").write_bytes(b"")
    written = checkpoint.save(
        output, 5, lambda folder: shutil.copytree(output / "checkpoint-000004", folder, dirs_exist_ok=True), 1
    )
    assert checkpoint.list_checkpoints(output) == [written]


def test_half_written_files_of_a_killed_run_are_cleared(parts):
    output = parts["output"]
    pretrain(PretrainSettings(**parts), IMAGES)
    for name in (".checkpoint-000008.tmp", ".checkpoint-000002.old.tmp"):
        (output / name).mkdir()
        (output / name / "model.safetensors").write_bytes(b"half")
    (output / ".model.safetensors.ab12cd_9.tmp").write_bytes(b"half")
    (output / ".mine.tmp").write_bytes(b"not ours")
    pretrain(PretrainSettings(**parts, resume="must"), IMAGES)
    assert [path.name for path in unfinished(output)] == [".mine.tmp"]


JUNK = [
    "5",
    "[1, 2]",
    '{"step": "one"}',
    '{"loss": 1}',
    '{"step": 1, "loss": "low"}',
    "[" * 100_000,
    "\ufffd",
    '{"step": 1' + "0" * 5000,
]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_lines_that_are_none_of_a_log_are_dropped_and_counted(parts, caplog, junk):
    output = parts["output"]
    pretrain(PretrainSettings(**parts), IMAGES)
    log = trajectory(output)
    lines = (output / "log.jsonl").read_text().splitlines()
    (output / "log.jsonl").write_text("\n".join([lines[0], junk, *lines[1:]]) + "\n")
    history = pretrain(PretrainSettings(**parts, resume="must"), IMAGES)
    assert "log.jsonl: 1 lines are none of a log and are dropped, line 2 first" in caplog.text
    assert trajectory(output) == log
    assert len(history) == 6


def test_no_readable_checkpoint_is_an_error(parts):
    output = parts["output"]
    pretrain(PretrainSettings(**parts), IMAGES)
    for folder in checkpoint.list_checkpoints(output):
        (folder / "optimizer.pt").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="No checkpoint can be read") as error:
        pretrain(PretrainSettings(**parts, resume="auto"), IMAGES)
    assert "checkpoint-000004" in str(error.value)
    assert "checkpoint-000006" in str(error.value)
    assert checkpoint.last(output / "elsewhere", torch_engine.check) is None


# --- full disks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["torch.save", "torch.save (RuntimeError)", "rename", "weights", "mkdir"])
def test_a_full_disk_leaves_earlier_checkpoints(parts, monkeypatch, where):
    output = parts["output"]
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*args: Any, **keywords: Any) -> Any:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0") if "Runtime" in where else full

    real_save = checkpoint.save

    def save(folder: Path, step: int, *rest: Any) -> Path:
        if step == 4:  # from here on the disk is full
            if "torch.save" in where:
                monkeypatch.setattr(torch, "save", refuse)
            elif where == "rename":
                monkeypatch.setattr(os, "replace", refuse)
            elif where == "weights":
                monkeypatch.setattr("beit.models.torch.pretrained.save_safetensors", refuse)
            else:
                monkeypatch.setattr(Path, "mkdir", refuse)
        return real_save(folder, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        with pytest.raises(CheckpointError, match="could not be written") as error:
            pretrain(PretrainSettings(**parts), IMAGES)
    monkeypatch.undo()
    assert "space" in str(error.value)
    assert [path.name for path in checkpoint.list_checkpoints(output)] == ["checkpoint-000002"]
    assert not unfinished(output)
    # With space again, it goes on.
    pretrain(PretrainSettings(**parts, resume="auto"), IMAGES)
    undisturbed = {**parts, "output": output.parent / "undisturbed"}
    pretrain(PretrainSettings(**undisturbed), IMAGES)
    assert weights_of(output) == weights_of(undisturbed["output"])
    assert trajectory(output) == trajectory(undisturbed["output"])


@pytest.mark.parametrize(("limit", "victim"), [(30_000, "model.safetensors"), (2_500, "The log in")])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_files_that_the_system_refuses_to_write(parts, limit, victim, capsys):
    """The real thing: the kernel lets no file grow beyond a limit."""
    parts = {**parts, "steps": 40, "save_every": 39}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CheckpointError) as error:
            pretrain(PretrainSettings(**parts), IMAGES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert victim in str(error.value)
    assert "could not be written" in str(error.value)
    assert not unfinished(parts["output"])
    assert pretrain(PretrainSettings(**parts, resume="auto"), IMAGES)[-1]["step"] == 40
    assert len(log_lines(parts["output"])) == 40


def test_a_lock_that_cannot_be_written_hides_no_error(tmp_path):
    """Closing its file would try once more what the full disk has refused."""
    from beit.train.run import locked

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(CheckpointError, match="the reason"), locked(tmp_path / "run"):
            raise CheckpointError("the reason")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not unfinished(tmp_path)


def test_a_clock_that_jumps_changes_nothing(command, tmp_path, monkeypatch):
    assert main([*command, "--output", str(tmp_path / "whole"), "--steps", "4"]) == 0
    clock, jumps = time.time, np.random.default_rng(0)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: clock() + jumps.uniform(-1e5, 1e5))
        assert main([*command, "--output", str(tmp_path / "run"), "--steps", "4"]) == 0
    assert trajectory(tmp_path / "run") == trajectory(tmp_path / "whole")  # looks at rates and waits, too


# --- numbers that are none ---------------------------------------------------------------------------------------


def all_finite(folder: Path) -> bool:
    return all(np.isfinite(array).all() for array in weight_files.read_tensors(folder / "model.safetensors").values())


def test_a_run_that_diverges_stops_and_says_where(parts):
    output = parts["output"]
    parts |= {"learning_rate": 1e30, "warmup": 0.5, "clip": 0.0, "save_every": 1, "keep": 9}
    with pytest.raises(TrainingError) as error:
        pretrain(PretrainSettings(**parts), IMAGES)
    assert "not finite at step 3" in str(error.value)  # step 1 has the rate 0, step 2 throws the weights away
    assert "learning rate 6.7e+29" in str(error.value)
    assert str(output / "checkpoint-000002") in str(error.value)
    assert "lower learning rate" in str(error.value)
    found = checkpoint.list_checkpoints(output)
    assert [path.name for path in found] == ["checkpoint-000001", "checkpoint-000002"]
    assert all(all_finite(folder) for folder in found)
    assert not (output / "model.safetensors").exists()


def test_a_gradient_that_is_not_finite_reaches_no_checkpoint(parts, monkeypatch):
    """The loss may still be finite when its gradient is not; one step later all weights would be NaN."""
    calls = 0

    def spoil(gradient: Any) -> Any:
        nonlocal calls
        calls += 1
        return gradient * float("nan") if calls == 4 else gradient

    def adamw(groups: Any, beta2: float) -> Any:
        groups[0]["params"][0].register_hook(spoil)
        return torch_optim.adamw(groups, beta2)

    monkeypatch.setattr(torch_pretrain, "adamw", adamw)
    with pytest.raises(TrainingError, match="not finite at step 4"):
        pretrain(PretrainSettings(**parts), IMAGES)
    found = checkpoint.list_checkpoints(parts["output"])
    assert [path.name for path in found] == ["checkpoint-000002"]
    assert all_finite(found[0])
    monkeypatch.undo()
    pretrain(PretrainSettings(**parts, resume="auto"), IMAGES)  # the trouble has gone: it goes on from there
    assert all_finite(parts["output"])


def test_diverging_before_the_first_checkpoint(parts):
    parts |= {"learning_rate": 1e30, "warmup": 0.0}
    with pytest.raises(TrainingError, match="There was no checkpoint yet"):
        pretrain(PretrainSettings(**parts), IMAGES)
    assert not checkpoint.list_checkpoints(parts["output"])

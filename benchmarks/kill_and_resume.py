"""Runs killed by SIGKILL at random moments and resumed: the log of losses must be that of an undisturbed run.

    python benchmarks/kill_and_resume.py --kills 20
    python benchmarks/kill_and_resume.py --kills 20 --damage --kinds pretrain finetune

Pre-training on a folder of images and on tar shards, and fine-tuning, with two loader processes; a small model, so that it
takes minutes. Only the main process is killed, as the kernel does when memory runs out: its workers must not disturb the run
that follows at once. With --damage the newest checkpoint is damaged after each kill, as long as an older one is left.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from beit import BeitConfig, BeitForMaskedImageModeling
from beit.tokenizers import DalleConfig, DalleTokenizer

KINDS = ("pretrain", "stream", "finetune")
RESULTS = ("model.safetensors", "ema/model.safetensors")


def prepare(folder: Path) -> None:
    """Pictures of noise in two sizes as files, as tar shards and in two classes; a tokenizer, a model."""
    rng = np.random.default_rng(0)
    for name in ("images", "classes/a", "classes/b"):
        (folder / name).mkdir(parents=True)
    for shard in range(4):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(50):
                size = (18 + number % 3, 20, 3)
                picture = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(picture, "png")
                name = f"{50 * shard + number:04}.png"
                (folder / "images" / name).write_bytes(picture.getvalue())
                (folder / "classes" / "ab"[number % 2] / name).write_bytes(picture.getvalue())
                info = tarfile.TarInfo(name)
                info.size = len(picture.getvalue())
                tar.addfile(info, io.BytesIO(picture.getvalue()))
    torch.manual_seed(0)
    DalleTokenizer(DalleConfig(groups=3, blocks_per_group=1, n_hid=8, n_init=8, vocab_size=16)).save_pretrained(
        folder / "tokenizer"
    )
    config = BeitConfig(
        image_size=16,
        patch_size=4,
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=64,
        vocab_size=16,
        use_mask_token=True,
        use_shared_relative_position_bias=True,
    )
    BeitForMaskedImageModeling(config).save_pretrained(folder / "model")


def start(folder: Path, kind: str, output: Path, steps: int, *more: str) -> subprocess.Popen[bytes]:
    """`beit pretrain` or `beit finetune`, silent."""
    values: dict[str, Any] = {
        "output": output,
        "steps": steps,
        "model": folder / "model",
        "workers": 2,
        "batch-size": 8,
    }
    values |= {"save-every": 20, "log-every": 5, "ema": 0.99, "learning-rate": 1e-3, "drop-path": 0.1}
    if kind == "finetune":
        values |= {"images": folder / "classes", "mixup": 0.8, "cutmix": 1.0, "erase": 0.25, "image-size": 16}
    else:
        images = folder / ("images" if kind == "pretrain" else "{0..3}.tar")
        values |= {"images": images, "tokenizer": folder / "tokenizer", "shuffle-buffer": 64}
    arguments = [str(text) for name, value in values.items() for text in (f"--{name}", value)]
    command = [sys.executable, "-m", "beit.cli", "finetune" if kind == "finetune" else "pretrain", *arguments, *more]
    with open(output.with_suffix(".txt"), "ab") as log:
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)


# --- damage ----------------------------------------------------------------------------------------------------------


def _json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _weights(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["beit.encoder.layer.0.layernorm_before.weight"][0] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _saved(path: Path, change: Callable[[Any], Any]) -> None:
    torch.save(change(torch.load(path)), path)


def _moments(saved: Any, change: Callable[[Any], Any]) -> Any:
    saved["state"][0]["exp_avg"] = change(saved["state"][0]["exp_avg"])
    return saved


# What it is → what it does to a checkpoint's folder. A run sees these even without the checksums.
DAMAGES: dict[str, Callable[[Path], object]] = {
    "config.json: no object": lambda folder: (folder / "config.json").write_text("[]"),
    "config.json: another width": lambda folder: _json(folder / "config.json", hidden_size=64),
    "config.json: a word": lambda folder: _json(folder / "config.json", num_hidden_layers="two"),
    "preprocessor_config.json: cut": lambda folder: (folder / "preprocessor_config.json").write_text('{"size": {'),
    "preprocessor_config.json: a list": lambda folder: _json(folder / "preprocessor_config.json", image_mean=[[1]]),
    "model.safetensors: NaN": lambda folder: _weights(folder, float("nan")),
    "model.safetensors: infinite": lambda folder: _weights(folder, float("inf")),
    "state.json: another step": lambda folder: _json(folder / "state.json", step=7),
    "state.json: a list": lambda folder: (folder / "state.json").write_text("[]"),
    "ema.pt: NaN": lambda folder: _saved(folder / "ema.pt", lambda found: {n: t * np.nan for n, t in found.items()}),
    "ema.pt: empty": lambda folder: _saved(folder / "ema.pt", lambda found: {}),
    "optimizer.pt: another shape": lambda folder: _saved(
        folder / "optimizer.pt", lambda found: _moments(found, lambda moments: moments[..., :1].clone())
    ),
    "optimizer.pt: NaN": lambda folder: _saved(
        folder / "optimizer.pt", lambda found: _moments(found, lambda moments: moments * np.nan)
    ),
    "optimizer.pt: no groups": lambda folder: _saved(folder / "optimizer.pt", lambda found: {"state": found["state"]}),
}


def damage(checkpoint: Path, rng: random.Random) -> str:
    """Damage a checkpoint in a random way; half of the time without its checksums, as version 0.1 wrote them."""
    path = rng.choice(sorted(path for path in checkpoint.iterdir() if path.is_file()))
    what = rng.choice([*DAMAGES, "cut", "cut", "gone", "gone", "noise", "noise"])
    if what == "cut":
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size - 2)])
    elif what == "gone":
        path.unlink()
    elif what == "noise":
        noise = bytearray(path.read_bytes())
        place = rng.randrange(len(noise))
        noise[place] ^= 1 << rng.randrange(8)  # a single bit
        path.write_bytes(noise)
    else:
        if rng.random() < 0.5:
            state = json.loads((checkpoint / "state.json").read_text())
            (checkpoint / "state.json").write_text(
                json.dumps({k: v for k, v in state.items() if k not in ("files", "checksum")})
            )
            what = f"{what}, without checksums"
        DAMAGES[what.partition(", without")[0]](checkpoint)
        return what
    return f"{path.name}: {what if what != 'noise' else 'a bit'}"


# --- the comparison --------------------------------------------------------------------------------------------------


def lines_of(output: Path) -> list[dict[str, float]]:
    """The log without its clock."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")} for line in lines]


def steps_of(output: Path) -> list[Path]:
    """The checkpoints, oldest first."""
    return sorted(output.glob("checkpoint-*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--damage",
        action="store_true",
        help="damage the newest checkpoint after each kill; --kills then counts those that were followed by damage",
    )
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        for kind in arguments.kinds:
            compare(folder, kind, arguments, rng)


def compare(folder: Path, kind: str, arguments: argparse.Namespace, rng: random.Random) -> None:
    """One run undisturbed, one killed; says whether they are the same, and ends the script if not."""
    whole, killed = folder / f"{kind} whole", folder / f"{kind} killed"
    text = killed.with_suffix(".txt")
    began = time.perf_counter()
    process = start(folder, kind, whole, arguments.steps)
    while not (whole / "log.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    begins = time.perf_counter() - began  # the first step
    assert process.wait() == 0, whole.with_suffix(".txt").read_text()[-2000:]
    span = time.perf_counter() - began - begins
    places: list[int] = []
    damages: Counter[str] = Counter()
    while (sum(damages.values()) if arguments.damage else len(places)) < arguments.kills:
        process = start(folder, kind, killed, arguments.steps, "--resume", "auto")
        # From before the first step to well after several checkpoints.
        time.sleep(rng.uniform(0.5, 1.3 * begins + span / arguments.kills))
        if process.poll() is not None:
            print(
                f"  {kind}: the run ended by itself after {len(places)} kills; for more, give more --steps", flush=True
            )
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = steps_of(killed)
        places.append(int(found[-1].name.rpartition("-")[2]) if found else 0)
        if (
            arguments.damage and len(found) > 1
        ):  # the older one is whole: a damaged one goes with the next that is written
            what = damage(found[-1], rng) if not (found[-1] / "damaged").exists() else ""
            if what:
                damages[what] += 1
                (found[-1] / "damaged").touch()
                print(f"  {kind}, kill {len(places)}, {found[-1].name}: {what}", flush=True)
    code = start(folder, kind, killed, arguments.steps, "--resume", "auto").wait()
    assert code == 0, text.read_text()[-2000:]
    first, second = lines_of(whole), lines_of(killed)
    weights = [[(run / place).read_bytes() for place in RESULTS] for run in (whole, killed)]
    same = first == second and weights[0] == weights[1]
    left = [path.name for path in killed.rglob(".*") if path.name.endswith(".tmp")]
    said = text.read_text().count("A checkpoint is passed over")
    print(
        f"{kind}: {len(first)} lines over {arguments.steps} steps, {len(places)} kills, resumed at {places}, "
        f"{sum(damages.values())} checkpoints damaged in {len(damages)} ways, passed over {said} times, {len(left)} temporary "
        f"files left: {'the same to the bit, weights and averages too' if same else 'DIFFERENT'}",
        flush=True,
    )
    said_all = text.read_text()
    if "Traceback" in said_all:  # of a worker, perhaps, whose main process was killed while it sent a batch
        print(f"  {kind}: a traceback was printed:\n{said_all[said_all.index('Traceback') :][:3000]}", flush=True)
    if not same or left:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

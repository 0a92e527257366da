"""Pre-training killed by SIGKILL at random moments and resumed: the log of losses must be that of an undisturbed run.

    python benchmarks/kill_and_resume.py --kills 20

On a folder of images and on tar shards, with two loader processes; a small model, so that it takes minutes. Only the main
process is killed, as the kernel does when memory runs out: its workers must not disturb the run that follows at once.
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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from beit import BeitConfig, BeitForMaskedImageModeling
from beit.tokenizers import DalleConfig, DalleTokenizer


def prepare(folder: Path) -> dict[str, Any]:
    """Pictures of noise in two sizes as files and as tar shards, a tokenizer, a model."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for shard in range(4):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(50):
                size = (18 + number % 3, 20, 3)
                picture = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(picture, "png")
                name = f"{50 * shard + number:04}.png"
                (folder / "images" / name).write_bytes(picture.getvalue())
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
    return {"folder": str(folder / "images"), "stream": str(folder / "{0..3}.tar")}


def start(folder: Path, images: str, output: Path, steps: int, *more: str) -> subprocess.Popen[bytes]:
    """`beit pretrain`, silent."""
    arguments = ["pretrain", "--images", images, "--output", str(output), "--steps", str(steps)]
    arguments += ["--tokenizer", str(folder / "tokenizer"), "--model", str(folder / "model"), "--workers", "2"]
    arguments += [
        "--batch-size",
        "8",
        "--save-every",
        "20",
        "--log-every",
        "5",
        "--ema",
        "0.99",
        "--learning-rate",
        "1e-3",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "beit.cli", *arguments, "--shuffle-buffer", "64", *more]
    with open(output.with_suffix(".txt"), "ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def lines_of(output: Path) -> list[dict[str, float]]:
    """The log without its clock."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")} for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind, images in prepare(folder).items():
            whole, killed = folder / f"{kind} whole", folder / f"{kind} killed"
            began = time.perf_counter()
            assert start(folder, images, whole, arguments.steps).wait() == 0, whole.with_suffix(".txt").read_text()[
                -2000:
            ]
            span = time.perf_counter() - began
            places: list[int] = []
            while len(places) < arguments.kills:
                process = start(folder, images, killed, arguments.steps, "--resume", "auto")
                # From before the first step to well after several checkpoints.
                time.sleep(rng.uniform(0.5, 3 + 1.5 * span / arguments.kills))
                if process.poll() is not None:
                    text = killed.with_suffix(".txt").read_text()[-2000:]
                    raise SystemExit(
                        f"{kind}: the run ended by itself after {len(places)} kills; more --steps?\n{text}"
                    )
                process.send_signal(signal.SIGKILL)
                process.wait()
                found = sorted(killed.glob("checkpoint-*"))
                places.append(int(found[-1].name.rpartition("-")[2]) if found else 0)
            code = start(folder, images, killed, arguments.steps, "--resume", "auto").wait()
            assert code == 0, killed.with_suffix(".txt").read_text()[-2000:]
            first, second = lines_of(whole), lines_of(killed)
            weights = [(run / "model.safetensors").read_bytes() for run in (whole, killed)]
            same = first == second and weights[0] == weights[1]
            print(
                f"{kind}: {len(first)} lines over {arguments.steps} steps, {len(places)} kills, resumed at {places}: "
                f"{'the same to the bit, weights too' if same else 'DIFFERENT'}",
                flush=True,
            )
            if not same:
                raise SystemExit(1)


if __name__ == "__main__":
    main()

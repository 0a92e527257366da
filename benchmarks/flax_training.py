"""A training step on this machine's CPU, float32: our Flax engine's compiled step beside our PyTorch engine's.

    python benchmarks/flax_training.py --rounds 5 --json flax_training.json
    python benchmarks/flax_training.py --model tiny --rounds 3        # to see that it runs

The engines are those of `beit pretrain` and `beit finetune` themselves: loss, gradients, clipping and AdamW, with images,
masks and tokens given. Both begin with the weights of one folder and get the same batch, without stochastic depth, so the
losses of their first steps must agree. The sides take turns, each in a process of its own; the first step, with
compilation, is timed apart, and memory is the peak of the process, compiling included.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import paired
from beit import BeitConfig
from beit.data.masking import mask_sizes
from beit.train.framework import finetuning, pretraining
from beit.train.run import Run
from beit.train.settings import FinetuneSettings, PretrainSettings, RunSettings
from beit.train.start import open_start
from beit.train.targets import target_class
from flax_inference import HEADER, as_line, machine, only_cores, only_cpu, rows_of

# Task → (its settings, the class of its models, the config besides a preset's, as the command makes it).
TASKS: dict[str, tuple[type[RunSettings], str, dict[str, Any]]] = {
    "pretrain": (
        PretrainSettings,
        "BeitForMaskedImageModeling",
        {"use_mask_token": True, "use_shared_relative_position_bias": True, "mask_keeps_position": True},
    ),
    "finetune": (
        FinetuneSettings,
        "BeitForImageClassification",
        {"use_relative_position_bias": True, "num_labels": 1000},
    ),
}
RATE = 1e-4
CLOSE = 1e-3  # of the losses

# --- one side, in its own process ------------------------------------------------------------------------------------


def worker(framework: str, task: str, folder: str, batch_size: int, threads: int) -> None:
    """Make the engine, take two steps, then one for each line of standard input."""
    only_cores(threads)
    settings = TASKS[task][0](
        images="given",
        output=Path(folder) / "run",
        model=folder,
        batch_size=batch_size,
        precision="fp32",
        framework=framework,
    )
    parts: Any = pretraining(framework) if task == "pretrain" else finetuning(framework)
    run = Run(parts.processes(settings), settings)
    start = open_start(settings)
    config = start.config
    model = parts.model(run, start, config)
    # Tokens are given, so of the cache that they would come from only the size of its codebook is read.
    cache = SimpleNamespace(vocab_size=config.vocab_size)
    more = [target_class("tokens", framework)(None, cache)] if task == "pretrain" else []  # type: ignore[call-arg]
    engine = parts.engine(run, model, *more)
    engine.train_mode()
    batch = draw_batch(settings, config)
    losses: list[float] = []

    def step() -> None:
        metrics = engine.step(batch, len(losses), RATE, None)
        if framework == "flax":
            metrics = parts.jax.block_until_ready((metrics, engine.state))[0]
        losses.append(float(metrics["loss"]))

    if framework == "torch":
        parts.torch.set_num_threads(threads)
        library = f"torch {parts.torch.__version__}"
    else:
        library = f"jax {parts.jax.__version__}"
    began = time.perf_counter()
    step()
    first = time.perf_counter() - began
    step()
    about = {"ready": f"beit, {framework}", "torch": library, "first": first, "losses": losses}
    paired.serve(step, about)


def draw_batch(settings: Any, config: BeitConfig) -> dict[str, np.ndarray]:
    """Images, and what is to be learned of them."""
    rng = np.random.default_rng(0)
    count, size = settings.batch_size, config.image_size
    batch = {"pixel_values": rng.standard_normal((count, config.num_channels, size, size)).astype("f4")}
    if isinstance(settings, FinetuneSettings):
        return {**batch, "targets": np.eye(config.num_labels, dtype="f4")[rng.integers(config.num_labels, size=count)]}
    mask = np.zeros((count, config.num_patches), bool)
    mask[:, : mask_sizes(settings, config)[0]] = True
    tokens = rng.integers(config.vocab_size, size=mask.shape)
    return {**batch, "mask": rng.permuted(mask, axis=1), "tokens": tokens}


# --- both, in turn ---------------------------------------------------------------------------------------------------


def compare(model: str, task: str, batch: int, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Start both, hold the losses of their first two steps against each other, let them take turns."""
    import beit

    _, kind, changes = TASKS[task]
    with tempfile.TemporaryDirectory() as folder:
        config = BeitConfig.preset(model, drop_path_rate=0.0, **changes)
        getattr(beit, "Flax" + kind)(config).save_pretrained(folder)
        running = []
        for framework in ("flax", "torch"):
            script = [__file__, "--worker", framework, task, folder, str(batch), "--threads", str(threads)]
            running.append(paired.Engine(f"beit, {framework}", sys.executable, script, threads))
        losses = [engine.about["losses"] for engine in running]
        np.testing.assert_allclose(losses[0], losses[1], rtol=CLOSE)
        paired.take_turns(running, rounds)
    return [{"model": model, "task": task, "losses": losses[0], **row} for row in rows_of(running, batch)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=("base", "small", "tiny"), default=["base", "small"])
    parser.add_argument("--task", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    only_cpu()
    if arguments.worker:
        framework, task, folder, batch = arguments.worker
        worker(framework, task, folder, int(batch), arguments.threads)
        return

    print(machine(arguments.threads, arguments.rounds))
    rows = []
    for model in arguments.model:
        for task in arguments.task:
            print(f"{task}, {model}, batch {arguments.batch}")
            print(HEADER)
            found = compare(model, task, arguments.batch, arguments.rounds, arguments.threads)
            print("\n".join(map(as_line, found)))
            print(f"  losses of the first steps: {found[0]['losses']}\n", flush=True)
            rows += found
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

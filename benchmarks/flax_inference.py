"""Inference of BEiT-B/16-224 on this machine's CPU, float32: ours on JAX, transformers' Flax, and ours on PyTorch.

    python benchmarks/flax_inference.py --reference PATH/TO/python --rounds 9 --json flax_inference.json
    python benchmarks/flax_inference.py --size tiny --rounds 3        # to see that it runs

The reference is an environment with transformers 4.37.2 and the JAX and Flax of its time, the last to have Flax models. All
sides open one folder, written by ours, and must give the same logits before anything is timed. Both JAX sides are compiled
by the same `jax.jit` around the model's call, which theirs needs (ours would compile by itself). Sides take turns as in
`speed.py`; the first call, with compilation, is timed apart, and memory is the peak of the process, loading and compiling
included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import paired

SIZES: dict[str, dict[str, Any]] = {
    "base": {"num_labels": 1000},
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "num_labels": 10,
    },
}
CLOSE = 1e-3  # of logits

# --- one side, in its own process ------------------------------------------------------------------------------------


def only_cores(threads: int) -> None:
    """Keep this process to so many cores; before JAX is loaded, which has no setting for it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def worker(side: str, folder: str, batch: int, threads: int) -> None:
    """Open the folder, call it once, then again for each line of standard input."""
    only_cores(threads)
    build = in_pytorch if side == "beit, PyTorch" else in_jax
    library, channels_and_size, call = build(side, folder, threads)
    pixels = np.random.default_rng(0).standard_normal((batch, *channels_and_size)).astype("f4")
    began = time.perf_counter()
    logits = call(pixels)
    about = {"ready": side, "torch": library, "first": time.perf_counter() - began, "logits": logits.tolist()}
    paired.serve(lambda: call(pixels), about)


def in_jax(side: str, folder: str, threads: int) -> tuple[str, tuple[int, ...], Callable[[np.ndarray], np.ndarray]]:
    """(library, shape of an image, pixels → logits)."""
    import jax

    if side == "beit, JAX":
        from beit import FlaxBeitForImageClassification
    else:
        from transformers import FlaxBeitForImageClassification
    model = FlaxBeitForImageClassification.from_pretrained(folder)
    compiled = jax.jit(lambda params, pixels: model(pixels, params=params).logits)
    config = model.config
    shape = (config.num_channels, config.image_size, config.image_size)
    return f"jax {jax.__version__}", shape, lambda pixels: np.asarray(compiled(model.params, pixels))


def in_pytorch(side: str, folder: str, threads: int) -> tuple[str, tuple[int, ...], Callable[[np.ndarray], np.ndarray]]:
    """As `in_jax`."""
    import torch

    from beit import BeitForImageClassification

    torch.set_num_threads(threads)
    model = BeitForImageClassification.from_pretrained(folder)
    config = model.config
    shape = (config.num_channels, config.image_size, config.image_size)
    call = torch.inference_mode()(lambda pixels: model(torch.from_numpy(pixels)).logits.numpy())
    return f"torch {torch.__version__}", shape, call


def write_model(folder: str, size: str) -> None:
    """A classifier with random weights, tables and norms included, so that the logits show each."""
    import jax

    from beit import BeitConfig, FlaxBeitForImageClassification

    config = BeitConfig(use_relative_position_bias=True, **SIZES[size])
    model = FlaxBeitForImageClassification(config)
    rng = np.random.default_rng(0)

    def noisy(leaf: Any) -> Any:
        noise = rng.normal(scale=0.02, size=leaf.shape).astype("f4")
        return leaf + noise

    model.save_pretrained(folder, jax.tree.map(noisy, model.params))


# --- all sides, in turn ----------------------------------------------------------------------------------------------

HEADER = (
    f"  {'side':20} {'library':16} {'median s':>9} {'min-max':>15} {'images/s':>9} {'theirs/ours':>12} {'min-max':>12} "
    f"{'first s':>8} {'MiB':>7}"
)


def rows_of(running: list[paired.Engine], batch: int) -> list[dict[str, Any]]:
    """A row a side: `paired.compared`, with images a second and the seconds of the first call."""
    rows = []
    for engine, row in zip(running, paired.compared(running), strict=True):
        row["library"] = row.pop("torch")
        more = {"batch": batch, "images_per_second": batch / row["seconds"], "first_call": engine.about["first"]}
        rows.append({**row, **more})
    return rows


def as_line(row: dict[str, Any]) -> str:
    """A row as text, under HEADER."""
    return (
        f"  {row['engine']:20} {row['library']:16} {row['seconds']:9.4f} {row['fastest']:7.4f}-{row['slowest']:.4f} "
        f"{row['images_per_second']:9.1f} {row['ratio']:12.2f} {row['ratio_low']:6.2f}-{row['ratio_high']:.2f} "
        f"{row['first_call']:8.2f} {row['peak_mib']:7.0f}"
    )


def only_cpu() -> None:
    """Let this process and those that it starts see no GPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["JAX_PLATFORMS"] = "cpu"


def machine(threads: int, rounds: int) -> str:
    """The line above the tables."""
    return f"{platform.processor() or platform.machine()}, {threads} threads, float32, {rounds} rounds\n"


def compare(folder: str, batch: int, reference: str | None, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Start all sides, hold their logits against each other, let them take turns."""
    sides = [("beit, JAX", sys.executable), ("beit, PyTorch", sys.executable)]
    if reference:
        sides.insert(1, ("transformers, Flax", reference))
    running = []
    for side, python in sides:
        script = [__file__, "--worker", side, folder, str(batch), "--threads", str(threads)]
        running.append(paired.Engine(side, python, script, threads))
    logits = [np.array(engine.about["logits"]) for engine in running]
    differences = [float(np.abs(other - logits[0]).max()) for other in logits]
    assert max(differences) < CLOSE, differences
    paired.take_turns(running, rounds)
    return [{**row, "difference": found} for row, found in zip(rows_of(running, batch), differences, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", metavar="PYTHON", help="interpreter of the environment with transformers' Flax")
    parser.add_argument("--size", choices=list(SIZES), default="base")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        side, folder, batch = arguments.worker
        worker(side, folder, int(batch), arguments.threads)
        return

    only_cpu()
    print(machine(arguments.threads, arguments.rounds))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, arguments.size)
        for batch in arguments.batch:
            print(f"{arguments.size}, batch {batch}")
            print(HEADER)
            found = compare(folder, batch, arguments.reference, arguments.rounds, arguments.threads)
            print("\n".join(map(as_line, found)))
            print(f"  largest difference of logits: {max(row['difference'] for row in found):.1e}\n", flush=True)
            rows += [{"size": arguments.size, **row} for row in found]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""BEiT-B/16 trained at 224 pixels on larger images: ours at run time, ours built for the size, and transformers 5.

    python benchmarks/any_size.py --transformers5 PATH/TO/python --rounds 9 --json any_size.json
    python benchmarks/any_size.py --model tiny --sizes 48x48 32x64 --rounds 3      # to see that it runs

All sides open one folder, written by ours with random weights and tables. Ours at run time is given the larger images and
nothing else; ours built for the size resizes its tables at loading (`image_size=`); transformers is called with
`interpolate_pos_encoding=True`. It stretches tables bilinearly where ours follows the authors, so its logits are other ones: their
difference is printed and not judged. That of both of ours is judged. The tables here are of a square, since transformers takes
a table's height for its width, which only shows in models trained on rectangles.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import paired

CLOSE = 1e-5  # of the largest logit: both of ours compute the same, in float32
RUN_TIME, BUILT, THEIRS = "beit, at run time", "beit, built for it", "transformers 5"
MODELS: dict[str, dict[str, Any]] = {
    "base": {"image_size": 224},
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
    },
}

# --- one side, in its own process ------------------------------------------------------------------------------------


def worker(side: str, folder: str, height: int, width: int, batch: int, threads: int) -> None:
    """Open the folder, call it once, then again for each line of standard input."""
    import torch

    torch.set_num_threads(threads)
    extra: dict[str, Any] = {}
    if side == THEIRS:
        from transformers import BeitForImageClassification, logging

        logging.disable_progress_bar()
        extra["interpolate_pos_encoding"] = True
    else:
        from beit import BeitForImageClassification
    settings = {"image_size": (height, width)} if side == BUILT else {}
    model = BeitForImageClassification.from_pretrained(folder, **settings).eval()
    pixels = torch.from_numpy(np.random.default_rng(0).standard_normal((batch, 3, height, width)).astype("f4"))
    call = torch.inference_mode()(lambda: model(pixels, **extra).logits)
    began = time.perf_counter()
    logits = call()
    about = {
        "ready": side,
        "torch": f"torch {torch.__version__}",
        "first": time.perf_counter() - began,
        "logits": logits.tolist(),
    }
    paired.serve(call, about)


def write_model(folder: str, model: str) -> None:
    """A classifier whose logits show its tables: random ones, since new tables are zero, and as large as trained ones."""
    import torch

    from beit import BeitConfig, BeitForImageClassification

    torch.manual_seed(0)
    written = BeitForImageClassification(BeitConfig(use_relative_position_bias=True, num_labels=1000, **MODELS[model]))
    with torch.no_grad():
        for name, parameter in written.named_parameters():
            parameter.add_(
                torch.randn_like(parameter) * (1.0 if name.endswith("relative_position_bias_table") else 0.02)
            )
    written.save_pretrained(folder)


# --- all sides, in turn ----------------------------------------------------------------------------------------------

HEADER = (
    f"  {'side':20} {'median s':>9} {'min-max':>15} {'theirs/ours':>12} {'min-max':>12} {'first s':>8} {'MiB':>7} "
    f"{'difference':>11}"
)


def as_line(row: dict[str, Any]) -> str:
    """A row as text, under HEADER."""
    return (
        f"  {row['engine']:20} {row['seconds']:9.3f} {row['fastest']:7.3f}-{row['slowest']:.3f} "
        f"{row['ratio']:12.2f} {row['ratio_low']:6.2f}-{row['ratio_high']:.2f} "
        f"{row['first_call']:8.2f} {row['peak_mib']:7.0f} {row['difference']:11.1e}"
    )


def compare(
    folder: str, size: tuple[int, int], batch: int, transformers5: str | None, rounds: int, threads: int
) -> list[dict[str, Any]]:
    """Start all sides, hold both of ours against each other, let them take turns."""
    sides = [(RUN_TIME, sys.executable), (BUILT, sys.executable)]
    if transformers5:
        sides.append((THEIRS, transformers5))
    running = []
    for side, python in sides:
        script = [__file__, "--worker", side, folder, *map(str, (*size, batch)), "--threads", str(threads)]
        running.append(paired.Engine(side, python, script, threads))
    logits = [np.array(engine.about["logits"]) for engine in running]
    largest = float(np.abs(logits[0]).max())
    differences = [float(np.abs(other - logits[0]).max()) / largest for other in logits]
    assert differences[1] < CLOSE, differences
    paired.take_turns(running, rounds)
    rows = []
    for engine, row, difference in zip(running, paired.compared(running), differences, strict=True):
        more = {"size": list(size), "batch": batch, "first_call": engine.about["first"], "difference": difference}
        rows.append({**row, **more})
    return rows


def as_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformers5", metavar="PYTHON", help="interpreter of an environment with transformers 5")
    parser.add_argument("--model", choices=list(MODELS), default="base")
    parser.add_argument("--sizes", type=as_size, nargs="+", default=[(384, 384), (320, 480)], metavar="HEIGHTxWIDTH")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        side, folder, height, width, batch = options.worker
        worker(side, folder, int(height), int(width), int(batch), options.threads)
        return

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    name = paired.processor()
    print(f"{name}; {options.threads} threads, float32, {options.rounds} rounds; differences of the largest logit\n")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, options.model)
        for size in options.sizes:
            for batch in options.batch:
                print(f"{options.model}, {size[0]}x{size[1]}, batch {batch}")
                print(HEADER)
                found = compare(folder, size, batch, options.transformers5, options.rounds, options.threads)
                print("\n".join(map(as_line, found)))
                print(paired.kernels_of(found) + "\n", flush=True)
                rows += found
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

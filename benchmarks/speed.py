"""Speed and memory of BEiT-B/16-224 on this machine, beside transformers and timm.

    python benchmarks/speed.py
    python benchmarks/speed.py --peer old=PATH/TO/python --rounds 9 --json speed.json

Every engine lives in a process of its own. In each round every engine does the same task once, one after the other and
the first of the round rotating, so that a drift of the machine's speed meets all alike; what counts is the median and
the ratio round by round. `--peer NAME=PYTHON` adds the transformers library of another environment, such as 4.37.2. The
kernels that beit chose for this processor are printed; `BEIT_CPU_KERNELS` sets others (see `kernels/choice.py`).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import paired

TASKS = {  # name → (kind, batch)
    "forward, batch 1": ("forward", 1),
    "forward, batch 8": ("forward", 8),
    "training step (masked image modelling), batch 8": ("train", 8),
}
# Multiply-adds of one image, in GFLOP: 12 layers of 12·C²·T + 2·T²·C products, and the patch projection.
_FORWARD_GFLOP = 2 * (12 * (12 * 768**2 * 197 + 2 * 197**2 * 768) + 196 * 768 * 768) / 1e9


# --- one engine, in its own process ----------------------------------------------------------------------------------


def worker(engine: str, kind: str, batch: int, threads: int) -> None:
    """Build the model, say "ready", then do the task once for each line of standard input and print the seconds."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pixels = torch.randn(batch, 3, 224, 224)
    step = build(engine, kind, batch, pixels)
    paired.serve(step, {"ready": version(engine), "torch": torch.__version__})


def version(engine: str) -> str:
    return f"{engine} {importlib.metadata.version(engine) if engine != 'beit' else _our_version()}"


def _our_version() -> str:
    import beit

    return beit.__version__


def build(engine: str, kind: str, batch: int, pixels: Any) -> Any:
    """A function that does the task once."""
    import torch

    if engine == "timm":
        import timm

        model = timm.create_model("beit_base_patch16_224", pretrained=False).eval()
        return torch.inference_mode()(lambda: model(pixels))
    if engine == "beit":
        from beit import BeitConfig, BeitForImageClassification, BeitForMaskedImageModeling
    else:
        from transformers import BeitConfig, BeitForImageClassification, BeitForMaskedImageModeling
    if kind == "forward":
        config = BeitConfig(use_relative_position_bias=True, num_labels=1000)
        model = BeitForImageClassification(config).eval()
        return torch.inference_mode()(lambda: model(pixels).logits)

    config = BeitConfig(use_mask_token=True, use_shared_relative_position_bias=True, drop_path_rate=0.0)
    model = BeitForMaskedImageModeling(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    mask = torch.zeros(batch, 196, dtype=torch.bool)
    for row in mask:
        row[torch.randperm(196)[:75]] = True
    labels = torch.randint(0, 8192, (batch * 75,))
    # What pre-training with `beit` does; the others have no such switch.
    extra = {"masked_logits_only": True} if engine == "beit" else {}

    def step() -> None:
        loss = model(pixels, bool_masked_pos=mask, labels=labels, **extra).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


# --- all engines, in turn ---------------------------------------------------------------------------------------------


def run_task(name: str, engines: list[tuple[str, str, str]], rounds: int, threads: int) -> list[dict[str, Any]]:
    """Time all engines on one task; ours first in the table, ratios are theirs / ours, round by round."""
    kind, batch = TASKS[name]
    able = [item for item in engines if kind == "forward" or item[1] != "timm"]  # timm has no masked image modelling
    running = []
    for label, engine, python in able:
        script = [__file__, "--worker", engine, kind, str(batch), "--threads", str(threads)]
        running.append(paired.Engine(label, python, script, threads))
    paired.take_turns(running, rounds)
    return [{"task": name, **row, "images_per_second": batch / row["seconds"]} for row in paired.compared(running)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="another transformers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--task", action="append", choices=list(TASKS), help="only these tasks")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        engine, kind, batch = arguments.worker
        worker(engine, kind, int(batch), arguments.threads)
        return

    engines = [("beit", "beit", sys.executable)]
    engines += [(name, name, sys.executable) for name in ("transformers", "timm") if importlib.util.find_spec(name)]
    for peer in arguments.peer:
        name, _, python = peer.partition("=")
        engines.append((name, "transformers", python))
    by_product, by_convolution = paired.matrix_peak(arguments.threads)
    peak = max(by_product, by_convolution)
    print(f"{paired.processor()}; {arguments.threads} threads, float32, {arguments.rounds} rounds")
    print(f"large matrix product: {by_product:.0f} GFLOP/s by torch.mm, {by_convolution:.0f} as a convolution\n")
    rows = []
    for task in arguments.task or TASKS:
        print(task)
        print(paired.HEADER)
        found = run_task(task, engines, arguments.rounds, arguments.threads)
        for row in found:
            kind, batch = TASKS[task]
            share = _FORWARD_GFLOP * batch / row["seconds"] / peak if kind == "forward" else None
            print(paired.as_line(row, share), flush=True)
            rows.append({**row, "share_of_peak": share})
        print(paired.kernels_of(found) + "\n")
    if arguments.json:
        content = {"processor": paired.processor(), "matrix_peak_gflops": peak, "rows": rows}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()

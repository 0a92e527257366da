"""Speed and memory of BEiT-B/16-224 on this machine, beside transformers and timm.

    python benchmarks/speed.py
    python benchmarks/speed.py --peer old=PATH/TO/python --rounds 9 --json speed.json

Every engine lives in a process of its own. In each round every engine does the same task once, one after the other and
the first of the round rotating, so that a drift of the machine's speed meets all alike; what counts is the median and
the ratio round by round. `--peer NAME=PYTHON` adds the transformers library of another environment, such as 4.37.2.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
    step()
    print(json.dumps({"ready": version(engine), "torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)


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


class Engine:
    """A worker process."""

    def __init__(self, name: str, engine: str, python: str, kind: str, batch: int, threads: int) -> None:
        self.name = name
        command = [python, "-W", "ignore", __file__, "--worker", engine, kind, str(batch), "--threads", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        if engine == "beit":
            environment["PYTHONPATH"] = str(Path(__file__).parent.parent / "src")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.seconds: list[float] = []
        self.peak = 0.0
        self.about = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended before it answered; see its message above.")
        return json.loads(line)

    def once(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.seconds.append(answer["seconds"])
        self.peak = max(self.peak, answer["peak"])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def matrix_peak(threads: int) -> tuple[float, float]:
    """GFLOP/s of a large float32 matrix product: by `torch.mm`, and as a convolution, by another library."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    picture = a[None, None].permute(0, 3, 1, 2)
    best = []
    for product in (lambda: a @ b, lambda: torch.nn.functional.conv2d(picture, b[:, :, None, None])):
        product()
        seconds = []
        for _ in range(8):
            began = time.perf_counter()
            product()
            seconds.append(time.perf_counter() - began)
        best.append(2 * 2048**3 / min(seconds) / 1e9)
    return best[0], best[1]


def run_task(name: str, engines: list[tuple[str, str, str]], rounds: int, threads: int) -> list[dict[str, Any]]:
    """Time all engines on one task; ours first in the table, ratios are theirs / ours, round by round."""
    kind, batch = TASKS[name]
    able = [item for item in engines if kind == "forward" or item[1] != "timm"]  # timm has no masked image modelling
    running = [Engine(label, engine, python, kind, batch, threads) for label, engine, python in able]
    for number in range(rounds):
        shift = number % len(running)
        for engine in running[shift:] + running[:shift]:
            engine.once()
    for engine in running:
        engine.close()
    ours = running[0]
    rows = []
    for engine in running:
        ratios = [theirs / mine for theirs, mine in zip(engine.seconds, ours.seconds, strict=True)]
        rows.append(
            {
                "task": name,
                "engine": engine.about["ready"],
                "torch": engine.about["torch"],
                "seconds": statistics.median(engine.seconds),
                "fastest": min(engine.seconds),
                "slowest": max(engine.seconds),
                "images_per_second": batch / statistics.median(engine.seconds),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "peak_mib": engine.peak,
            }
        )
    return rows


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
    by_product, by_convolution = matrix_peak(arguments.threads)
    peak = max(by_product, by_convolution)
    print(
        f"{platform.processor() or platform.machine()}, {arguments.threads} threads, float32, {arguments.rounds} rounds"
    )
    print(f"large matrix product: {by_product:.0f} GFLOP/s by torch.mm, {by_convolution:.0f} as a convolution\n")
    rows = []
    for task in arguments.task or TASKS:
        print(task)
        print(
            f"  {'engine':24} {'torch':14} {'median s':>9} {'min-max':>15} {'theirs/ours':>12} {'min-max':>12} {'MiB':>7}  peak"
        )
        for row in run_task(task, engines, arguments.rounds, arguments.threads):
            kind, batch = TASKS[task]
            share = _FORWARD_GFLOP * batch / row["seconds"] / peak if kind == "forward" else None
            print(
                f"  {row['engine']:24} {row['torch']:14} {row['seconds']:9.3f} {row['fastest']:7.3f}-{row['slowest']:.3f} "
                f"{row['ratio']:12.2f} {row['ratio_low']:6.2f}-{row['ratio_high']:.2f} {row['peak_mib']:7.0f}"
                + (f"  {share:.0%}" if share else ""),
                flush=True,
            )
            rows.append({**row, "share_of_peak": share})
        print()
    if arguments.json:
        arguments.json.write_text(json.dumps({"matrix_peak_gflops": peak, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

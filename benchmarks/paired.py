"""What benchmarks beside peers share: every engine in a process of its own, taking turns, and the machine's own limit.

A worker is a script called with `--worker`: it builds its model, prints a line of JSON, then does its task once for each
line of standard input and prints the seconds and its peak memory (`serve`).
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")


def processor() -> str:
    """The processor's name and the units for matrix products that it has, as Linux tells; elsewhere the name alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    name = found.get("model name", platform.machine())
    family = f"family {found['cpu family']} model {found['model']}" if "model" in found else ""
    flags = [flag for flag in _FLAGS if flag in found.get("flags", "").split()]
    return ", ".join(filter(None, (name, family, " ".join(flags))))


def _kernels() -> dict[str, str]:
    """What a worker says of the kernels that beit has chosen in its process; nothing for other engines."""
    choice = sys.modules.get("beit.models.torch.kernels.choice")
    return {"kernels": choice.describe()} if choice else {}


def serve(step: Callable[[], Any], about: dict[str, Any]) -> None:
    """A worker's life: warm up, say `about`, then one step a line of standard input."""
    step()
    for _ in turns(about):
        step()


def turns(about: dict[str, Any]) -> Iterator[None]:
    """Say `about` and the kernels, then yield once for each line of standard input; what is done until the next is timed."""
    print(json.dumps({**about, **_kernels()}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "peak": peak_mib()}), flush=True)


def peak_mib() -> float:
    """The most memory that this process has had.

    Not `ru_maxrss` where Linux can be asked: a new process begins with its parent's there, so a parent that has built a model
    would hide what a worker needs.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Engine:
    """A worker process.

    Args:
        name: for messages.
        python: interpreter of its environment.
        script: with the arguments that make it a worker.
        threads: for its products.
    """

    def __init__(self, name: str, python: str, script: list[str], threads: int) -> None:
        self.name = name
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        if name.startswith("beit"):
            environment["PYTHONPATH"] = str(Path(__file__).parent.parent / "src")
        self.process = subprocess.Popen(
            [python, "-W", "ignore", *script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
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
        """Do the task once."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.seconds.append(answer["seconds"])
        self.peak = max(self.peak, answer["peak"])

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def take_turns(running: list[Engine], rounds: int) -> None:
    """In each round every engine does the task once, the first one rotating; then all end."""
    for number in range(rounds):
        shift = number % len(running)
        for engine in running[shift:] + running[:shift]:
            engine.once()
    for engine in running:
        engine.close()


def compared(running: list[Engine]) -> list[dict[str, Any]]:
    """A row an engine: seconds, memory, and the ratio to the first engine, taken round by round."""
    rows = []
    for engine in running:
        ratios = [theirs / ours for theirs, ours in zip(engine.seconds, running[0].seconds, strict=True)]
        rows.append(
            {
                "engine": engine.about["ready"],
                "torch": engine.about["torch"],
                "kernels": engine.about.get("kernels"),
                "seconds": statistics.median(engine.seconds),
                "fastest": min(engine.seconds),
                "slowest": max(engine.seconds),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "peak_mib": engine.peak,
            }
        )
    return rows


def kernels_of(rows: list[dict[str, Any]]) -> str:
    """The kernels of all engines that have a choice, as text."""
    return "\n".join(f"  kernels of {row['engine']}: {row['kernels']}" for row in rows if row["kernels"])


HEADER = (
    f"  {'engine':24} {'torch':14} {'median s':>9} {'min-max':>15} {'theirs/ours':>12} {'min-max':>12} {'MiB':>7}  peak"
)


def as_line(row: dict[str, Any], share: float | None) -> str:
    """A row as text, under HEADER; `share` of the machine's product peak."""
    return (
        f"  {row['engine']:24} {row['torch']:14} {row['seconds']:9.3f} {row['fastest']:7.3f}-{row['slowest']:.3f} "
        f"{row['ratio']:12.2f} {row['ratio_low']:6.2f}-{row['ratio_high']:.2f} {row['peak_mib']:7.0f}"
        + (f"  {share:.0%}" if share else "")
    )


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

"""From a file to the first logits, BEiT-B and BEiT-L of 224 pixels: ours, transformers and timm.

    python benchmarks/loading.py --transformers4 PYTHON --transformers5 PYTHON --timm PYTHON --rounds 5

Each round starts a process of each side, which loads, computes the logits of one image, and says seconds (imports apart) and its
peak memory; sides take turns, files are in the page cache. Loading alone says little: transformers 5 maps the file, and reads it
while it computes. All sides open the same tensors: a folder of transformers' layout, timm's and the authors',
written by `beit convert`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import paired

SIZES = ("base", "large", "tiny")
Side = tuple[str, str, str]  # name, interpreter, file


def load(side: str, path: str) -> Any:
    """A classifier of this side's library, in evaluation mode."""
    if side.startswith("beit, Flax"):
        from beit import FlaxBeitForImageClassification

        return FlaxBeitForImageClassification.from_pretrained(path)
    if side.startswith("beit"):
        from beit import BeitForImageClassification

        return BeitForImageClassification.from_pretrained(path)
    if side.startswith("timm"):
        import timm

        return timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    from transformers import BeitForImageClassification as Theirs

    return Theirs.from_pretrained(path).eval()


def worker(side: str, path: str) -> None:
    """Import, load, say how long and how much."""
    if side.startswith("beit, Flax"):
        import beit.models.flax.beit
    elif side.startswith("beit"):
        import beit.models.torch.beit  # noqa: F401
    elif side.startswith("timm"):
        import timm  # noqa: F401
    else:
        from transformers import BeitForImageClassification  # noqa: F401
    before = paired.peak_mib()
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype("f4")
    began = time.perf_counter()
    model = load(side, path)
    loaded = time.perf_counter() - began
    if side.startswith("beit, Flax"):
        np.asarray(model(image).logits)
    else:
        import torch

        with torch.inference_mode():
            model(torch.from_numpy(image))
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "loading": loaded, "peak": paired.peak_mib(), "imports": before}))


def write_all(folder: Path, size: str) -> dict[str, Path]:
    """One model with random weights in three layouts."""
    import torch

    from beit import BeitConfig, BeitForImageClassification
    from beit.cli import main as beit

    torch.manual_seed(0)
    config = BeitConfig.preset(size, use_relative_position_bias=True, num_labels=1000)
    BeitForImageClassification(config).save_pretrained(folder / "hf")
    for layout, name in (("unilm", "model.pth"), ("timm", "timm")):
        assert beit(["convert", str(folder / "hf"), str(folder / name), "--to", layout, "--no-check"]) == 0
    return {"hf": folder / "hf", "unilm": folder / "model.pth", "timm": folder / "timm"}


def once(side: Side) -> dict[str, float]:
    name, python, path = side
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    if name.startswith("beit"):
        environment["PYTHONPATH"] = str(Path(__file__).parent.parent / "src")
    command = [python, "-W", "ignore", __file__, "--worker", name, path]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("transformers4", "transformers5", "timm"):
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"interpreter of an environment with {name}")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["base", "large"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: str(path) for name, path in write_all(Path(folder), size).items()}
            sides: list[Side] = [
                ("beit, hf folder", sys.executable, paths["hf"]),
                ("beit, authors' .pth", sys.executable, paths["unilm"]),
                ("beit, timm folder", sys.executable, paths["timm"]),
                ("beit, Flax, hf folder", sys.executable, paths["hf"]),
            ]
            sides += [("transformers 4", options.transformers4, paths["hf"])] if options.transformers4 else []
            sides += [("transformers 5", options.transformers5, paths["hf"])] if options.transformers5 else []
            sides += [("timm", options.timm, paths["timm"])] if options.timm else []
            found: dict[str, list[dict[str, float]]] = {name: [] for name, *_ in sides}
            for number in range(options.rounds + 1):
                shift = number % len(sides)
                for side in sides[shift:] + sides[:shift]:
                    answer = once(side)
                    if number:  # the first round brings files into the page cache
                        found[side[0]].append(answer)
        print(
            f"\n{size}, {options.rounds} rounds\n  {'side':24} {'first logits s':>14} {'min-max':>13} {'theirs/ours':>12} {'loading s':>9} {'MiB':>7} {'imports':>8}"
        )
        ours = [answer["seconds"] for answer in found["beit, hf folder"]]
        for name, answers in found.items():
            seconds = [answer["seconds"] for answer in answers]
            ratio = statistics.median(a / b for a, b in zip(seconds, ours, strict=True))
            peak, imports = (max(answer[key] for answer in answers) for key in ("peak", "imports"))
            print(
                f"  {name:24} {statistics.median(seconds):14.3f} {min(seconds):6.3f}-{max(seconds):.3f} {ratio:12.2f} "
                f"{statistics.median(answer['loading'] for answer in answers):9.3f} "
                f"{peak:7.0f} {imports:8.0f}"
            )


if __name__ == "__main__":
    main()

"""How long loading takes, and how often each weight file is read.

Beside other libraries, from a file to the first logits:

    python benchmarks/loading.py --transformers4 PYTHON --transformers5 PYTHON --timm PYTHON --rounds 5

Beside another version of beit, what `beit predict` and `beit finetune` open before they begin:

    python benchmarks/loading.py --before OTHER/src --sizes base --rounds 9

Each round starts one process per side, which prints its seconds (without imports) and its peak memory; sides take turns, and
files are in the page cache. All sides open the same tensors, with random weights, as a folder of transformers' layout, the same
in shards, timm's folder and the authors' file. Seconds of loading alone are not comparable between libraries: transformers 5
maps the file into memory and reads it during the first forward pass.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
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
LAYOUTS = {"hf": "folder", "sharded": "folder in shards", "unilm": "authors' .pth"}
READERS = ("beit.checkpoints.read_weights", "beit.weight_files")  # the module that reads files, now and in version 0.1


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


def open_for(command: str, path: str) -> None:
    """Open config, image processor and model as `beit predict` or `beit finetune` does."""
    from beit import BeitConfig, BeitForImageClassification, BeitImageProcessor
    from beit.checkpoints import Checkpoint

    shared = hasattr(Checkpoint, "open")
    source: Any = Checkpoint(path) if shared else path  # version 0.1 opened the path for each of them
    if command == "predict":
        BeitForImageClassification.from_pretrained(source)
        BeitImageProcessor.stored_in(source)
        return
    config = BeitConfig.from_pretrained(source)
    if not shared:  # it inferred the config a second time, with the changes
        config = BeitConfig.from_pretrained(source, num_labels=10)
    BeitImageProcessor.stored_in(source)
    config = config.replace(num_labels=10)
    BeitForImageClassification.from_pretrained(source, config=config, ignore_mismatched_sizes=True)


def command_worker(command: str, path: str) -> None:
    """Import, open, print seconds, peak memory and how many weight files were read."""
    from beit import BeitForImageClassification, BeitImageProcessor  # noqa: F401

    reader = next(importlib.import_module(name) for name in READERS if importlib.util.find_spec(name))
    read_file, reads = reader.read_file, []

    def counting(file: Path, *rest: Any) -> Any:
        reads.append(file)
        return read_file(file, *rest)

    reader.read_file = counting
    logging.getLogger("beit").setLevel(logging.ERROR)  # a new head is no news here
    before = paired.peak_mib()
    began = time.perf_counter()
    open_for(command, path)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "reads": len(reads), "peak": paired.peak_mib(), "imports": before}))


def worker(side: str, path: str) -> None:
    """Import, load, print seconds and peak memory."""
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
    """One model with random weights in all layouts."""
    import torch

    from beit import BeitConfig, BeitForImageClassification
    from beit.cli import main as beit

    torch.manual_seed(0)
    config = BeitConfig.preset(size, use_relative_position_bias=True, num_labels=1000)
    model = BeitForImageClassification(config)
    model.save_pretrained(folder / "hf")
    model.save_pretrained(folder / "sharded", max_shard_size="100MB")
    for layout, name in (("unilm", "model.pth"), ("timm", "timm")):
        assert beit(["convert", str(folder / "hf"), str(folder / name), "--to", layout, "--no-check"]) == 0
    return {
        "hf": folder / "hf",
        "sharded": folder / "sharded",
        "unilm": folder / "model.pth",
        "timm": folder / "timm",
    }


def compare_versions(before: Path, size: str, rounds: int) -> None:
    """A table of this version beside another one, for each command and layout."""
    sources = {"before": before.resolve(), "now": Path(__file__).parent.parent / "src"}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_all(Path(folder), size)
        rows = [(command, layout) for command in ("predict", "finetune") for layout in LAYOUTS]
        found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
        for number in range(rounds + 1):
            for row in rows:
                for name in sorted(sources, reverse=bool(number % 2)):
                    environment = {"PYTHONPATH": str(sources[name]), "CUDA_VISIBLE_DEVICES": ""}
                    answer = process([sys.executable, "--open", row[0], str(paths[row[1]])], environment)
                    if number:  # the first round brings files into the page cache
                        found.setdefault((*row, name), []).append(answer)
    print(
        f"\n{size}, {rounds} rounds: median seconds, files read, peak MiB; and the ratio of seconds in the same round"
    )
    for command, layout in rows:
        old, new = found[command, layout, "before"], found[command, layout, "now"]
        ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(old, new, strict=True))
        line = "".join(
            f"  {name} {statistics.median(answer['seconds'] for answer in answers):6.3f} s {answers[0]['reads']:2} "
            f"{max(answer['peak'] for answer in answers):6.0f}"
            for name, answers in (("before", old), ("now", new))
        )
        print(f"  {command:9} {LAYOUTS[layout]:17}{line}  ratio {ratio:.2f}")


def process(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """What a worker prints. `command` is an interpreter and the arguments of this script."""
    python, *arguments = command
    done = subprocess.run(
        [python, "-W", "ignore", __file__, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", **environment},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def once(side: Side) -> dict[str, float]:
    name, python, path = side
    environment = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    if name.startswith("beit"):
        environment["PYTHONPATH"] = str(Path(__file__).parent.parent / "src")
    return process([python, "--worker", name, path], environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("transformers4", "transformers5", "timm"):
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"interpreter of an environment with {name}")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["base", "large"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--before", metavar="SRC", type=Path, help="the folder src of another version, to compare with it only"
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--open", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    if options.open:
        command_worker(*options.open)
        return
    if options.before:
        for size in options.sizes:
            compare_versions(options.before, size, options.rounds)
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

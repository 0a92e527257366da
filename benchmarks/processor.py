"""Speed of `BeitImageProcessor` against transformers': PIL images in, (B, 3, 224, 224) tensors out, default settings.

    python benchmarks/processor.py --peer path/to/python-with-4.37.2 --peer path/to/python-with-5

Each engine runs in its own process, once per round, in alternating order, so that a noisy machine slows all of them alike.
Printed: the median over rounds of images per second, how many times faster ours is, the processor time per image (of all
threads together; other jobs disturb it less), and whether all bits equal those of 4.37.2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SETTINGS = {"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}


def pictures(count: int, height: int, width: int) -> list[Any]:
    """`count` PIL images, the same for every engine: plain arithmetic, no random numbers."""
    import numpy as np
    from PIL import Image

    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    base = y * 3 + x * 5 + c * 71 + (x * 7919 + y * 104729 + c * 1299709) % 97
    return [Image.fromarray(((base + 37 * i) % 256).astype(np.uint8)) for i in range(count)]


def work(engine: str, count: int, height: int, width: int, repeats: int) -> dict[str, Any]:
    """Time one engine in this process: the median over calls, after one call to warm up."""
    if engine == "ours":
        from beit.data.processor import BeitImageProcessor

        name = "beit"
    else:
        import transformers
        from transformers import BeitImageProcessor

        name = f"transformers {transformers.__version__}"
    processor = BeitImageProcessor(**SETTINGS)
    images = pictures(count, height, width)
    result = processor(images, return_tensors="pt")["pixel_values"]
    seconds = []
    cpu = time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        processor(images, return_tensors="pt")
        seconds.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / (repeats * count)
    digest = hashlib.sha256(result.numpy().tobytes()).hexdigest()
    speed = count / statistics.median(seconds)
    return {"engine": name, "images_per_s": speed, "cpu_ms_per_image": 1e3 * cpu, "sha256": digest}


def measure(python: str, engine: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run `work` in a new process of the given interpreter."""
    source = str(Path(__file__).resolve().parent.parent / "src")
    paths = [source, os.environ.get("PYTHONPATH", "")] if engine == "ours" else [os.environ.get("PYTHONPATH", "")]
    command = [python, "-W", "ignore", __file__, "--worker", engine]
    for name in ("images", "height", "width", "repeats"):
        command += [f"--{name}", str(getattr(arguments, name))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{engine} failed in {python}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(rounds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row per engine, ours first. The ratio is the median of the ratios within the rounds."""
    exact = next((run["sha256"] for run in rounds[0] if run["engine"] == "transformers 4.37.2"), None)
    rows = []
    for i, first in enumerate(rounds[0]):
        ratios = [runs[0]["images_per_s"] / runs[i]["images_per_s"] for runs in rounds]
        rows.append(
            {
                "engine": first["engine"],
                "images_per_s": statistics.median(runs[i]["images_per_s"] for runs in rounds),
                "cpu_ms_per_image": statistics.median(runs[i]["cpu_ms_per_image"] for runs in rounds),
                "ours_is_times_faster": statistics.median(ratios),
                "bit_equal_to_4.37.2": None if exact is None else all(runs[i]["sha256"] == exact for runs in rounds),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], help="an interpreter that has transformers; repeatable")
    parser.add_argument("--images", type=int, default=32, help="images per call")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=10, help="calls per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write settings, rows and every run to this file")
    parser.add_argument("--worker", choices=["ours", "transformers"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(
            json.dumps(work(arguments.worker, arguments.images, arguments.height, arguments.width, arguments.repeats))
        )
        return

    engines = [(sys.executable, "ours"), *((peer, "transformers") for peer in arguments.peer)]
    rounds = []
    for index in range(arguments.rounds):
        order = list(range(len(engines)))
        order = order[index % len(order) :] + order[: index % len(order)]
        runs: dict[int, dict[str, Any]] = {i: measure(*engines[i], arguments) for i in order}
        rounds.append([runs[i] for i in range(len(engines))])

    rows = summary(rounds)
    print(f"{arguments.images} PIL images of {arguments.width}×{arguments.height}, {arguments.rounds} rounds, medians")
    print(f"{'engine':<24}{'images/s':>10}{'ours is':>10}{'CPU ms/image':>14}  bit-equal to 4.37.2")
    for row in rows:
        equal = {True: "yes", False: "no", None: "not compared"}[row["bit_equal_to_4.37.2"]]
        print(
            f"{row['engine']:<24}{row['images_per_s']:>10.0f}{row['ours_is_times_faster']:>9.2f}×"
            f"{row['cpu_ms_per_image']:>14.2f}  {equal}"
        )
    if arguments.json:
        settings = {name: getattr(arguments, name) for name in ("images", "height", "width", "repeats", "rounds")}
        content = {"settings": settings, "cores": os.cpu_count(), "rows": rows, "rounds": rounds}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

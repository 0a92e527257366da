"""Time and memory of `beit similar`: features of random directions, with near-duplicates among them.

    python benchmarks/similar.py --images 100000 --width 768

Each question is asked in a process of its own, whose peak memory is what the system counts.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from beit.inference.feature_files import Origin, read_features, write_features
from beit.inference.similar import near_duplicates, nearest

QUESTIONS = ("read", "5 neighbours of 10 images", "5 neighbours of each image", "groups within 0.95")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--ask", choices=QUESTIONS, help="ask one question of --file, in this process")
    parser.add_argument("--file", type=Path)
    arguments = parser.parse_args()
    if arguments.ask:
        ask(arguments.ask, arguments.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.parquet"
        rng = np.random.default_rng(0)
        features = rng.standard_normal((arguments.images, arguments.width), np.float32)
        copies = arguments.images // 20  # every twentieth image is nearly another
        features[-copies:] = features[:copies] + 0.1 * features[-copies:]
        write_features(file, features, [f"{i:06}.jpg" for i in range(len(features))], Origin("none", None, "/", []))
        del features
        for question in QUESTIONS:
            subprocess.run([sys.executable, __file__, "--ask", question, "--file", str(file)], check=True)


def ask(question: str, file: Path) -> None:
    """Print how long a question takes."""
    start = time.perf_counter()
    index = read_features(file)
    read = time.perf_counter()
    found = ""
    if question.startswith("5 neighbours of 10"):
        nearest(index.features[:10], index.features, 5, own=0)
    elif question.startswith("5"):
        nearest(index.features, index.features, 5, own=0)
    elif question.startswith("groups"):
        found = f", {len(near_duplicates(index.features, 0.95)):,} groups"
    took = (read if question == "read" else time.perf_counter()) - (start if question == "read" else read)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{question}: {took:.1f} s, peak {peak:.0f} MiB{found}", flush=True)


if __name__ == "__main__":
    main()

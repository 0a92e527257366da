"""The demonstration's experiment on all of Fashion-MNIST: 60,000 images without labels, 1,000 labels, several seeds.

    python benchmarks/small_data.py --data FOLDER --output runs/small_data

FOLDER holds the four `*-ubyte.gz` files of Fashion-MNIST (Debian's package dataset-fashion-mnist has them). Each seed
draws its own 100 labels per class and trains everything from scratch: tokenizer, pre-training, fine-tuning, and the same network
from scratch. The table shows every seed. A finished seed is not run again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import statistics
import time
from pathlib import Path

import numpy as np

from beit.core.files import write_json
from beit.data import embedded as assets
from beit.data.sources.images import ArrayImages
from beit.demo.experiment import LABELS_PER_CLASS, Data, run_experiment
from beit.demo.torch.baselines import raw_pixel_baselines
from beit.train import recipes


def read_idx(path: Path) -> np.ndarray:
    """An array in the MNIST files' format: big-endian sizes, then bytes."""
    with gzip.open(path) as file:
        raw = file.read()
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def load(folder: Path, seed: int) -> Data:
    """60,000 images without labels, 100 labels a class drawn by `seed`, 10,000 test images."""
    if not (folder / "train-images-idx3-ubyte.gz").is_file():
        raise SystemExit(f"{folder} has no train-images-idx3-ubyte.gz: give the folder with Fashion-MNIST's files.")
    train = read_idx(folder / "train-images-idx3-ubyte.gz")
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz")
    test = read_idx(folder / "t10k-images-idx3-ubyte.gz")
    test_labels = read_idx(folder / "t10k-labels-idx1-ubyte.gz")
    rng = np.random.default_rng(seed)
    chosen = np.concatenate(
        [rng.choice(np.flatnonzero(labels == number), LABELS_PER_CLASS, replace=False) for number in range(10)]
    )
    return Data(
        ArrayImages(train),
        ArrayImages(train[chosen], labels[chosen], assets.GARMENTS),
        ArrayImages(test, test_labels, assets.GARMENTS),
    )


def run_seed(data: Path, output: Path, seed: int, length: float) -> dict[str, float]:
    """All figures of one seed, from its file if it was run before."""
    path = output / f"seed-{seed}" / "figures.json"
    if path.is_file():
        return json.loads(path.read_text())
    shutil.rmtree(path.parent, ignore_errors=True)  # of a seed that was stopped half-way
    began = time.perf_counter()
    images = load(data, seed)
    result = run_experiment(images, recipes.garments(path.parent, seed, length))
    count = len(images.test)
    figures = {name: right / count for name, right in raw_pixel_baselines(images.labelled, images.test).items()}
    figures |= {
        "from scratch": result.scratch.top1,
        "pre-trained": result.tuned.top1,
        "codes used": result.usage["codes_used"],
        "masked accuracy": result.history["pretrain"][-1]["masked_accuracy"],
        "commonest token": result.history["pretrain"][-1]["commonest_token"],
        "minutes": (time.perf_counter() - began) / 60,
    }
    write_json(path, figures)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with Fashion-MNIST's files")
    parser.add_argument("--output", type=Path, default=Path("runs/small_data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--length", type=float, default=1.0, help="factor on all numbers of steps")
    arguments = parser.parse_args()
    rows = [run_seed(arguments.data, arguments.output, seed, arguments.length) for seed in arguments.seeds]
    write_json(arguments.output / "figures.json", dict(zip(map(str, arguments.seeds), rows, strict=True)))
    header = ["", *(f"seed {seed}" for seed in arguments.seeds), "mean"]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for name in rows[0]:
        values = [row[name] for row in rows]
        shown = [
            f"{value:.1f}" if name == "minutes" else f"{value:.1%}" for value in [*values, statistics.mean(values)]
        ]
        print(f"| {name} | " + " | ".join(shown) + " |")
    gains = [100 * (row["pre-trained"] - row["from scratch"]) for row in rows]
    print("| gain, points | " + " | ".join(f"{gain:+.1f}" for gain in [*gains, statistics.mean(gains)]) + " |")


if __name__ == "__main__":
    main()

"""Few labelled images: `beit finetune` without settings, beside timm's `train.py` without settings and a logistic regression.

    python benchmarks/few_labels.py --start PRETRAINED --set NAME LEARN TEST … --timm REPOSITORY --timm-python PYTHON --output out

PRETRAINED is a folder that `beit pretrain` made; LEARN and TEST are folders with one subfolder per class. REPOSITORY is a checkout
of timm, whose `train.py` its package does not have; PYTHON an interpreter with torch, timm and scikit-learn. All three begin from
the same weights and are measured on TEST, which nothing has chosen by:

- beit: `beit finetune --images LEARN --model PRETRAINED`, which holds out a fifth of LEARN itself;
- timm: `train.py` learns from all of LEARN. Given are only what it cannot know: the model, its weights, the number of classes, and
  mean and deviation of the pixels. Its last epoch, of 300, counts;
- logistic regression on standardised features of the frozen network, of each layer, from all of LEARN; its strength by
  cross-validation. The best layer by TEST counts, which favours it.

A finished seed is not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import runpy
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def timm_train(start: Path, weights: Path, repository: Path, arguments: list[str]) -> None:
    """Run timm's train.py in this process on a model of the start's sizes and weights, registered as `beit_start`."""
    from functools import partial

    sys.path.insert(0, str(repository))
    import torch
    from timm.models import register_model
    from timm.models.beit import Beit

    config = json.loads((start / "config.json").read_text())

    def beit_start(pretrained: bool = False, **keywords: Any) -> torch.nn.Module:
        keywords = {name: value for name, value in keywords.items() if name in ("num_classes", "drop_path_rate")}
        model = Beit(
            img_size=config["image_size"],
            patch_size=config["patch_size"],
            embed_dim=config["hidden_size"],
            depth=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            mlp_ratio=config["intermediate_size"] / config["hidden_size"],
            init_values=config["layer_scale_init_value"],
            use_abs_pos_emb=config["use_absolute_position_embeddings"],
            use_rel_pos_bias=config["use_relative_position_bias"],
            use_shared_rel_pos_bias=config["use_shared_relative_position_bias"],
            norm_layer=partial(torch.nn.LayerNorm, eps=config["layer_norm_eps"]),
            **keywords,
        )
        found = torch.load(weights, map_location="cpu", weights_only=True)["model"]
        report = model.load_state_dict(found, strict=False)
        new = {name for name in report.missing_keys if not name.startswith(("head.", "fc_norm."))}
        if new - {name for name in new if name.endswith("relative_position_index")}:
            raise SystemExit(f"weights that timm's model lacks: {sorted(new)}")
        print("not taken by timm's model:", report.unexpected_keys, flush=True)
        model.pretrained_cfg = model.default_cfg = {
            "input_size": (3, config["image_size"], config["image_size"]),
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "num_classes": keywords.get("num_classes", 0),
        }
        return model

    beit_start.__module__ = "timm.models.beit"
    register_model(beit_start)
    sys.argv = ["train.py", *arguments]
    runpy.run_path(str(repository / "train.py"), run_name="__main__")


def logistic(learn: str, test: str) -> None:
    """Print the test accuracy of a logistic regression on two .npz files with `x (n, D)` and `y (n,)`."""
    import numpy as np
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, asked = np.load(learn), np.load(test)
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=10, max_iter=2000))
    print(float(model.fit(known["x"], known["y"]).score(asked["x"], asked["y"])))


def run(command: list[str], log: Path) -> float:
    """Run a command with its output in a file. Returns its seconds."""
    began = time.perf_counter()
    with open(log, "w") as file:
        found = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    if found.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {found.returncode}; see {log}")
    return time.perf_counter() - began


def measure(arguments: argparse.Namespace, name: str, learn: Path, test: Path) -> dict[str, Any]:
    """All figures of one set, from its file where they are there."""
    output = arguments.output / name
    output.mkdir(parents=True, exist_ok=True)
    figures = output / "figures.json"
    found: dict[str, Any] = json.loads(figures.read_text()) if figures.exists() else {}
    beit = [sys.executable, "-m", "beit.cli"]
    for seed in range(arguments.seeds):
        if f"beit {seed}" in found:
            continue
        folder = output / f"beit-{seed}"
        command = [*beit, "finetune", "--images", str(learn), "--model", str(arguments.start), "--output", str(folder)]
        seconds = run([*command, "--seed", str(seed)], output / f"beit-{seed}.log")
        report = output / f"beit-{seed}-test"
        command = [*beit, "evaluate", "--images", str(test), "--model", str(folder), "--output", str(report)]
        run(command, output / f"beit-{seed}-test.log")
        top1 = json.loads((report / "evaluation.json").read_text())["top1"]
        found[f"beit {seed}"] = {"top1": top1, "seconds": seconds}
        figures.write_text(json.dumps(found))
    processor = json.loads((arguments.start / "preprocessor_config.json").read_text())
    weights = arguments.output / "start.pth"
    if not weights.exists():
        run([*beit, "convert", str(arguments.start), str(weights), "--to", "unilm"], arguments.output / "convert.log")
    classes = sum(entry.is_dir() for entry in learn.iterdir())
    data = output / "timm-data"
    data.mkdir(exist_ok=True)
    for part, folder in (("train", learn), ("validation", test)):
        if not (data / part).exists():
            (data / part).symlink_to(folder.resolve())
    for seed in range(arguments.seeds):
        if f"timm {seed}" in found:
            continue
        command = [
            arguments.timm_python,
            __file__,
            "--as-timm",
            str(arguments.start),
            str(weights),
            str(arguments.timm),
        ]
        command += ["--data-dir", str(data), "--model", "beit_start", "--num-classes", str(classes)]
        command += ["--mean", *map(str, processor["image_mean"]), "--std", *map(str, processor["image_std"])]
        command += ["--device", "cpu", "--seed", str(seed), "--output", str(output), "--experiment", f"timm-{seed}"]
        command += ["--val-interval", "100", "--workers", "1"]  # saves time, and changes no training
        seconds = run(command, output / f"timm-{seed}.log")
        with open(output / f"timm-{seed}" / "summary.csv") as file:
            rows = list(csv.DictReader(file))
        found[f"timm {seed}"] = {"top1": float(rows[-1]["eval_top1"]) / 100, "seconds": seconds}
        figures.write_text(json.dumps(found))
    if "logistic" not in found:
        layers = json.loads((arguments.start / "config.json").read_text())["num_hidden_layers"]
        found["logistic"] = [layer_accuracy(arguments, output, learn, test, layer) for layer in range(1, layers + 1)]
        figures.write_text(json.dumps(found))
    return found


def layer_accuracy(arguments: argparse.Namespace, output: Path, learn: Path, test: Path, layer: int) -> float:
    """Test accuracy of a logistic regression on one layer's mean of the patches."""
    import numpy as np

    paths = []
    for part, folder in (("learn", learn), ("test", test)):
        file = output / f"{part}-{layer}.npy"
        command = [sys.executable, "-m", "beit.cli", "embed", "--model", str(arguments.start), "--images", str(folder)]
        run([*command, "--layer", str(layer), "--output", str(file), "--overwrite"], output / "embed.log")
        names = [Path(line).parent.name for line in file.with_suffix(".txt").read_text().splitlines()]
        paths.append(file.with_suffix(".npz"))
        np.savez(paths[-1], x=np.load(file), y=np.array(names))
    command = [arguments.timm_python, __file__, "--logistic", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[-1])


def interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of the mean of a few runs, by Student's t."""
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}[len(values)]
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.mean(values)
    return mean - half, mean + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--set", nargs=3, action="append", required=True, metavar=("NAME", "LEARN", "TEST"))
    parser.add_argument("--timm", type=Path, required=True)
    parser.add_argument("--timm-python", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}; {arguments.seeds} seeds; mean and 95 % interval of the mean")
    for name, learn, test in arguments.set:
        found = measure(arguments, name, Path(learn), Path(test))
        print(name)
        for who in ("beit", "timm"):
            runs = [found[f"{who} {seed}"] for seed in range(arguments.seeds)]
            values = [each["top1"] for each in runs]
            low, high = interval(values)
            each = ", ".join(f"{value:.1%}" for value in values)
            seconds = statistics.median(run["seconds"] for run in runs)
            print(f"  {who}: {statistics.mean(values):.1%} ({low:.1%} to {high:.1%}); {each}; {seconds:.0f} s")
        layers = ", ".join(f"{value:.1%}" for value in found["logistic"])
        print(f"  logistic regression, best layer: {max(found['logistic']):.1%}; layers: {layers}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-timm"]:
        timm_train(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
    elif sys.argv[1:2] == ["--logistic"]:
        logistic(sys.argv[2], sys.argv[3])
    else:
        main()

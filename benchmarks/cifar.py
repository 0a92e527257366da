"""A paper's table in small: CIFAR-10 with few labels, from scratch, pre-trained with tokens, pre-trained with pixels.

    python benchmarks/cifar.py --images FOLDER --output runs/cifar

FOLDER has train/ and test/ with one subfolder a class. One tokenizer and two pre-trainings on all training images without
labels; then fine-tuning, a linear probe and k-NN of the best layer, with 1 %, 10 % and 100 % of the labels. Each seed draws
its own labels. The best layer is chosen on a fifth of those labels held out, never on test images. What is finished is not
run again, so the script can be stopped and started.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from beit.core.files import atomic_path, write_json
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import FolderImages, Images
from beit.data.sources.in_memory import hold_in_memory
from beit.evaluation import probe
from beit.evaluation.hold_out import hold_out
from beit.models.torch.beit import BeitForMaskedImageModeling, BeitModel
from beit.train.finetune import finetune
from beit.train.pretrain import pretrain
from beit.train.recipes import Experiment, small_images
from beit.train.tokenizer import train_tokenizer


@dataclass(frozen=True)
class Share:
    """A part of the labels.

    Attributes:
        name: for people.
        per_class: labelled images of each class; None for all.
        steps: of fine-tuning, 64 images each.
        seeds: how many.
    """

    name: str
    per_class: int | None
    steps: int
    seeds: int


SHARES = (Share("1 %", 50, 600, 3), Share("10 %", 500, 2000, 3), Share("100 %", None, 6000, 1))
STARTS = ("scratch", "pixels", "tokens")
WAYS = {"tune": "fine-tuned", "linear": "linear probe of the best layer", "knn": "k-NN of the best layer"}


@dataclass(frozen=True)
class Data:
    """Training and test images, and where results go."""

    train: Images
    test: Images
    output: Path


def some_of_each_class(images: Images, count: int | None, seed: int) -> Images:
    """`count` images of each class, drawn by the seed."""
    if count is None:
        return images
    assert images.labels is not None
    rng = np.random.default_rng(seed)
    chosen = [
        rng.choice(np.flatnonzero(images.labels == number), count, replace=False)
        for number in range(len(images.classes))
    ]
    return images.subset(np.sort(np.concatenate(chosen)))


def once(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` finds, with its minutes; from its file if it was done before."""
    if path.is_file():
        return json.loads(path.read_text())
    began = time.perf_counter()
    found = {**work(), "minutes": (time.perf_counter() - began) / 60}
    write_json(path, found)
    return found


def prepare(images: Path, output: Path, length: float) -> dict[str, Experiment]:
    """Train the tokenizer and both models, unless they are there; what they were trained by."""
    experiments: dict[str, Experiment] = {}
    for target in ("tokens", "pixels"):
        found = small_images(images / "train", output, target, length=length)  # type: ignore[arg-type]
        if target == "tokens" and not (output / "tokenizer" / "config.json").is_file():
            train_tokenizer(replace(found.tokenizer, resume="auto"))
        settings = replace(found.pretrain, output=output / target, resume="auto")
        if not (settings.output / "config.json").is_file():
            pretrain(settings)
        experiments[target] = replace(found, finetune=replace(found.finetune, model=str(settings.output)))
    return experiments


def tuned(experiments: dict[str, Experiment], start: str, share: Share, seed: int, data: Data, length: float) -> float:
    """Top-1 on the test images after fine-tuning."""
    settings = experiments["tokens"].scratch if start == "scratch" else experiments[start].finetune
    output = data.output / "tune" / f"{start}-{share.per_class}-{seed}"
    shutil.rmtree(output, ignore_errors=True)  # of a run that was stopped half-way
    steps = max(round(share.steps * length), 4)
    settings = replace(settings, output=output, steps=steps, save_every=steps, seed=seed)
    _, result = finetune(settings, some_of_each_class(data.train, share.per_class, seed), data.test)
    assert result is not None
    return result.top1


def probed(start: str, share: Share, seed: int, data: Data) -> dict[str, Any]:
    """Top-1 on the test images of the layer that is best on held-out training images: linear probe and k-NN."""
    folder = data.output / ("tokens" if start == "scratch" else start)
    processor = BeitImageProcessor.from_pretrained(folder)
    model: BeitModel | BeitForMaskedImageModeling
    if start == "scratch":  # random weights: what the architecture alone gives
        import torch

        torch.manual_seed(seed)
        model = BeitForMaskedImageModeling(BeitForMaskedImageModeling.from_pretrained(folder).config)
    else:
        model = BeitModel.from_pretrained(folder, add_pooling_layer=False)
    known = some_of_each_class(data.train, share.per_class, seed)
    how: dict[str, Any] = {"standardise": True, "seed": seed, "batch_size": 256}
    chosen = probe.probe(model, processor, *hold_out(known, seed), **how)
    layers = {"linear": chosen.best_layer, "knn": chosen.layers[int(np.argmax(chosen.knn_right))]}
    result = probe.probe(model, processor, known, data.test, sorted(set(layers.values())), **how)
    place = {name: result.layers.index(layer) for name, layer in layers.items()}
    return {
        "linear": result.linear[place["linear"]],
        "knn": result.knn[place["knn"]],
        "layers": layers,
        "of all layers": {"linear": chosen.linear, "knn": chosen.knn},
    }


def mean_and_range(values: Sequence[float]) -> str:
    """`47.1 % (46.2 – 48.0)`; one value as it is."""
    text = f"{100 * statistics.mean(values):.1f} %"
    return text if len(values) == 1 else f"{text} ({100 * min(values):.1f} – {100 * max(values):.1f})"


def draw(path: Path, figures: dict[str, Any], output: Path) -> None:
    """Accuracy over labels, and how pre-training went."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 5, figsize=(19, 3.6), layout="constrained")
    colours = dict(zip(STARTS, ("#888888", "#e08214", "#2166ac"), strict=True))
    for axis, (way, title) in zip(axes, WAYS.items(), strict=False):
        for start in STARTS:
            points = [
                (share.name, [figures[f"{way} {start} {share.per_class} {seed}"] for seed in range(share.seeds)])
                for share in SHARES
            ]
            places = range(len(points))
            axis.plot(places, [100 * statistics.mean(v) for _, v in points], "o-", color=colours[start], label=start)
            for place, (_, values) in zip(places, points, strict=True):
                axis.plot([place] * len(values), [100 * value for value in values], "_", color=colours[start])
        axis.set_xticks(places, [share.name for share in SHARES])
        axis.set(title=title, xlabel="labels", ylabel="top-1, %")
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    for axis, (name, lines) in zip(
        axes[3:],
        {
            "tokens": (("masked_accuracy", "masked tokens guessed"), ("commonest_token", "commonest token alone")),
            "pixels": (("explained", "variance explained"),),
        }.items(),
        strict=True,
    ):
        rows = [json.loads(line) for line in (output / name / "log.jsonl").read_text().splitlines()]
        for key, label in lines:
            axis.plot([row["step"] for row in rows], [100 * row[key] for row in rows], label=label)
        axis.set(title=f"pre-training, {name}", xlabel="step", ylabel="%")
        axis.legend(frameon=False)
        axis.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--output", type=Path, default=Path("runs/cifar"))
    parser.add_argument("--length", type=float, default=1.0, help="factor on all numbers of steps")
    arguments = parser.parse_args()
    output, length = arguments.output, arguments.length
    experiments = prepare(arguments.images, output, length)
    train = FolderImages(arguments.images / "train", labelled=True)
    test = FolderImages(arguments.images / "test", labelled=True, classes=train.classes)
    bad = BadImages(len(train) + len(test))
    data = Data(hold_in_memory(train, bad, 32), hold_in_memory(test, bad, 32), output)
    figures: dict[str, Any] = {}
    minutes = dict.fromkeys(("tune", "probe"), 0.0)
    for share in SHARES:
        for seed in range(share.seeds):
            for start in STARTS:
                where = f"{start} {share.per_class} {seed}"

                def measure(start: str = start, share: Share = share, seed: int = seed) -> dict[str, Any]:
                    return {"top1": tuned(experiments, start, share, seed, data, length)}

                def look(start: str = start, share: Share = share, seed: int = seed) -> dict[str, Any]:
                    return probed(start, share, seed, data)

                done = once(output / "figures" / f"tune {where}.json", measure)
                seen = once(output / "figures" / f"probe {where}.json", look)
                figures |= {
                    f"tune {where}": done["top1"],
                    f"linear {where}": seen["linear"],
                    f"knn {where}": seen["knn"],
                }
                figures[f"layers {where}"] = seen["layers"]
                minutes["tune"] += done["minutes"]
                minutes["probe"] += seen["minutes"]
                print({name: value for name, value in figures.items() if name.endswith(where)}, flush=True)
    write_json(output / "figures.json", {**figures, "minutes": minutes})
    print("| | " + " | ".join(f"{share.name} of the labels" for share in SHARES) + " |\n|" + "---|" * (1 + len(SHARES)))
    for way, title in WAYS.items():
        for start in STARTS:
            cells = [
                mean_and_range([figures[f"{way} {start} {share.per_class} {seed}"] for seed in range(share.seeds)])
                for share in SHARES
            ]
            print(f"| {title}, {start} | " + " | ".join(cells) + " |")
    print("minutes: " + ", ".join(f"{name} {value:.0f}" for name, value in minutes.items()))
    draw(output / "cifar.png", figures, output)


if __name__ == "__main__":
    main()

"""Our augmentations beside timm's: each operation pixel by pixel, the distributions of what is drawn, mixing, erasing.

    PYTHONPATH=src <environment with timm and torchvision>/bin/python tests/peers/check_augment.py --photos FOLDER

Exits with 1 when an operation or a mix differs, or a distribution is further from timm's than chance allows.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import auto_augment as theirs
from timm.data.mixup import Mixup, mixup_target
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train

from beit.data.transforms import augment as ours
from beit.data.transforms.erasing import erase_rectangle
from beit.data.transforms.mixing import mixup

NAMES = {
    "autocontrast": "AutoContrast",
    "equalise": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterise": "PosterizeIncreasing",
    "solarise": "SolarizeIncreasing",
    "solarise_add": "SolarizeAdd",
    "saturation": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "shift_x": "TranslateXRel",
    "shift_y": "TranslateYRel",
}
MAGNITUDES = (0.0, 1.0, 2.5, 5.0, 7.77, 8.3, 9.0, 9.52, 10.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DRAWS = 20_000


def ks(one: Any, other: Any) -> float:
    """Two-sample Kolmogorov-Smirnov statistic: the largest difference of the two distribution functions."""
    one, other = np.sort(np.asarray(one, float)), np.sort(np.asarray(other, float))
    places = np.concatenate([one, other])
    parts = [np.searchsorted(values, places, side="right") / len(values) for values in (one, other)]
    return float(np.abs(parts[0] - parts[1]).max())


def ks_limit(one: Any, other: Any) -> float:
    """What chance exceeds once in 10,000 times."""
    return math.sqrt(-math.log(1e-4 / 2) / 2 * (1 / len(one) + 1 / len(other)))


class Failures(list[str]):
    """Collects and prints."""

    def check(self, good: bool, text: str) -> None:
        print(("ok      " if good else "DIFFERS ") + text)
        if not good:
            self.append(text)

    def distribution(self, name: str, one: Any, other: Any) -> None:
        found, limit = ks(one, other), ks_limit(one, other)
        means = f"means {np.mean(one):.4f} {np.mean(other):.4f}"
        self.check(found <= limit, f"{name}: KS {found:.4f} (limit {limit:.4f}), {means}")


class Scripted:
    """Stands for a numpy Generator and gives out what it is told to."""

    def __init__(self, **values: list[Any]) -> None:
        self.values = values

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *rest, **more: self.values[name].pop(0)


def operations(photos: list[Image.Image], failures: Failures) -> None:
    """The same amount, the same bytes; amounts from timm's own functions of the magnitude."""
    pipeline = transforms_imagenet_train(
        (224, 224), color_jitter=0.4, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic", mean=MEAN, std=STD
    )
    jitters = [type(step).__name__ for step in pipeline.transforms]
    failures.check("ColorJitter" not in jitters, f"timm's pipeline has no colour jitter: {', '.join(jitters)}")
    policy = next(step for step in pipeline.transforms if isinstance(step, theirs.RandAugment))
    known = {operation.name: operation for operation in policy.ops}
    failures.check(set(known) == set(NAMES.values()) and set(NAMES) == set(ours.OPERATIONS), "the same 15 operations")
    fill = tuple(min(round(255 * value), 255) for value in MEAN)
    for name, theirs_name in NAMES.items():
        operation, other = ours.OPERATIONS[name], known[theirs_name]
        if other.kwargs != {"fillcolor": fill, "resample": Image.Resampling.BICUBIC}:
            failures.check(False, f"{name}: timm passes {other.kwargs}")
        pixels, worst, count = 0, 0, 0
        for magnitude in MAGNITUDES:
            for negative in (False, True):
                with mock.patch.object(random, "random", lambda negative=negative: 1.0 if negative else 0.0):
                    arguments = other.level_fn(magnitude, other.hparams) if other.level_fn else ()
                amount = magnitude / 10 * operation.most * (-1 if negative and operation.signed else 1)
                for photo in photos:
                    if name == "posterise" and arguments == (
                        0,
                    ):  # black in older Pillow; an error since 13, in timm too
                        expected = np.zeros((photo.height, photo.width, 3), int)
                    else:
                        expected = np.asarray(other.aug_fn(photo, *arguments, **other.kwargs)).astype(int)
                    found = np.asarray(operation.apply(photo, amount, fill)).astype(int)
                    pixels += int((found != expected).sum())
                    worst, count = max(worst, int(np.abs(found - expected).max())), count + found.size
        failures.check(pixels == 0, f"{name}: {pixels} of {count} values differ, by at most {worst}")


def policies(failures: Failures) -> None:
    """Which operations, how often, how strong: 20,000 pictures each."""
    recorded: list[tuple[str, float]] = []
    policy = theirs.rand_augment_transform(
        "rand-m9-mstd0.5-inc1", {"img_mean": (128, 128, 128), "interpolation": Image.Resampling.BICUBIC}
    )
    back = {value: key for key, value in NAMES.items()}
    for operation in policy.ops:
        name = back[operation.name]

        def note(image: Any, *arguments: float, name: str = name, **rest: Any) -> Any:
            recorded.append((name, float(arguments[0]) if arguments else 0.0))
            return image

        operation.aug_fn = note
    np.random.seed(0)
    random.seed(0)
    lengths = []
    for _ in range(DRAWS):
        before = len(recorded)
        policy(None)
        lengths.append(len(recorded) - before)
    rng = np.random.default_rng(0)
    drawn = [ours.draw_operations(rng) for _ in range(DRAWS)]
    failures.distribution("operations a picture", [len(each) for each in drawn], lengths)
    flat = [pair for each in drawn for pair in each]
    counts, other_counts = Counter(name for name, _ in flat), Counter(name for name, _ in recorded)
    # Two samples of a multinomial: chi-squared with 14 degrees of freedom, below 42.6 in 9,999 of 10,000 cases.
    chi = sum((counts[name] - other_counts[name]) ** 2 / (counts[name] + other_counts[name]) for name in NAMES)
    failures.check(
        chi < 42.6, f"counts of operations: chi-squared {chi:.1f} (limit 42.6); least {min(counts.values())}"
    )
    arguments: dict[str, Callable[[float], float]] = {
        "posterise": lambda amount: 4 - int(amount),
        "solarise": lambda amount: 256 - int(amount),
        "solarise_add": int,
        **dict.fromkeys(("saturation", "contrast", "brightness", "sharpness"), lambda amount: max(0.1, 1 + amount)),
    }
    for name in NAMES:
        if ours.OPERATIONS[name].most:
            own = [arguments.get(name, float)(amount) for found, amount in flat if found == name]
            failures.distribution(f"amounts of {name}", own, [amount for found, amount in recorded if found == name])


def mixing(failures: Failures) -> None:
    """Given lambda and box, the same pixels and targets; and the same chances."""
    generator = torch.Generator().manual_seed(0)
    for height, width in ((224, 224), (32, 20)):
        worst = worst_target = 0.0
        for index in range(40):
            images = torch.randn(6, 3, height, width, generator=generator)
            labels = torch.randint(0, 10, (6,), generator=generator)
            cut, keep = bool(index % 2), float(np.random.default_rng(index).beta(1, 1))
            centre = [int(value) for value in np.random.default_rng(index).integers((height, width))]
            mixer = Mixup(0.8, 1.0, prob=1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=10)
            places = iter(centre)
            with (
                mock.patch.object(mixer, "_params_per_batch", lambda keep=keep, cut=cut: (keep, cut)),
                mock.patch.object(np.random, "randint", lambda *rest, places=places, **more: next(places)),
            ):
                expected, expected_targets = mixer(images.clone(), labels)
            rng = Scripted(integers=[int(cut), *centre], beta=[keep])
            mixed = mixup(images.numpy(), np.eye(10, dtype=np.float32)[labels.numpy()], 0.8, 1.0, rng)  # type: ignore[arg-type]
            found, targets = map(torch.from_numpy, mixed)
            smoothed = targets * 0.9 + 0.1 / 10  # what torch's cross_entropy does with label_smoothing
            worst = max(worst, float((found - expected).abs().max()))
            worst_target = max(worst_target, float((smoothed - expected_targets).abs().max()))
            logits = torch.randn(6, 10, generator=generator)
            loss = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
            their_loss = -(expected_targets * logits.log_softmax(-1)).sum(-1).mean()
            worst_target = max(worst_target, float((loss - their_loss).abs()))
        failures.check(worst < 2e-6, f"mixed {height}x{width}: images differ by at most {worst:.1e}")
        failures.check(worst_target < 2e-6, f"mixed {height}x{width}: targets and losses by at most {worst_target:.1e}")
    shares: dict[str, list[float]] = {"ours": [], "timm": []}
    images, targets, labels = torch.zeros(2, 3, 16, 16), np.eye(2, dtype=np.float32), torch.tensor([0, 1])
    rng = np.random.default_rng(1)
    np.random.seed(1)
    mixer = Mixup(0.8, 1.0, prob=0.9, switch_prob=0.5, label_smoothing=0.0, num_classes=2)
    for _ in range(DRAWS // 2):
        shares["ours"].append(float(mixup(images.numpy(), targets, 0.8, 1.0, rng, 0.9)[1][0, 0]))
        shares["timm"].append(float(mixup_target(labels, 2, mixer._mix_batch(images.clone()))[0, 0]))
    failures.distribution("share of an image's own label, mixed with probability .9", shares["ours"], shares["timm"])


def erasing(failures: Failures) -> None:
    """Where, how much, with what."""
    for height, width in ((64, 64), (24, 60)):
        eraser = RandomErasing(0.25, mode="pixel", device="cpu")
        rng = np.random.default_rng(2)
        random.seed(2)
        torch.manual_seed(2)
        found: dict[str, list[list[float]]] = {"ours": [], "timm": []}
        noise: dict[str, list[float]] = {"ours": [], "timm": []}
        for _ in range(DRAWS):
            for who in found:
                image = torch.full((3, height, width), 9.0)
                if who == "timm":
                    eraser(image)
                elif rng.random() < 0.25:
                    erase_rectangle(image.numpy(), rng)  # shares its memory
                changed = (image != 9).all(0)
                rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
                if len(rows):
                    h, w = len(rows), len(columns)
                    place = [int(rows[0]) / max(height - h, 1), int(columns[0]) / max(width - w, 1)]
                    found[who].append([h * w / (height * width), math.log(h / w), *place])
                    noise[who].append(float(image[0, rows[0], columns[0]]))
        parts = len(found["ours"]) / DRAWS, len(found["timm"]) / DRAWS
        spread = 4 * math.sqrt(2 * 0.25 * 0.75 / DRAWS)
        failures.check(abs(parts[0] - parts[1]) < spread, f"erased {height}x{width}: {parts[0]:.4f} and {parts[1]:.4f}")
        for index, name in enumerate(("area", "log aspect", "top", "left")):
            pair = [[each[index] for each in found[who]] for who in ("ours", "timm")]
            failures.distribution(f"erased {height}x{width}, {name}", *pair)
        failures.distribution(f"erased {height}x{width}, noise", noise["ours"], noise["timm"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder with JPEG photographs")
    paths = sorted(parser.parse_args().photos.glob("*.jpg"))[:3]
    photos = [Image.open(path).convert("RGB").resize((224, 224)) for path in paths]
    photos.append(Image.open(paths[0]).convert("RGB").crop((0, 0, 61, 37)))
    print(f"timm {timm.__version__}, {len(photos)} pictures, {DRAWS} draws")
    failures = Failures()
    operations(photos, failures)
    policies(failures)
    mixing(failures)
    erasing(failures)
    print(f"{len(failures)} differences")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Pre-training's two views and masks beside the authors' code (microsoft/unilm, folder beit).

    PYTHONPATH=src <environment with timm and torchvision>/bin/python tests/peers/check_views.py \\
        --unilm FOLDER_OF_UNILM/beit --photos FOLDER

With the same jitter factors, flip and box both views must be equal to the bit; over 20,000 draws the distributions of
boxes, flips, factors and masks must agree. Exits with 1 when something differs.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import types
from argparse import Namespace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from check_augment import DRAWS, Failures
from PIL import Image
from torchvision.transforms import functional as torchvision_functional

from beit.config import BeitConfig
from beit.data.masking import BlockMask
from beit.data.transforms import colours, crops
from beit.data.transforms.pretrain import PretrainViews
from beit.data.transforms.sample_seed import SampleSeed
from beit.train.settings import PretrainSettings

JITTERS = ("adjust_brightness", "adjust_contrast", "adjust_saturation")
SIZES = ((500, 375), (333, 500), (224, 224), (900, 300), (200, 700))  # the last two often end in the fallback


def load_theirs(folder: Path) -> types.ModuleType:
    """The authors' `datasets` module, with what has moved since 2021 put back in place."""
    np.int = int  # type: ignore[attr-defined]
    sys.modules["requests"] = types.ModuleType("requests")  # imported for a download that nobody asks for here
    sys.path.insert(0, str(folder))
    import datasets

    assert Path(datasets.__file__ or "").parent == folder, f"{datasets.__file__} is not the authors' datasets.py"
    return datasets


def theirs_arguments() -> Namespace:
    """Of the authors' base recipe on ImageNet-22k."""
    return Namespace(
        imagenet_default_mean_and_std=False,
        input_size=224,
        second_input_size=112,
        train_interpolation="bicubic",
        second_interpolation="lanczos",
        discrete_vae_type="dall-e",
        window_size=(14, 14),
        num_mask_patches=75,
        max_mask_patches_per_block=None,
        min_mask_patches_per_block=16,
    )


def equal_views(theirs: Any, ours: PretrainViews, photos: list[Image.Image], failures: Failures) -> None:
    """Our draws, played to the authors' transform: the same floats."""
    from beit.data.transforms import pretrain

    our_view, our_jitter = pretrain.view, pretrain.jitter_colours
    worst, worst_tokens, flips, count = 0.0, 0.0, 0, 0
    for number, photo in enumerate(photos):
        for visit in range(8):
            seen: dict[str, Any] = {"jitter": []}

            def note_view(image: Image.Image, box: Any, size: Any, resample: Any, flip: bool, seen: Any = seen) -> Any:
                seen.update(box=box, flip=flip)
                return our_view(image, box, size, resample, flip)

            def note_uniform(image: Any, amount: float, rng: Any, seen: Any = seen) -> Image.Image:
                copy = np.random.Generator(type(rng.bit_generator)())
                copy.bit_generator.state = rng.bit_generator.state
                seen["jitter"] = [(int(i), float(copy.uniform(1 - amount, 1 + amount))) for i in copy.permutation(3)]
                return our_jitter(image, amount, rng)

            with (
                mock.patch.object(pretrain, "view", note_view),
                mock.patch.object(pretrain, "jitter_colours", note_uniform),
            ):
                found = ours.one(photo, 0, SampleSeed(0, visit, number))
            left, top, right, bottom = seen["box"]
            if seen["flip"]:  # the authors' box is one of the flipped image
                left, right = photo.width - right, photo.width - left
            jitter, flip, crop = theirs.common_transform.transforms
            image = photo
            order = torch.tensor([index for index, _ in seen["jitter"]])
            factors = [dict(seen["jitter"])[index] for index in range(3)]
            with mock.patch.object(type(jitter), "get_params", lambda *a, o=order, f=factors: (o, *f, None)):
                image = jitter(image)
            with mock.patch.object(torch, "rand", lambda *a, f=seen["flip"]: torch.tensor([0.0 if f else 0.9])):
                image = flip(image)
            place = (top, left, bottom - top, right - left)
            with mock.patch.object(type(crop), "get_params", lambda *a, p=place: p):
                patches, tokens = crop(image)
            expected = theirs.patch_transform(patches)
            worst = max(worst, float(np.abs(found["pixel_values"] - expected.numpy()).max()))
            # Their view goes on to 0.8 x + 0.1 (map_pixels), which is the tokenizer's part with us.
            expected_tokens = torchvision_functional.to_tensor(tokens)
            worst_tokens = max(worst_tokens, float(np.abs(found["token_pixels"] - expected_tokens.numpy()).max()))
            mapped = theirs.visual_token_transform(tokens)
            assert float((mapped - (0.8 * expected_tokens + 0.1)).abs().max()) < 1e-6
            flips, count = flips + bool(seen["flip"]), count + 1
    failures.check(worst == 0, f"224 bicubic: {count} views ({flips} flipped) differ by at most {worst:.1e}")
    failures.check(worst_tokens == 0, f"112 lanczos: {count} views differ by at most {worst_tokens:.1e}")


def distributions(theirs: Any, ours: PretrainViews, failures: Failures) -> None:
    """Boxes by picture size, flips, jitter and masks."""
    jitter, flip, crop = theirs.common_transform.transforms
    random.seed(0)
    torch.manual_seed(0)
    for size in SIZES:
        rng = np.random.default_rng(size)
        blank, count = Image.new("RGB", size), DRAWS if size == SIZES[0] else DRAWS // 4
        own = np.array([crops.crop_box(rng, size, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(count)])
        boxes = np.array([crop.get_params(blank, crop.scale, crop.ratio) for _ in range(count)])
        other = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 1] + boxes[:, 3], boxes[:, 0] + boxes[:, 2]], 1)
        for name, one, two in zip(
            ("area", "log aspect", "left", "top"), box_facts(own, size), box_facts(other, size), strict=True
        ):
            failures.distribution(f"{size[0]}x{size[1]}, {name}", one, two)
        fallback = fallback_box(size)
        if fallback is not None:
            rates = [float((boxes == fallback).all(1).mean()) for boxes in (own, other)]
            spread = 4 * math.sqrt(max(2 * rates[1] * (1 - rates[1]), 1e-3) / count)
            failures.check(
                abs(rates[0] - rates[1]) < spread, f"{size[0]}x{size[1]}, fallback: {rates[0]:.4f} and {rates[1]:.4f}"
            )

    # Flips and jitter as the transforms make them, seen in a picture of two halves.
    halves = Image.fromarray(np.array([[[100] * 3, [0] * 3]], np.uint8).repeat(4, 0).repeat(2, 1))
    flipped = np.mean([flip(halves).getpixel((0, 0)) == (0, 0, 0) for _ in range(DRAWS)])
    own_flips = np.mean([bool(SampleSeed(0, 0, key).rng().random() < ours.settings.flip) for key in range(DRAWS)])
    failures.check(abs(flipped - own_flips) < 0.02, f"flips: {own_flips:.4f} and {flipped:.4f}")
    flat = Image.new("RGB", (2, 2), (100, 100, 100))  # only brightness shows
    for name, colour in (("brightness of grey", flat), ("all three factors", Image.new("RGB", (2, 2), (180, 90, 20)))):
        one = [
            colours.jitter_colours(colour, 0.4, SampleSeed(1, 0, key).rng()).getpixel((0, 0))[2] for key in range(4000)
        ]
        two = [jitter(colour).getpixel((0, 0))[2] for _ in range(4000)]
        failures.distribution(name, one, two)

    generator, block = theirs.masked_position_generator, BlockMask((14, 14), 75, 16)
    rng = np.random.default_rng(3)
    masks = {"ours": [block(rng) for _ in range(DRAWS)], "authors": [generator() for _ in range(DRAWS)]}
    facts = {who: mask_facts(np.array(each)) for who, each in masks.items()}
    for name in facts["ours"]:
        failures.distribution(f"masks, {name}", facts["ours"][name], facts["authors"][name])
    for who, each in facts.items():
        counts = each["patches"]
        print(
            f"        masks, {who}: mean {counts.mean():.3f}, least {counts.min()}, exactly 75: {(counts == 75).mean():.4f}"
        )
    where = [np.array(each).mean(0) for each in masks.values()]
    worst = float(np.abs(where[0] - where[1]).max())
    failures.check(worst < 5 * math.sqrt(2 * 0.24 / DRAWS), f"masks, how often each patch: at most {worst:.4f} apart")


def box_facts(boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Area as a part, log aspect, and place from 0 to 1 in the room that is left."""
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return (
        w * h / (size[0] * size[1]),
        np.log(w / h),
        boxes[:, 0] / np.maximum(size[0] - w, 1),
        boxes[:, 1] / np.maximum(size[1] - h, 1),
    )


def fallback_box(size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The largest centred crop between 3/4 and 4/3; None where that is the whole picture."""
    width, height = size
    w, h = min(width, round(height * 4 / 3)), min(height, round(width / (3 / 4)))
    if (w, h) == size:
        return None
    return (width - w) // 2, (height - h) // 2, (width - w) // 2 + w, (height - h) // 2 + h


def mask_facts(masks: np.ndarray) -> dict[str, np.ndarray]:
    """Patches, and what tells blocks from scattered patches: edges between masked and free ones, rows, centre."""
    masks = masks.astype(bool)
    edges = (masks[:, 1:] != masks[:, :-1]).sum((1, 2)) + (masks[:, :, 1:] != masks[:, :, :-1]).sum((1, 2))
    rows = np.arange(14)[None, :, None]
    return {
        "patches": masks.sum((1, 2)),
        "edges": edges,
        "rows touched": masks.any(2).sum(1),
        "columns touched": masks.any(1).sum(1),
        "mean row": (masks * rows).sum((1, 2)) / masks.sum((1, 2)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unilm", type=Path, required=True, help="folder beit of a checkout of microsoft/unilm")
    parser.add_argument("--photos", type=Path, required=True, help="folder with JPEG photographs")
    options = parser.parse_args()
    theirs = load_theirs(options.unilm.resolve()).DataAugmentationForBEiT(theirs_arguments())
    settings = PretrainSettings(images="x", output=Path("y"), tokenizer="z", mean=(0.5,) * 3, std=(0.5,) * 3)
    ours = PretrainViews(settings, BeitConfig(), (112, 112))
    photos = [Image.open(path).convert("RGB") for path in sorted(options.photos.glob("*.jpg"))[:6]]
    failures = Failures()
    equal_views(theirs, ours, photos, failures)
    distributions(theirs, ours, failures)
    print(f"{len(failures)} differences")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

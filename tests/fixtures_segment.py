"""What the tests of segmentation share: images of coloured blocks with their label maps, and small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fixtures_runs import small_config

NAMES = ("ground", "red", "green")
COLOURS = np.array([(40, 40, 60), (230, 40, 40), (40, 220, 60)], np.uint8)


def blocks(seed: int, height: int = 16, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `(height, width, 3)` and its labels: a red and a green block on the ground, with a little noise."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.uint8)
    for number in (1, 2):
        top, left = rng.integers(0, height - 5), rng.integers(0, width - 5)
        labels[top : top + 6, left : left + 6] = number
    return (COLOURS[labels] + rng.integers(0, 20, (height, width, 3), dtype=np.uint8)).astype(np.uint8), labels


def write_segmented(folder: Path, count: int = 8, spread: int = 3, seed: int = 0, shift: int = 0) -> tuple[Path, Path]:
    """`folder/images` and `folder/maps`: PNG files in two subfolders; sides differ by up to `spread` pixels.

    `shift` is added to the numbers in the maps.
    """
    images, maps = folder / "images", folder / "maps"
    for number in range(count):
        image, labels = blocks(seed + number, 16 + number % (spread + 1), 16 + number * 2 % (spread + 1))
        place = Path("ab"[number % 2]) / f"{number:02}.png"
        for root, array in ((images, image), (maps, labels + np.uint8(shift))):
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / place)
    return images, maps


def write_names(path: Path, names: tuple[str, ...] = NAMES) -> Path:
    """A file with names of classes."""
    path.write_text("".join(name + "\n" for name in names))
    return path


def save_segmenter(folder: Path, names: tuple[str, ...] = NAMES, processor: bool = True, **changes: Any) -> Path:
    """The folder of an untrained model that segments 16x16 images; its answers differ from pixel to pixel."""
    import torch

    from beit import BeitForSemanticSegmentation, BeitImageProcessor

    torch.manual_seed(0)
    relative = {"use_shared_relative_position_bias": False, "use_relative_position_bias": True}
    config = small_config(
        **{**relative, "use_mask_token": False, "num_hidden_layers": 4, "id2label": dict(enumerate(names)), **changes}
    )
    model = BeitForSemanticSegmentation(config)
    torch.nn.init.normal_(model.decode_head.classifier.weight, std=0.5)
    size = (model.config.image_size, model.config.image_size)
    with (
        torch.no_grad()
    ):  # norms that know what they see, and classes that are alike in sum: else one would win everywhere
        for _ in range(12):
            pixels = torch.nn.functional.interpolate(torch.randn(4, 3, 5, 5), size=size, mode="bicubic")
            model.train()(pixels)
        model.decode_head.classifier.bias -= model.eval()(pixels).logits.mean((0, 2, 3))
    model.save_pretrained(folder)
    if processor:
        BeitImageProcessor(size=16, do_center_crop=False, resample="BILINEAR").save_pretrained(folder)
    return folder

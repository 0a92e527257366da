"""What a trained classifier keeps at other sizes of image, by how its relative-position tables are resized.

    python benchmarks/resize_accuracy.py --model runs/demo/finetune

The 1,000 embedded test images of Fashion-MNIST, brought bicubically to each size; tables by the authors' geometric method, as
`beit` has it, and stretched bilinearly, as transformers 5 does it; absolute positions bicubically in both. Prints a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from beit import BeitForImageClassification, BeitImageProcessor
from beit.core import resampling as resize
from beit.data import embedded as assets


def stretched(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """A table brought to another grid as a picture, bilinearly."""
    sides = [2 * side - 1 for side in old]
    picture = table[: -resize.OTHERS].T.reshape(1, -1, *sides)
    size = (2 * new[0] - 1, 2 * new[1] - 1)
    picture = F.interpolate(picture, size=size, mode="bilinear", align_corners=False)
    return torch.cat((picture[0].flatten(1).T, table[-resize.OTHERS :]))


@torch.inference_mode()
def accuracy(model: BeitForImageClassification, images: Tensor, labels: np.ndarray) -> float:
    guesses = torch.cat([model(batch).logits.argmax(-1) for batch in images.split(100)])
    return float((guesses.numpy() == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="classifier that beit demo fine-tuned")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 20, 24, 28, 32, 36, 44, 56])
    options = parser.parse_args()
    data = assets.fashion_mnist_subset()
    mean, std = (np.mean(value) for value in _normalisation(options.model))
    pixels = torch.from_numpy((data["x_test"] / 255 - mean) / std).float()[:, None].expand(-1, 3, -1, -1)
    names = BeitForImageClassification.from_pretrained(options.model).config.id2label
    labels = np.array([next(i for i in names if names[i] == assets.GARMENTS[y]) for y in data["y_test"]])
    print("pixels   geometric   bilinear")
    for size in options.sizes:
        images = F.interpolate(pixels, size=(size, size), mode="bicubic", align_corners=False)
        ours = BeitForImageClassification.from_pretrained(options.model, image_size=size)
        theirs = BeitForImageClassification.from_pretrained(options.model, image_size=size)
        original = BeitForImageClassification.from_pretrained(options.model)
        tables = {
            name: value
            for name, value in original.state_dict().items()
            if name.endswith("relative_position_bias_table")
        }
        grids = original.config.grid, theirs.config.grid
        with torch.no_grad():
            for name, table in tables.items():
                theirs.get_parameter(name).copy_(stretched(table, *grids))
        print(f"{size:6}   {accuracy(ours, images, labels):9.1%}   {accuracy(theirs, images, labels):8.1%}")


def _normalisation(folder: Path) -> tuple[list[float], list[float]]:
    processor = BeitImageProcessor.from_pretrained(folder)
    return processor.image_mean, processor.image_std


if __name__ == "__main__":
    main()

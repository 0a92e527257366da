"""Label maps and overlays of image files, as PNG: `beit segment predict`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from beit.core.errors import DataError, require
from beit.core.files import atomic_path
from beit.data.decode import read_image
from beit.data.processor import BeitImageProcessor
from beit.data.sources.paths import list_images
from beit.evaluation.report_segmentation import legend, overlay, palette
from beit.inference.segmentation import WINDOWS, Segmenter, Way
from beit.models.torch.segmentation import BeitForSemanticSegmentation

MAPS, OVERLAYS, LEGEND = "maps", "overlays", "legend.png"


def predict_maps(
    model: BeitForSemanticSegmentation,
    processor: BeitImageProcessor,
    images: Sequence[Path],
    output: Path,
    way: Way = WINDOWS,
    device: torch.device | str | None = None,
) -> tuple[list[Path], list[str]]:
    """Segment image files, and those below folders.

    `output/maps` gets label maps (palette PNG of the class numbers, at the images' size, upright), `output/overlays` the
    images with these on them, both under the images' names; and `output/legend.png` the colours.

    Returns:
        The label maps written, and why the other images could not be read.

    Raises:
        DataError: no image, or there are label maps, overlays or a legend in the output folder already.
    """
    files = _files(images)
    if not files:
        raise DataError("No image was given: beit segment predict IMAGE… --model FOLDER --output FOLDER")
    for name in (MAPS, OVERLAYS, LEGEND):  # what is there may be the images themselves
        if (output / name).exists():
            raise DataError(f"{output / name} exists already. Choose another --output, or remove it.")
    model = model.to(device or model.device)
    segmenter = Segmenter(model, processor, way)
    colours = palette(model.config.num_labels)
    written, failed = [], []
    tqdm = require("tqdm", "train", "segmentation").tqdm
    todo = list(zip(files, _names(files.values()), strict=True))
    for path, name in tqdm(todo, desc="segmentation", unit="image", disable=None, file=sys.stderr):
        try:
            image = read_image(path)
        except DataError as error:
            failed.append(str(error))
            continue
        labels = segmenter(image).numpy()
        _save(_map_image(labels, colours), output / MAPS / name)
        _save(overlay(image, labels, colours), output / OVERLAYS / name)
        written.append(output / MAPS / name)
    if written:
        classes = [model.config.id2label[number] for number in range(model.config.num_labels)]
        _save(legend(classes, colours), output / LEGEND)
    return written, failed


def _files(images: Sequence[Path]) -> dict[Path, Path]:
    """Each file, and its path below the folder that was given; its name, where a file was given."""
    found: dict[Path, Path] = {}
    for path in images:
        if path.is_dir():
            inside = [Path(name) for name in sorted(list_images(path))]
            if not inside:
                raise DataError(f"{path} has no images, nor have its subfolders.")
            found.update({file: file.relative_to(path) for file in inside})
        else:
            found[path] = Path(path.name)
    return found


def _names(paths: Any) -> list[Path]:
    """A PNG name for each; `a.png` for a.jpg, and `a-2.png` for another a.jpg or an a.bmp."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = path.with_suffix(".png"), 2
        while str(name).lower() in taken:  # some file systems do not tell A from a
            name, number = path.with_name(f"{path.stem}-{number}.png"), number + 1
        taken.add(str(name).lower())
        names.append(name)
    return names


def _map_image(labels: np.ndarray, colours: np.ndarray) -> Image.Image:
    """Class numbers as an image: with a palette up to 256 classes, of 16 bits above."""
    if len(colours) > 256:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(colours.reshape(-1).tolist())
    return image


def _save(image: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        image.save(file, format="PNG")

"""From image files to label maps and overlays as PNG files: `beit segment predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from beit.core.errors import DataError
from beit.core.files import atomic_path
from beit.core.progress import progress_bar
from beit.data.processor import BeitImageProcessor
from beit.data.sources.paths import list_images
from beit.inference.colors import label_image, legend, overlay, palette
from beit.inference.files import ImageFiles, png_names
from beit.inference.segmentation import segment_images
from beit.inference.sliding_window import DEFAULT_WINDOW, SlidingWindow

if TYPE_CHECKING:
    import torch

    from beit.models.torch.segmentation import BeitForSemanticSegmentation

MAPS, OVERLAYS, LEGEND = "maps", "overlays", "legend.png"


def predict_maps(
    model: BeitForSemanticSegmentation,
    processor: BeitImageProcessor,
    images: Sequence[Path],
    output: Path,
    sliding_window: SlidingWindow = DEFAULT_WINDOW,
    device: torch.device | str | None = None,
) -> tuple[list[Path], list[str]]:
    """Segment image files and folders of them.

    Writes `output/maps` (label maps as PNG: class numbers with a palette, at the size of the images, upright),
    `output/overlays` (the images with their label maps drawn over them), both under the names of the images, and
    `output/legend.png` (the colours).

    Args:
        model: a segmentation model.
        processor: its image processor.
        images: files, and folders that are searched with their subfolders.
        output: folder for the result.
        sliding_window: how images are brought to the model.
        device: where to compute; where the model is, if not given.

    Returns:
        The label maps written, and why the other images could not be read.

    Raises:
        DataError: there is no image, or the output folder has label maps, overlays or a legend already.
        CheckpointError: the model answers NaN or infinity.
    """
    files = _files(images)
    if not files:
        raise DataError("No image was given: beit segment predict IMAGE… --model FOLDER --output FOLDER")
    for name in (MAPS, OVERLAYS, LEGEND):  # what is there may be the images themselves
        if (output / name).exists():
            raise DataError(f"{output / name} exists already. Choose another --output, or remove it.")
    names = png_names(files.values())
    classes = model.config.class_names
    colours = palette(len(classes))
    written: list[Path] = []
    failed: list[str] = []
    with progress_bar(purpose="segmentation", total=len(files), desc="segmentation", unit="image") as bar:

        def skip(_: int, reason: str) -> None:
            failed.append(reason)
            bar.update()

        source = ImageFiles(list(files))
        for index, image, labels in segment_images(model, processor, source, skip, sliding_window, device):
            _save(label_image(labels, colours), output / MAPS / names[index])
            _save(overlay(image, labels, colours), output / OVERLAYS / names[index])
            written.append(output / MAPS / names[index])
            bar.update()
    if written:
        _save(legend(classes, colours), output / LEGEND)
    return written, failed


def _files(images: Sequence[Path]) -> dict[Path, Path]:
    """{file: its path below the folder that was given, or its name where the file itself was given}."""
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


def _save(image: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        image.save(file, format="PNG")

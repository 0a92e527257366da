"""Where the last layer of a classifier looks: weights of the patches, and pictures of them over images.

    attention_maps    pixel values           → weights `(n, h, w)` (what a report asks for)
    AttentionFiles    batches of pictures    → a PNG for each image (`beit predict --attention`)

Both work with PyTorch and Flax models. Weights show where information is taken from, not why an answer is given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beit.core import geometry
from beit.core.errors import ConfigError
from beit.core.files import atomic_path, check_folder
from beit.data.processor import BeitImageProcessor
from beit.data.processor_sizes import centred_window, target_size
from beit.inference.files import png_names

_LONGEST = 1024  # side of a picture in pixels: an overlay has no detail that needs more
_SHORTEST = 256  # longer side up to which small images are enlarged
_MOST_BYTES = 1 << 28  # of the weights of all layers, which a model returns together

# Colours of the attention, from none to most: dark to bright, so that they also differ in grey.
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)


def attention_maps(model: Any, pixels: np.ndarray) -> np.ndarray:
    """How much each patch gives, in the last layer, to the vector that is classified; mean of the heads.

    That is the cls token, or where the model classifies the mean of the patches, all of them.

    Args:
        model: a `BeitForImageClassification` or `FlaxBeitForImageClassification`.
        pixels: pixel values `(n, C, H, W)`, as the image processor gives them.

    Returns:
        float32 `(n, h, w)`, above 0; the sum of a map is at most 1.
    """
    if hasattr(model, "params"):
        from beit.inference.flax.attention import last_attention as flax_attention

        last_attention: Any = flax_attention
    else:
        from beit.inference.torch.attention import last_attention as torch_attention

        last_attention = torch_attention
    config = model.config
    grid = config.grid_of(pixels.shape[2:])
    size = 4 * config.num_hidden_layers * config.num_attention_heads * (1 + grid[0] * grid[1]) ** 2
    at_once = max(min(_MOST_BYTES // size, len(pixels)), 1)
    found = np.empty((len(pixels), *grid), np.float32)
    for start in range(0, len(pixels), at_once):
        part = pixels[start : start + at_once]
        blank = np.zeros((at_once - len(part), *part.shape[1:]), part.dtype)  # JAX compiles for each number of images
        weights = last_attention(model, np.concatenate([part, blank]))[: len(part)]
        maps = weights[:, 1:, 1:].mean(1) if config.use_mean_pooling else weights[:, 0, 1:]
        found[start : start + at_once] = maps.reshape(-1, *grid)
    return found


def heat_over(
    picture: Image.Image, weights: np.ndarray, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """A picture in grey with its attention in colours: bright is much, dark is little, in proportion to the largest weight.

    Args:
        picture: RGB.
        weights: of the patches `(h, w)`.
        box: (left, top, right, bottom) of all patches in pixels of the picture, if they do not cover it as a whole. What lies
            outside of it has no colours.
    """
    left, top, right, bottom = box or (0, 0, *picture.size)
    grey = np.asarray(picture.convert("RGB"), np.float32).mean(2)
    place = [
        np.floor((np.arange(side) + 0.5 - start) / (end - start) * count).astype(int)
        for side, start, end, count in zip(picture.size[::-1], (top, left), (bottom, right), weights.shape, strict=True)
    ]
    rows, columns = (np.clip(where, 0, count - 1) for where, count in zip(place, weights.shape, strict=True))
    seen = [(where >= 0) & (where < count) for where, count in zip(place, weights.shape, strict=True)]
    # Colours of the patches first: there are far fewer of them than pixels.
    share = weights.astype(np.float64) / max(float(weights.max()), 1e-12)
    steps = np.linspace(0, 1, len(_HEAT))
    colours = np.stack([np.interp(share, steps, _HEAT[:, channel]) for channel in range(3)], 2).astype(np.float32)
    heat = colours[rows[:, None], columns]
    shown = np.where((seen[0][:, None] & seen[1])[..., None], 0.35 * grey[..., None] + 0.65 * heat, grey[..., None])
    return Image.fromarray(shown.round().astype(np.uint8))


def box_of_patches(
    processor: BeitImageProcessor, size: tuple[int, int], grid: tuple[int, int], patch: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Where the patches of a model lie in an image.

    Args:
        processor: it resizes and crops the image.
        size: (width, height) of the image.
        grid: patches `(h, w)`.
        patch: (height, width) of one.

    Returns:
        (left, top, right, bottom) in pixels of the image; outside of it, where the processor or the model pads it.
    """
    resized = target_size(processor.size, *size) if processor.do_resize else size
    left, top = 0, 0
    if processor.do_center_crop:
        left, top = centred_window(resized, (processor.crop_size["width"], processor.crop_size["height"]))
    x, y = size[0] / resized[0], size[1] / resized[1]
    return left * x, top * y, (left + grid[1] * patch[1]) * x, (top + grid[0] * patch[0]) * y


class AttentionFiles:
    """Writes a PNG for each image: its attention over it. Small images are enlarged, large ones reduced to 1,024 pixels.

    Args:
        folder: where to. It is made with the first picture.
        names: of all images; the pictures have their names, below the folder that is common to all of them.
        model: a classifier.
        processor: its image processor.
    """

    def __init__(self, folder: Path, names: Sequence[str], model: Any, processor: BeitImageProcessor) -> None:
        self.folder, self.model, self.processor = folder, model, processor
        self.names = png_names(_below_common_folder(names))
        self.written = 0

    def add(self, numbers: Sequence[int], pictures: Sequence[Image.Image]) -> None:
        """Write the pictures of a batch: numbers of the images, and the images in RGB.

        Raises:
            CheckpointError: one could not be written.
        """
        pixels = self.processor(list(pictures), return_tensors="np")["pixel_values"]
        patch = geometry.pair(self.model.config.patch_size)
        for number, picture, weights in zip(numbers, pictures, attention_maps(self.model, pixels), strict=True):
            small = _viewable(picture)
            box = box_of_patches(self.processor, picture.size, weights.shape, patch)
            x, y = small.width / picture.width, small.height / picture.height
            shown = heat_over(small, weights, (box[0] * x, box[1] * y, box[2] * x, box[3] * y))
            with atomic_path(self.folder / self.names[number]) as temporary, open(temporary, "wb") as file:
                shown.save(file, format="PNG")
            self.written += 1


def _viewable(picture: Image.Image) -> Image.Image:
    """A copy that is neither larger than anyone needs nor too small to see: pixels of a thumbnail become squares."""
    factor = _SHORTEST // max(picture.size)
    if factor > 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    small = picture.copy()
    small.thumbnail((_LONGEST, _LONGEST))
    return small


def check_attention_folder(folder: Path, resume: bool) -> None:
    """Check, before the work, that pictures can be written into a folder.

    Args:
        folder: new or empty.
        resume: it may have pictures of an earlier run; what that left half-written is removed.

    Raises:
        ConfigError: it has something in it.
        DataError: it cannot be written.
    """
    check_folder(folder)
    if resume:
        for half in folder.rglob(".*.png.*.tmp"):
            half.unlink()
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} exists already. Give a new folder for the pictures; nothing was written.")


def _below_common_folder(names: Sequence[str]) -> list[Path]:
    paths = [os.path.abspath(name) for name in names]
    common = ""
    with contextlib.suppress(ValueError):  # on Windows: of different drives
        common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [Path(os.path.relpath(path, common) if common else os.path.basename(path)) for path in paths]

"""Parity: whether two checkpoints compute the same. Both models get the embedded photographs; the largest difference decides."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beit.checkpoints import Checkpoint
from beit.config import BeitConfig
from beit.core.errors import CheckpointError, require
from beit.data import embedded
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import FolderImages

BAR = 1e-5
PHOTOGRAPHS = 4
_NEEDED = ("num_attention_heads", "image_size")  # some layouts cannot be read without them
# Settings that change outputs and that a layout may not state, so that its reader has to guess them.
_DECISIVE = (
    "layer_norm_eps",
    "hidden_act",
    "mask_keeps_position",
    "pool_scales",
    "segmentation_layers",
    "use_mean_pooling",
)


class Parity(NamedTuple):
    """What was compared.

    Attributes:
        outputs: name of an output → (largest absolute difference, largest absolute value), both models with the same settings.
        as_read: the same if the result is read without being told its settings; empty where `unlike` is.
        unlike: setting → (the source's value, the value that a reader of the result would guess), where they differ.
        images: number of photographs.
    """

    outputs: dict[str, tuple[float, float]]
    as_read: dict[str, tuple[float, float]]
    unlike: dict[str, tuple[Any, Any]]
    images: int

    @property
    def equal(self) -> bool:
        """Whether no output differs by more than `BAR`."""
        return all(difference <= BAR for difference, _ in self.outputs.values())

    def __str__(self) -> str:
        verdict = "the same numbers" if self.equal else f"NOT the same numbers (bar {BAR:g})"
        lines = [f"Source and result on {self.images} photographs: {verdict}", *map(_line, self.outputs.items())]
        if self.unlike:
            lines.append("Read without being told what this layout does not state:")
            lines += [f"  {name}: {theirs} instead of {ours}" for name, (ours, theirs) in self.unlike.items()]
            lines += map(_line, self.as_read.items())
        return "\n".join(lines)


def _line(item: tuple[str, tuple[float, float]]) -> str:
    name, (difference, largest) = item
    return f"  {name:24} largest difference {difference:.1e}   (values up to {largest:.3g})"


def compare(source: Checkpoint, written: Path, config: BeitConfig, pixels: dict[str, Any] | None) -> Parity:
    """Compare the outputs of `source` and of what was written from it on the embedded photographs.

    Both are run with `config`; if a reader of the result would guess other settings, the result is run with these too. PyTorch
    computes; a Flax folder is computed by Flax if that is installed.

    Args:
        source: the checkpoint that was converted.
        written: the file or folder that was written.
        config: settings of both.
        pixels: settings of the image processor; mean and std are used.

    Raises:
        CheckpointError: the tensors of one of them do not fit its settings.
        MissingExtraError: torch is not installed.
    """
    needed = {name: getattr(config, name) for name in _NEEDED}
    result = Checkpoint(written, needed)
    images = _photographs(config, pixels)
    of_flax = result.format == "msgpack" and importlib.util.find_spec("flax") is not None
    wanted = _outputs(source, config, images, False)
    outputs = _differences(wanted, _outputs(result, config, images, of_flax))
    own = BeitConfig.from_pretrained(result, **needed)
    unlike = {name: (getattr(config, name), getattr(own, name)) for name in _DECISIVE}
    unlike = {name: values for name, values in unlike.items() if values[0] != values[1]}
    as_read = _differences(wanted, _outputs(result, own, images, of_flax)) if unlike else {}
    return Parity(outputs, as_read, unlike, len(images))


def _differences(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    found = {}
    for name, values in first.items():
        if values.shape != second[name].shape:
            raise CheckpointError(
                f"{name} has shape {values.shape} from the source and {second[name].shape} from the result."
            )
        found[name] = float(np.abs(values - second[name]).max()), float(np.abs(values).max())
    return found


def _photographs(config: BeitConfig, pixels: dict[str, Any] | None) -> np.ndarray:
    """The first embedded photographs, `(B, channels, H, W)` float32, normalised."""
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    size = {"height": height, "width": width}
    about = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **(pixels or {})}
    if config.num_channels != 3:  # each channel gets the photographs' brightness
        about |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = BeitImageProcessor(
        size=size, do_center_crop=False, image_mean=about["image_mean"], image_std=about["image_std"]
    )
    paths = FolderImages(embedded.photographs()).paths[:PHOTOGRAPHS]
    images = processor(list(paths), return_tensors="np")["pixel_values"]
    if config.num_channels != 3:
        images = np.repeat(images.mean(1, keepdims=True), config.num_channels, 1)
    return np.ascontiguousarray(images, np.float32)


def _outputs(checkpoint: Checkpoint, config: BeitConfig, images: np.ndarray, in_flax: bool) -> dict[str, np.ndarray]:
    # A backbone returns feature maps for other code to use; its encoder's output is compared.
    name = "BeitModel" if checkpoint.architecture == "BeitBackbone" else checkpoint.architecture
    mask = None
    if name == "BeitForMaskedImageModeling" and config.use_mask_token:
        mask = np.zeros((len(images), config.num_patches), bool)
        mask[:, ::3] = True
    if in_flax:
        from beit.export.flax import outputs_of
    else:
        require("torch", "torch", "comparing outputs")
        from beit.export.torch import outputs_of
    return outputs_of(checkpoint, name, config, images, mask)

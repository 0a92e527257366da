"""Do two checkpoints give the same numbers? Both models see the embedded photographs; the largest difference decides."""

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
_NEEDED = ("num_attention_heads", "image_size")  # without which some files cannot be read
# Settings that change outputs and that a file may leave to be guessed.
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
        outputs: name of an output → (largest absolute difference, largest absolute value), under the same settings.
        as_read: the same where the result is read with what it states itself, and `unlike` is what it leaves to be guessed.
        unlike: names of settings → (of the source, as the result's reader would guess).
        images: how many photographs.
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
    """Outputs of both on the embedded photographs: as models of the same `config`, and the result as it is read by itself.

    In PyTorch; what was written for Flax is computed in Flax where that is installed.

    Raises:
        CheckpointError: one of them is not what its settings say.
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
            raise CheckpointError(f"{name} is {values.shape} of the source and {second[name].shape} of the result.")
        found[name] = float(np.abs(values - second[name]).max()), float(np.abs(values).max())
    return found


def _photographs(config: BeitConfig, pixels: dict[str, Any] | None) -> np.ndarray:
    """`(B, channels, H, W)` float32."""
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    size = {"height": height, "width": width}
    about = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **(pixels or {})}
    if config.num_channels != 3:  # whatever the channels are, they get the photographs' brightness
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
    import beit

    name = checkpoint.architecture if checkpoint.architecture != "BeitBackbone" else "BeitModel"
    kind: Any = getattr(beit, f"Flax{name}" if in_flax else name)
    mask = np.zeros((len(images), config.num_patches), bool)
    mask[:, ::3] = True
    masked = name == "BeitForMaskedImageModeling" and config.use_mask_token
    if in_flax:
        model = kind(config, _do_init=False)
        params = model.fill(checkpoint.state_dict, grid=checkpoint.grid)
        run = lambda mask: model(images, mask, params=params)  # noqa: E731
    else:
        torch = require("torch", "torch", "comparing outputs")
        with torch.device("meta"):
            model = kind(config)
        model.fill(checkpoint.state_dict, grid=checkpoint.grid)
        model.eval()

        def run(mask: np.ndarray | None) -> Any:
            keywords = {} if mask is None else {"bool_masked_pos": torch.from_numpy(mask)}
            with torch.inference_mode():
                return model(torch.from_numpy(images), **keywords)

    found = run(None)
    outputs = {"logits": found.logits} if hasattr(found, "logits") else {"last_hidden_state": found.last_hidden_state}
    if masked:
        outputs["logits of masked images"] = run(mask).logits
    return {name: np.asarray(value, np.float32) for name, value in outputs.items()}

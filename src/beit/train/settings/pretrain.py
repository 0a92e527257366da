"""Settings of `beit pretrain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from beit.core.errors import ConfigError
from beit.train.settings.base import (
    RunSettings,
    check_at_least_one,
    check_fractions,
    check_framework,
    check_normalisation,
    check_scale,
)
from beit.train.targets import TARGETS

if TYPE_CHECKING:
    TargetName = str
else:
    TargetName = Literal[tuple(TARGETS)]  # `--help` lists them, and a typing error is noticed at once

PROBE_NEEDS_TORCH = (
    "The probe measures PyTorch models only. Leave --probe out, and measure after the run: beit probe --model OUTPUT."
)


@dataclass(kw_only=True)
class PretrainSettings(RunSettings):
    """Pre-train BEiT: predict the visual tokens of masked patches."""

    tokenizer: str | None = None
    """Folder or Hub id of a trained tokenizer, or a folder with OpenAI's encoder.pkl and decoder.pkl."""
    target: TargetName = "tokens"
    """What is predicted: visual tokens, or the pixels of the patches, normalised patch by patch (needs no tokenizer)."""
    crops: int | None = None
    """Number of different crops of each image, used in turn, one per epoch; new crops in each epoch if not given."""
    token_cache: Path | None = None
    """Folder that beit tokenize wrote. Its crops are used, and their tokens are read instead of computed."""
    model: str = "base"
    """A size (tiny, small, base, large) for a new model; or a model folder or Hub id to continue from."""
    image_size: int | None = None
    """Side of the images in pixels; the model's own if not given."""
    patch_size: int | None = None
    """Side of the patches in pixels; the model's own if not given."""
    framework: Literal["torch", "flax"] = "torch"
    """Framework that trains: PyTorch, or JAX with the models in Flax."""
    model_parallel: int = 1
    """Number of devices over which each matrix of a Flax model is split. The batch is shared among the groups of this many devices."""
    mask: Literal["block", "random"] = "block"
    """Masks of rectangular blocks, as in the paper, or of patches chosen at random."""
    mask_ratio: float = 75 / 196
    """Fraction of the patches to mask."""
    min_block: int | None = None
    """Fewest patches in a masked block; 16 of 196, in proportion, if not given."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Fraction of an image's area that a crop keeps: least and most."""
    jitter: float = 0.4
    """Strength of the colour jitter, the same in both views; 0 for none."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    drop_path: float | None = None
    """Stochastic depth of the last layer; the model's own if not given."""
    layer_scale: float | None = None
    """Initial layer scale; the model's own if not given."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of the channels, for a model without an image processor of its own."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of the channels, for a model without an image processor of its own."""
    probe: Path | None = None
    """Labelled folder, one subfolder per class. Every --probe-every steps, a k-NN classifier and a linear probe of each layer
    measure on it what the features are worth; a fifth of each class is held out for this."""
    probe_every: int = 5000
    """Steps between probes; there is always one at the end."""

    def paper_learning_rate(self, narrow: bool = False) -> float:
        """1.5e-3 at a batch of 2,048, in proportion; narrow models need a higher rate."""
        return 1.5e-3 if narrow else 1.5e-3 * self.batch_size / 2048

    def validate(self) -> None:
        """Check all values. Raises ConfigError."""
        super().validate()
        check_normalisation(self.mean, self.std)
        check_framework(self)
        if self.framework == "flax" and self.probe is not None:
            raise ConfigError(PROBE_NEEDS_TORCH)
        if self.target not in TARGETS:
            raise ConfigError(f"target is {self.target!r}; choose {' or '.join(TARGETS)}.")
        check_at_least_one(self, "crops", "probe_every")
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(f"mask_ratio is {self.mask_ratio}; it must lie between 0 and 1 (the paper: about 0.4).")
        check_scale(self.crop_scale)
        check_fractions(self, "flip", "jitter")

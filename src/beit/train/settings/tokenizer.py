"""Settings of `beit tokenizer train` and `beit tokenize`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from beit.core.errors import ConfigError
from beit.core.settings import Settings
from beit.train.settings.base import (
    Rate,
    RunSettings,
    check_at_least_one,
    check_fractions,
    check_not_negative,
    check_scale,
)


@dataclass(kw_only=True)
class TokenizerSettings(RunSettings):
    """Train a visual tokenizer (a dVAE) on your own images."""

    image_size: int = 64
    """Side of the training crops in pixels. The trained tokenizer takes images of any size."""
    factor: Literal[2, 4, 8, 16] = 8
    """Side of a token in pixels. A token should cover one patch of the view that the tokenizer sees."""
    vocab_size: int = 512
    """Number of codes."""
    width: int = 32
    """Channels of the first group of layers (DALL-E's tokenizer: 256)."""
    blocks: int = 1
    """Residual blocks per group (DALL-E's tokenizer: 2)."""
    usage_weight: float = 0.1
    """Weight of the loss term that favours using all codes equally. With 0 the codebook easily collapses."""
    crop_scale: tuple[float, float] = (0.3, 1.0)
    """Fraction of an image's area that a crop keeps: least and most."""
    min_temperature: float = 0.0625
    """Temperature of the Gumbel-softmax at the end; it starts at 1."""
    learning_rate: Rate = 3e-3
    """Highest learning rate; auto for the default."""
    weight_decay: float = 0.0
    """Weight decay of matrices."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    batch_size: int = 64
    """Images per step, over all devices."""

    def paper_learning_rate(self, narrow: bool = False) -> float:
        """The default; no paper gives a rate for tokenizers of this size."""
        return 3e-3

    def validate(self) -> None:
        """Check all values. Raises ConfigError."""
        super().validate()
        check_scale(self.crop_scale)
        if self.min_temperature <= 0 or self.image_size < 1:
            raise ConfigError("min_temperature and image_size must be above 0.")


@dataclass(kw_only=True)
class TokenizeSettings(Settings):
    """Compute the visual tokens of crops of images once, for many epochs of pre-training (--token-cache)."""

    images: str | Path
    """Where the images come from: a folder, tar shards or a data set of the Hub, as in beit pretrain."""
    output: Path
    """Folder for the tokens. If it holds some of them already, only the others are computed."""
    tokenizer: str
    """Folder or Hub id of a trained tokenizer, or a folder with OpenAI's encoder.pkl and decoder.pkl."""
    crops: int = 10
    """Number of different crops of each image; pre-training uses them in turn, one per epoch."""
    model: str = "base"
    """The model to be pre-trained: a size (tiny, small, base, large), a folder or a Hub id. Only its patch grid matters."""
    image_size: int | None = None
    """Side of the images in pixels; the model's own if not given."""
    patch_size: int | None = None
    """Side of the patches in pixels; the model's own if not given."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Fraction of an image's area that a crop keeps: least and most."""
    jitter: float = 0.4
    """Strength of the colour jitter, the same in both views; 0 for none."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    seed: int = 0
    """Seed of the crops."""
    batch_size: int = 64
    """How many crops the tokenizer sees at a time."""
    workers: int = 2
    """Processes that read images."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, mps, …; a GPU where there is one if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "crops", "batch_size")
        check_not_negative(self, "workers", "seed")
        check_scale(self.crop_scale)
        check_fractions(self, "flip", "jitter")

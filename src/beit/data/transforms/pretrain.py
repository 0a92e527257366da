"""What pre-training does to images: two views of one crop, and a mask (BEiT, sections 2.1 to 2.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from beit.config import BeitConfig
from beit.core import geometry
from beit.data.masking import MaskSettings, make_mask
from beit.data.token_cache import CropSettings, TokenCache
from beit.data.transforms.colours import batch_jitter, jitter_colours, jitter_factors
from beit.data.transforms.crops import Box, batch_view, crop_box, view
from beit.data.transforms.pixels import normalise
from beit.data.transforms.sample_seed import SampleSeed
from beit.data.transforms.views import Batch

_RATIO = (3 / 4, 4 / 3)  # aspect ratios of a crop, as in the authors' code
_MASK = 1  # purpose of a `SampleSeed`: masks have random numbers of their own


class PretrainViewSettings(CropSettings, MaskSettings, Protocol):
    """The settings of a run that decide its views; see `beit.train.settings.PretrainSettings`."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of the patch view's channels."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of the patch view's channels."""


@dataclass(frozen=True)
class Crops:
    """What both views of an image share: colour jitter, box and flip, in the order of the authors' transform.

    Attributes:
        scale: smallest and largest fraction of the area that a crop keeps.
        jitter: amount of colour jitter; 0 for none.
        flip: probability of a horizontal flip.
    """

    scale: tuple[float, float]
    jitter: float
    flip: float

    def one(self, image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Box, bool]:
        """(the image with changed colours, the box to crop, whether to flip)."""
        if self.jitter:
            image = jitter_colours(image, self.jitter, rng)
        box = crop_box(rng, image.size, self.scale, _RATIO)
        return image, box, bool(rng.random() < self.flip)

    def batch(self, images: np.ndarray, rngs: list[np.random.Generator]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same for a batch of small images `(B, 3, H, W)`: (images, boxes `(B, 4)`, flips `(B,)`)."""
        if self.jitter:
            images = batch_jitter(images, np.stack([jitter_factors(self.jitter, rng) for rng in rngs]))
        size = (images.shape[3], images.shape[2])
        boxes = np.array([crop_box(rng, size, self.scale, _RATIO) for rng in rngs])
        return images, boxes, np.array([rng.random() for rng in rngs]) < self.flip


class PretrainViews:
    """A view for the model, a view for the tokenizer, both of one crop, and a mask.

    The model's view is resized bicubically and normalised. The tokenizer's view is resized with Lanczos so that each patch
    has one token, and stays in [0, 1], since each tokenizer has its own preprocessing (microsoft/unilm, beit/datasets.py).
    With a cache, tokens are read from it instead.

    With `settings.crops` or a cache, the same crops of an image come again after some passes; masks are new in each pass.

    Args:
        settings: crops, colours, masks.
        config: of the model: sizes.
        token_size: (height, width) of the tokenizer's view in pixels; None for no such view.
        cache: where tokens are read, or None.
    """

    def __init__(
        self,
        settings: PretrainViewSettings,
        config: BeitConfig,
        token_size: tuple[int, int] | None,
        cache: TokenCache | None = None,
    ) -> None:
        self.settings, self.cache, self.token_size = settings, cache, token_size
        self.size = geometry.pair(config.image_size)
        self.crops = Crops(settings.crop_scale, settings.jitter, settings.flip)
        self.mask = make_mask(settings, config)

    def one(self, image: Image.Image, target: int, seed: SampleSeed) -> Batch:
        """The inputs made of one image.

        Returns:
            `pixel_values` float32 `(3, H, W)`; `mask` bool `(N,)`, one per patch; and `token_pixels` float32 `(3, h, w)` in
            [0, 1], or with a cache `tokens` int64 `(N,)`.
        """
        crop = self._crop_seed(seed)
        image, box, flip = self.crops.one(image, crop.rng())
        patches = view(image, box, self.size, Image.Resampling.BICUBIC, flip)
        batch = {
            "pixel_values": normalise(patches, self.settings.mean, self.settings.std),
            "mask": self.mask(seed.rng(_MASK)).reshape(-1),
        }
        if self.cache is not None:
            batch["tokens"] = self.cache.tokens(crop.key, crop.pass_index)
        elif self.token_size is not None:
            batch["token_pixels"] = view(image, box, self.token_size, Image.Resampling.LANCZOS, flip)
        return batch

    def batch(self, images: np.ndarray, labels: np.ndarray, seeds: list[SampleSeed]) -> Batch:
        """The same for a batch of small images `(B, 3, H, W)`; both views are bicubic there."""
        crops = [self._crop_seed(seed) for seed in seeds]
        images, boxes, flips = self.crops.batch(images, [crop.rng() for crop in crops])
        patches = batch_view(images, boxes, flips, self.size)
        batch = {
            "pixel_values": normalise(patches, self.settings.mean, self.settings.std),
            "mask": np.stack([self.mask(seed.rng(_MASK)).reshape(-1) for seed in seeds]),
        }
        if self.cache is not None:
            batch["tokens"] = np.stack([self.cache.tokens(crop.key, crop.pass_index) for crop in crops])
        elif self.token_size is not None:
            same = self.token_size == self.size
            batch["token_pixels"] = patches if same else batch_view(images, boxes, flips, self.token_size)
        return batch

    def _crop_seed(self, seed: SampleSeed) -> SampleSeed:
        """The seed of jitter, box and flip: of this pass, or of the crop whose turn it is."""
        if self.cache is not None:
            return replace(seed, seed=self.cache.seed, pass_index=seed.pass_index % self.cache.crops)
        if self.settings.crops is not None:
            return replace(seed, pass_index=seed.pass_index % self.settings.crops)
        return seed

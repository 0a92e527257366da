"""What pre-training does to images: two views of one crop, and the patches to mask (BEiT, sections 2.1 to 2.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from beit.config import BeitConfig
from beit.core import geometry
from beit.data.masking import make_mask
from beit.data.token_cache import TokenCache
from beit.data.transforms.colours import batch_jitter, jitter_colours, jitter_factors
from beit.data.transforms.crops import Box, batch_view, crop_box, view
from beit.data.transforms.pixels import normalise
from beit.data.transforms.sample_seed import SampleSeed
from beit.data.transforms.views import Batch

if TYPE_CHECKING:
    from beit.train.settings import PretrainSettings


@dataclass(frozen=True)
class Crops:
    """Colour jitter → flip → one box: what both views of an image share, in the order of the authors' transform.

    Attributes:
        scale: part of the area that a box keeps.
        jitter: amount of colour jitter; 0 for none.
        flip: probability of a horizontal flip.
    """

    scale: tuple[float, float]
    jitter: float
    flip: float

    def one(self, image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Box, bool]:
        """(image with other colours, box, whether to flip)."""
        if self.jitter:
            image = jitter_colours(image, self.jitter, rng)
        box = crop_box(rng, image.size, self.scale, (3 / 4, 4 / 3))
        return image, box, bool(rng.random() < self.flip)

    def batch(self, images: np.ndarray, rngs: list[np.random.Generator]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same for a batch of small images `(B, 3, H, W)`: images, boxes `(B, 4)`, flips `(B,)`."""
        if self.jitter:
            images = batch_jitter(images, np.stack([jitter_factors(self.jitter, rng) for rng in rngs]))
        size = (images.shape[3], images.shape[2])
        boxes = np.array([crop_box(rng, size, self.scale, (3 / 4, 4 / 3)) for rng in rngs])
        return images, boxes, np.array([rng.random() for rng in rngs]) < self.flip


class PretrainViews:
    """Two views of one crop, and a mask.

    The patch view is resized bicubically and normalised; the tokenizer's view is resized with Lanczos to one token a
    patch and stays in [0, 1], since each tokenizer owns its preprocessing (microsoft/unilm, beit/datasets.py). With a cache
    its tokens take the place of the second view. The mask has a Generator of its own: with `settings.crops` crops come
    again, and then their tokens do, but masks never.

    Args:
        settings: crops, colours, masks.
        config: of the model: sizes.
        token_size: height and width in pixels of the tokenizer's view; None for no such view.
        cache: where tokens are read, or None.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        config: BeitConfig,
        token_size: tuple[int, int] | None,
        cache: TokenCache | None = None,
    ) -> None:
        self.settings, self.cache, self.token_size = settings, cache, token_size
        self.size = geometry.pair(config.image_size)
        self.crops = Crops(settings.crop_scale, settings.jitter, settings.flip)
        self.mask = make_mask(settings, config)

    def one(self, image: Image.Image, target: int, seed: SampleSeed) -> Batch:
        """`pixel_values (3, H, W)`, `mask (N,)`, and `token_pixels (3, h, w)` or `tokens (N,)`."""
        crop = self._crop(seed)
        image, box, flip = self.crops.one(image, crop.rng())
        patches = view(image, box, self.size, Image.Resampling.BICUBIC, flip)
        batch = {
            "pixel_values": normalise(patches, self.settings.mean, self.settings.std),
            "mask": self.mask(seed.rng(1)).reshape(-1),
        }
        if self.cache is not None:
            batch["tokens"] = self.cache.tokens(seed.key, crop.pass_index)
        elif self.token_size is not None:
            batch["token_pixels"] = view(image, box, self.token_size, Image.Resampling.LANCZOS, flip)
        return batch

    def batch(self, images: np.ndarray, labels: np.ndarray, seeds: list[SampleSeed]) -> Batch:
        """The same for a batch of small images."""
        crops = [self._crop(seed) for seed in seeds]
        images, boxes, flips = self.crops.batch(images, [crop.rng() for crop in crops])
        patches = batch_view(images, boxes, flips, self.size)
        batch = {
            "pixel_values": normalise(patches, self.settings.mean, self.settings.std),
            "mask": np.stack([self.mask(seed.rng(1)).reshape(-1) for seed in seeds]),
        }
        if self.cache is not None:
            batch["tokens"] = np.stack([self.cache.tokens(crop.key, crop.pass_index) for crop in crops])
        elif self.token_size is not None:
            same = self.token_size == self.size
            batch["token_pixels"] = patches if same else batch_view(images, boxes, flips, self.token_size)
        return batch

    def _crop(self, seed: SampleSeed) -> SampleSeed:
        """What jitter, box and flip follow from: the pass's own seed, or that of the crop whose turn it is."""
        if self.cache is not None:
            return replace(seed, seed=self.cache.seed, pass_index=seed.pass_index % self.cache.crops)
        return seed if self.settings.crops is None else replace(seed, pass_index=seed.pass_index % self.settings.crops)

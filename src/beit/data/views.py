"""What is done to images: random crops in two views, flips, colour jitter, erasing; on one PIL image or on a batch.

Every random choice comes from a numpy Generator that the caller seeds by (seed, epoch, image), never from global
state: the same seed gives the same crops whatever the number of workers, and after a resume.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from beit.errors import require

Box = tuple[int, int, int, int]  # left, top, right, bottom


def crop_box(
    rng: np.random.Generator, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """A random crop of an image of `size` (width, height): ten tries, then the largest centred one within `ratio`.

    Area uniform in `scale`, log aspect uniform in `ratio` (microsoft/unilm, beit/transforms.py).
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(round(height * aspect), 1)), min(height, max(round(width / aspect), 1))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def view(image: Image.Image, box: Box, size: tuple[int, int], resample: Image.Resampling, flip: bool) -> Tensor:
    """One crop resized to `size` (height, width): float32 `(3, H, W)` in [0, 1]."""
    # Crop first, then resize: with `box=` Pillow would let pixels outside the crop leak into its border.
    cropped = image.crop(box).resize((size[1], size[0]), resample)
    if flip:
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1).float().div_(255)


def jitter_colours(image: Image.Image, amount: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation by random factors, in random order (torchvision's ColorJitter)."""
    functional = require("torchvision.transforms.v2.functional", "train", "colour jitter")
    changes = [functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation]
    for i in rng.permutation(3):
        image = changes[i](image, rng.uniform(max(0.0, 1 - amount), 1 + amount))
    return image


def erase_rectangle(image: Tensor, rng: np.random.Generator) -> None:
    """Fill a random rectangle of `image (3, H, W)` with normal noise, in place (Zhong et al. 2017, arXiv 1708.04896)."""
    _, height, width = image.shape
    left, top, right, bottom = crop_box(rng, (width, height), (0.02, 1 / 3), (0.3, 1 / 0.3))
    noise = rng.standard_normal((3, bottom - top, right - left), dtype=np.float32)
    image[:, top:bottom, left:right] = torch.from_numpy(noise)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """`(…, 3, H, W)` in [0, 1] → minus mean, divided by std, per channel."""
    shape = (-1, 1, 1)
    return (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


# --- the same on a batch of small images in memory: one call instead of one an image --------------------------------


def batch_view(images: Tensor, boxes: np.ndarray, flips: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Crops of a batch, resized to `size` (height, width).

    Args:
        images: float32 `(B, 3, H, W)` in [0, 1].
        boxes: `(B, 4)` left, top, right, bottom in pixels.
        flips: `(B,)` bool.

    Returns:
        float32 `(B, 3, h, w)` in [0, 1], bicubic. There is no filter against aliasing: for crops about as large as
        `size`, as small images have them.
    """
    height, width = images.shape[2:]
    left, top, right, bottom = (torch.from_numpy(boxes[:, i].astype(np.float32)) for i in range(4))
    sign = torch.from_numpy(np.where(flips, -1.0, 1.0).astype(np.float32))
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = sign * (right - left) / width
    theta[:, 0, 2] = (left + right) / width - 1
    theta[:, 1, 1] = (bottom - top) / height
    theta[:, 1, 2] = (top + bottom) / height - 1
    grid = F.affine_grid(theta, [len(images), 3, *size], align_corners=False)
    out = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return out.clamp_(0, 1)


def batch_jitter(images: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast and saturation of `(B, 3, H, W)` by random factors a image."""

    def factor() -> Tensor:
        return torch.from_numpy(rng.uniform(max(0, 1 - amount), 1 + amount, (len(images), 1, 1, 1)).astype(np.float32))

    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R 601, as Pillow turns RGB grey
    images = (images * factor()).clamp_(0, 1)
    grey = (images * weights).sum(1, keepdim=True)
    images = torch.lerp(grey.mean((2, 3), keepdim=True).expand_as(images), images, factor()).clamp_(0, 1)
    grey = (images * weights).sum(1, keepdim=True)
    return torch.lerp(grey.expand_as(images), images, factor()).clamp_(0, 1)


def mixup(
    images: Tensor, targets: Tensor, mixup_alpha: float, cutmix_alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image with another of the batch: mixup (arXiv 1710.09412) or cutmix (arXiv 1905.04899), by even chance.

    Args:
        images: `(B, 3, H, W)`.
        targets: `(B, classes)` probabilities.
        mixup_alpha: parameter of the beta distribution; 0 switches mixup off.
        cutmix_alpha: the same for cutmix.
        rng: source of randomness.
    """
    choices = [kind for kind, alpha in (("mixup", mixup_alpha), ("cutmix", cutmix_alpha)) if alpha > 0]
    if not choices:
        return images, targets
    kind = choices[int(rng.integers(len(choices)))]
    alpha = mixup_alpha if kind == "mixup" else cutmix_alpha
    keep = float(rng.beta(alpha, alpha))
    if kind == "mixup":
        images = torch.lerp(images.flip(0), images, keep)
    else:
        height, width = images.shape[2:]
        h, w = round(height * math.sqrt(1 - keep)), round(width * math.sqrt(1 - keep))
        centre_y, centre_x = int(rng.integers(height)), int(rng.integers(width))
        top, bottom = max(centre_y - h // 2, 0), min(centre_y + (h + 1) // 2, height)
        left, right = max(centre_x - w // 2, 0), min(centre_x + (w + 1) // 2, width)
        images = images.clone()
        images[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        keep = 1 - (bottom - top) * (right - left) / (height * width)
    return images, torch.lerp(targets.flip(0), targets, keep)

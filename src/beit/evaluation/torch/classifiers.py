"""Two classifiers on frozen features, each on all layers at once: nearest neighbours and a linear probe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from beit.core.errors import ConfigError
from beit.core.progress import progress_bar
from beit.inference.torch.features import Features

_SIMILARITIES = 1 << 24  # most similarities that are held at once: 64 MiB of float32


@torch.no_grad()
def knn(
    tokens: Tensor,
    labels: np.ndarray,
    queries: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    device: torch.device | str | None = None,
) -> np.ndarray:
    """Classify `queries` by the votes of their k nearest neighbours, layer by layer.

    A neighbour with cosine similarity s votes for its class with the weight exp(s / temperature) (Wu et al. 2018, arXiv
    1805.01978; k = 20 and 0.07 as in DINO, Caron et al. 2021, arXiv 2104.14294). A tie goes to the lower class number.

    Args:
        tokens: `(n, L, D)` features of labelled images.
        labels: `(n,)`, their classes.
        queries: `(m, L, D)`.
        k: number of neighbours.
        temperature: the lower it is, the more the nearest neighbours count.
        device: where to compute; the CPU if not given.

    Returns:
        Class numbers, int64 `(L, m)`.

    Raises:
        ConfigError: there are fewer than k images, or the temperature is not above 0.
    """
    check_neighbours(k, temperature, len(tokens))
    classes = torch.from_numpy(labels).to(device)
    answers = np.empty((tokens.shape[1], len(queries)), np.int64)
    block = max(_SIMILARITIES // len(tokens), 1)
    for layer in range(tokens.shape[1]):
        known = F.normalize(tokens[:, layer].to(device).float(), dim=1)
        for first in range(0, len(queries), block):
            asked = F.normalize(queries[first : first + block, layer].to(device).float(), dim=1)
            similar, nearest = (asked @ known.T).topk(k, dim=1)
            votes = torch.zeros(len(asked), int(classes.max()) + 1, device=device)
            # Subtracting the largest similarity changes no order and keeps exp within float32 at any temperature.
            votes.scatter_add_(1, classes[nearest], ((similar - similar[:, :1]) / temperature).exp())
            answers[layer, first : first + block] = votes.argmax(1).cpu().numpy()
    return answers


def check_neighbours(k: int, temperature: float, count: int) -> None:
    """Raise ConfigError if there are fewer than k images, or the temperature is not above 0."""
    if not 1 <= k <= count:
        raise ConfigError(
            f"k is {k}; it must lie between 1 and {count}, the number of images to find neighbours among."
        )
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature}; it must be above 0.")


@dataclass
class LinearProbe:
    """Independent linear classifiers, one per layer of the network.

    Attributes:
        weight: float32 `(L, D, classes)`.
        bias: float32 `(L, 1, classes)`.
    """

    weight: Tensor
    bias: Tensor

    def logits(self, tokens: Tensor) -> Tensor:
        """Features `(B, L, D)` → logits `(L, B, classes)`, by one batched product for all layers."""
        return torch.baddbmm(self.bias, tokens.transpose(0, 1), self.weight)

    @torch.no_grad()
    def classify(self, tokens: Tensor) -> np.ndarray:
        """Features `(m, L, D)` → class numbers, int64 `(L, m)`."""
        parts = [self.logits(part.to(self.weight.device).float()) for part in tokens.split(4096)]
        return np.concatenate([part.argmax(-1).cpu().numpy() for part in parts], axis=1)


def train_linear_probe(
    features: Features,
    classes: int,
    epochs: int = 100,
    batch_size: int = 1024,
    learning_rate: float | None = None,
    standardise: bool = False,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> LinearProbe:
    """Train one linear classifier per layer of the network: all at once, and independent of each other.

    The authors' recipe (microsoft/unilm, beit/run_linear_eval.py): weights from N(0, 0.01), the sum of the layers'
    cross-entropies, AdamW with weight decay 1e-4, a learning rate that falls to 0 along a cosine, epoch by epoch, and no
    normalisation of the features. The first weights of a layer follow from (seed, layer), the order of the images from
    (seed, epoch).

    Args:
        features: what to learn from: the views in turn, one per epoch, if there are any; else the images themselves.
        classes: number of classes.
        epochs: how often each image is seen.
        batch_size: images per step; all of them, if there are fewer.
        learning_rate: of the first epoch; if not given, 4e-3 per 1,024 images of the batch.
        standardise: first subtract each feature's mean and divide by its standard deviation. This is not in the recipe; with
            thousands of images instead of a million, its steps are too few to learn the scales of the features.
        seed: of the first weights and the order.
        device: where to compute; the CPU if not given.
        progress: show a progress bar, if there is a terminal.
    """
    count, depth, width = features.tokens.shape
    batch_size = min(batch_size, count)
    rate = 4e-3 * batch_size / 1024 if learning_rate is None else learning_rate
    weights = [np.random.default_rng((seed, layer)).normal(0, 0.01, (width, classes)) for layer in features.layers]
    weight = torch.from_numpy(np.stack(weights)).float().to(device).requires_grad_()
    bias = torch.zeros(depth, 1, classes, device=device, requires_grad=True)
    linear = LinearProbe(weight, bias)
    optimizer = torch.optim.AdamW([weight, bias], lr=rate, weight_decay=1e-4)
    passes = features.views if len(features.views) else features.tokens[None]
    labels = torch.from_numpy(features.labels)
    mean, deviation = (value.to(device) for value in _moments(features.tokens, standardise))
    for epoch in progress_bar(range(epochs), purpose="a probe", shown=progress, desc="linear probe", unit="epoch"):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
        order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))
        for chosen in order.split(batch_size):
            tokens = (passes[epoch % len(passes)][chosen].to(device).float() - mean) / deviation
            targets = labels[chosen].to(device).repeat(depth)
            with torch.enable_grad():
                # The sum over layers of each layer's mean: the gradient of a layer does not depend on the others.
                loss = F.cross_entropy(linear.logits(tokens).flatten(0, 1), targets, reduction="sum") / len(chosen)
            weight.grad, bias.grad = torch.autograd.grad(loss, [weight, bias])
            optimizer.step()
    with torch.no_grad():  # fold the standardisation into the weights: the probe then takes features as they are
        weight = weight / deviation.unsqueeze(-1)
        return LinearProbe(weight, bias - mean.unsqueeze(1) @ weight)


def _moments(tokens: Tensor, standardise: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, `(L, D)` each; 0 and 1 unless `standardise`."""
    mean, deviation = torch.zeros(tokens.shape[1:]), torch.ones(tokens.shape[1:])
    if standardise and len(tokens) > 1:
        for layer in range(tokens.shape[1]):  # one at a time: all of them in float32 would double the memory
            variance, mean[layer] = torch.var_mean(tokens[:, layer].float(), dim=0)
            deviation[layer] = variance.sqrt().clamp_(min=1e-6)
    return mean, deviation

"""What features are worth without fine-tuning, layer by layer: nearest neighbours and a linear probe.

    images → one pass through the frozen network → [cls; mean of patches] of every layer (n, L, 2C)
           → k-NN by the mean of the patches, a linear layer on both → top-1 of every layer

After pre-training alone the middle layers are usually best: the last ones have turned to visual tokens.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from beit import geometry, hub
from beit.data.draw import Draw
from beit.data.images import BadImages, Images
from beit.data.views import crop_box, view
from beit.errors import ConfigError, DataError, require
from beit.evaluate import batches_of, finite, wilson
from beit.models.pytorch_beit import BeitModel, BeitPreTrainedModel
from beit.processing import BeitImageProcessor

PROBE_FILE = "probe.json"
PLOT_FILE = "probe.png"
_HELD_OUT = 0.2  # of each class, where there is nothing else to measure on
_LARGEST_HALF = torch.finfo(torch.float16).max
_SIMILARITIES = 1 << 24  # at most so many are held at once (64 MiB of float32)


def _bar(show: bool, **keywords: Any) -> Any:
    """A progress bar; none without a terminal."""
    tqdm = require("tqdm", "train", "a probe").tqdm
    return tqdm(disable=None if show else True, file=sys.stderr, **keywords)


# --- features ----------------------------------------------------------------------------------------------------


@dataclass
class Features:
    """What `layer_features` found.

    Attributes:
        layers: numbers of the layers, from 1.
        tokens: `(n, L, 2C)`, cls token and mean of the patches of each layer, on the CPU. float16, because all images
            are held at once (50,000 of BEiT-base: 1.8 GB instead of 3.7) and its rounding, 5e-4 of a value, is far below
            what tells images apart; float32 where a value is beyond 65,504.
        views: `(V, n, L, 2C)`, the same of random crops.
        numbers: which images these are, `(n,)` int64.
        labels: their classes, `(n,)` int64.
        skipped: why the other images could not be read.
    """

    layers: list[int]
    tokens: Tensor
    views: Tensor
    numbers: np.ndarray
    labels: np.ndarray
    skipped: list[str] = field(default_factory=list)


@torch.no_grad()  # not inference_mode: the probe is trained on these tensors
def layer_features(
    model: BeitPreTrainedModel,
    processor: BeitImageProcessor,
    images: Images,
    layers: Sequence[int] | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    views: int = 0,
    seed: int = 0,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    progress: bool = True,
) -> Features:
    """Cls token and mean of the patches, as every block puts them out, without a norm.

    Each image is read once. Its random crops (aspect 3:4 to 4:3, half of them mirrored) follow from
    (seed, number of the view, number of the image).

    Args:
        model: any BEiT model; its modules stay in the mode they are in.
        processor: its image processor.
        images: labelled images.
        layers: 1 … L, whose output is taken; None for all.
        batch_size: images at a time.
        device: where to compute; where the model is, if not given.
        views: random crops of each image beside the image itself.
        seed: of the crops.
        crop_scale: part of an image's area that a crop keeps.
        progress: show a bar, if there is a terminal.

    Raises:
        DataError: no labels, no such layer, or more than a tenth of the images cannot be read.
        CheckpointError: the model answers NaN.
    """
    if images.labels is None:
        raise DataError("A probe needs labelled images: one subfolder a class.")
    body = _body(model)
    depth = body.config.num_hidden_layers
    layers = list(range(1, depth + 1)) if layers is None else list(layers)
    for layer in layers:
        if not 1 <= layer <= depth:
            raise DataError(f"There is no layer {layer}; choose one from 1 to {depth}.")
    size = geometry.pair(body.config.image_size)
    kept: list[int] = []
    bad = BadImages(len(images))
    found = torch.empty(1 + views, len(images), len(layers), 2 * body.config.hidden_size, dtype=torch.float16)
    with _bar(progress, total=len(images), desc="features", unit="image") as bar, _in_evaluation(body, device):
        for numbers, pictures in batches_of(images, batch_size, lambda _, reason: bad.add(reason)):
            for visit in range(1 + views):
                if visit == 0:
                    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
                else:
                    crops = [
                        _random_crop(picture, size, crop_scale, Draw(seed, visit - 1, number).rng())
                        for number, picture in zip(numbers, pictures, strict=True)
                    ]
                    pixels = processor(crops, do_resize=False, do_center_crop=False, return_tensors="pt")[
                        "pixel_values"
                    ]
                states = body(pixels.to(body.device), output_hidden_states=True).hidden_states
                batch = torch.stack([torch.cat((states[i][:, 0], states[i][:, 1:].mean(1)), -1) for i in layers], 1)
                batch = finite(batch.float().cpu())
                if found.dtype == torch.float16 and float(batch.abs().max()) > _LARGEST_HALF:
                    found = found.float()
                found[visit, len(kept) : len(kept) + len(numbers)] = batch
            kept += numbers
            bar.update(len(numbers))
    if not kept:
        raise DataError("None of the images can be read:\n" + str(bad))
    found = found[:, : len(kept)]
    return Features(layers, found[0], found[1:], np.array(kept), images.labels[kept], list(bad.reasons))


def _body(model: BeitPreTrainedModel) -> BeitModel:
    body = getattr(model, "beit", model)
    assert isinstance(body, BeitModel)
    return body


def _random_crop(
    picture: Image.Image, size: tuple[int, int], scale: tuple[float, float], rng: np.random.Generator
) -> Tensor:
    """uint8 `(3, H, W)`, so that the processor rescales and normalises it as it does the image itself."""
    box = crop_box(rng, picture.size, scale, (3 / 4, 4 / 3))
    return view(picture, box, size, Image.Resampling.BICUBIC, bool(rng.random() < 0.5)).mul_(255).round_().byte()


@contextlib.contextmanager
def _in_evaluation(model: nn.Module, device: torch.device | str | None) -> Iterator[None]:
    """Every module in evaluation mode, then in the mode it was in: parts may be frozen while others train."""
    modes = {module: module.training for module in model.modules()}
    if device is not None:
        model.to(device)
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


# --- the two classifiers -----------------------------------------------------------------------------------------


@torch.no_grad()
def knn(
    tokens: Tensor,
    labels: np.ndarray,
    queries: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    device: torch.device | str | None = None,
) -> np.ndarray:
    """Classes of `queries` by the votes of their k nearest neighbours, layer by layer.

    A neighbour of cosine similarity s votes for its class with weight exp(s / temperature) (Wu et al. 2018, arXiv
    1805.01978; k = 20 and 0.07 as in DINO, Caron et al. 2021, arXiv 2104.14294). A tie goes to the lower class.

    Args:
        tokens: `(n, L, D)` features of labelled images.
        labels: `(n,)`, their classes.
        queries: `(m, L, D)`.
        k: number of neighbours.
        temperature: the lower, the more the nearest ones count.
        device: where to compute; the CPU if not given.

    Returns:
        int64 `(L, m)`.

    Raises:
        ConfigError: fewer than k images, or an impossible temperature.
    """
    _check_neighbours(k, temperature, len(tokens))
    classes = torch.from_numpy(labels).to(device)
    answers = np.empty((tokens.shape[1], len(queries)), np.int64)
    block = max(_SIMILARITIES // len(tokens), 1)
    for layer in range(tokens.shape[1]):
        known = F.normalize(tokens[:, layer].to(device).float(), dim=1)
        for first in range(0, len(queries), block):
            asked = F.normalize(queries[first : first + block, layer].to(device).float(), dim=1)
            similar, nearest = (asked @ known.T).topk(k, dim=1)
            votes = torch.zeros(len(asked), int(classes.max()) + 1, device=device)
            # Less the largest, which changes no order and keeps exp within float32 at any temperature.
            votes.scatter_add_(1, classes[nearest], ((similar - similar[:, :1]) / temperature).exp())
            answers[layer, first : first + block] = votes.argmax(1).cpu().numpy()
    return answers


def _check_neighbours(k: int, temperature: float, count: int) -> None:
    if not 1 <= k <= count:
        raise ConfigError(
            f"k is {k}; it must lie between 1 and {count}, the number of images to find neighbours among."
        )
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature}; it must be above 0.")


@dataclass
class LinearProbe:
    """Independent linear layers, one for each layer of the network.

    Attributes:
        weight: float32 `(L, D, classes)`.
        bias: float32 `(L, 1, classes)`.
    """

    weight: Tensor
    bias: Tensor

    def logits(self, tokens: Tensor) -> Tensor:
        """`(B, L, D)` → `(L, B, classes)`: one batched product for all layers."""
        return torch.baddbmm(self.bias, tokens.transpose(0, 1), self.weight)

    @torch.no_grad()
    def classify(self, tokens: Tensor) -> np.ndarray:
        """`(m, L, D)` → classes, int64 `(L, m)`."""
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
    """Train one linear layer for each layer of the network, all at once and each as if it were alone.

    The authors' recipe (microsoft/unilm, beit/run_linear_eval.py): weights from N(0, 0.01), the layers' cross-entropies
    summed, AdamW, weight decay 1e-4, a learning rate that falls along a cosine from epoch to epoch to 0, and no
    normalisation of the features. The first weights of a layer follow from (seed, layer), the order from (seed, epoch).

    Args:
        features: what to learn from: the views in turn, one an epoch, if there are any; else the images themselves.
        classes: number of classes.
        epochs: how often each image is seen.
        batch_size: images a step; with fewer images than that, all of them.
        learning_rate: at the beginning; 4e-3 at a batch of 1,024, in proportion, if not given.
        standardise: subtract each feature's mean and divide by its deviation first. Not in the recipe; with thousands of
            images instead of a million, its steps are too few to learn the scales.
        seed: of the first weights and the order.
        device: where to compute; the CPU if not given.
        progress: show a bar, if there is a terminal.
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
    for epoch in _bar(progress, iterable=range(epochs), desc="linear probe", unit="epoch"):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
        order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))
        for chosen in order.split(batch_size):
            tokens = (passes[epoch % len(passes)][chosen].to(device).float() - mean) / deviation
            targets = labels[chosen].to(device).repeat(depth)
            with torch.enable_grad():
                # The sum over layers of each layer's mean: no layer's gradient knows of the others.
                loss = F.cross_entropy(linear.logits(tokens).flatten(0, 1), targets, reduction="sum") / len(chosen)
            weight.grad, bias.grad = torch.autograd.grad(loss, [weight, bias])
            optimizer.step()
    with torch.no_grad():  # the same layers for features as they come
        weight = weight / deviation.unsqueeze(-1)
        return LinearProbe(weight, bias - mean.unsqueeze(1) @ weight)


def _moments(tokens: Tensor, standardise: bool) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each feature, `(L, D)` each; 0 and 1 to leave them as they are."""
    mean, deviation = torch.zeros(tokens.shape[1:]), torch.ones(tokens.shape[1:])
    if standardise and len(tokens) > 1:
        for layer in range(tokens.shape[1]):  # one at a time: all of them in float32 would double the memory
            variance, mean[layer] = torch.var_mean(tokens[:, layer].float(), dim=0)
            deviation[layer] = variance.sqrt().clamp_(min=1e-6)
    return mean, deviation


# --- the probe ---------------------------------------------------------------------------------------------------


@dataclass
class ProbeResult:
    """Top-1 of every layer.

    Attributes:
        layers: numbers of the layers, from 1.
        knn_right: how many validation images the neighbours got right, for each layer.
        linear_right: the same of the linear probe; empty without one.
        train_count: images that were learned from.
        count: images that were measured on.
        commonest: top-1 of always guessing the class that is commonest among those learned from, the bar to beat.
        classes: names.
        settings: how: k, temperature, epochs and so on.
        skipped: images that could not be read.
    """

    layers: list[int]
    knn_right: list[int]
    linear_right: list[int]
    train_count: int
    count: int
    commonest: float
    classes: list[str]
    settings: dict[str, Any]
    skipped: list[str]

    @property
    def knn(self) -> list[float]:
        """k-NN top-1 of each layer, in [0, 1]."""
        return [right / self.count for right in self.knn_right]

    @property
    def linear(self) -> list[float]:
        """The linear probe's top-1 of each layer, in [0, 1]; empty without one."""
        return [right / self.count for right in self.linear_right]

    @property
    def best_layer(self) -> int:
        """The layer of the best linear probe, without one of the best k-NN; the first of equals."""
        right = self.linear_right or self.knn_right
        return self.layers[right.index(max(right))]

    def _ways(self) -> list[tuple[str, str, list[int]]]:
        """(name, name for people, right answers of each layer) of each classifier."""
        ways = [("knn", "k-NN", self.knn_right), ("linear", "linear probe", self.linear_right)]
        return [way for way in ways if way[2]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        rows: list[dict[str, Any]] = []
        for i, layer in enumerate(self.layers):
            rows.append({"layer": layer})
            for name, _, right in self._ways():
                rows[i][name] = right[i] / self.count
                rows[i][name + "_interval"] = list(wilson(right[i], self.count))
        return {
            "layers": rows,
            "best_layer": self.best_layer,
            "commonest": self.commonest,
            "train_count": self.train_count,
            "count": self.count,
            "classes": self.classes,
            "settings": self.settings,
            "skipped": self.skipped,
        }

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write probe.json and probe.png, a curve over the layers."""
        from beit.report import layer_curves  # matplotlib

        hub.write_json(Path(folder) / PROBE_FILE, self.to_dict())
        lines = []
        for _, title, right in self._ways():
            intervals = [wilson(number, self.count) for number in right]
            lines.append((title, [number / self.count for number in right], intervals))
        with hub.atomic_path(Path(folder) / PLOT_FILE) as temporary:
            layer_curves(temporary, self.layers, lines, self.commonest)

    def __str__(self) -> str:
        ways = self._ways()
        lines = [
            f"{self.train_count} images of {len(self.classes)} classes learned from, {self.count} measured on; the "
            f"commonest class alone: {self.commonest:.1%}",
            "layer" + "".join(f"{title + ' top-1 (95 % interval)':>37}" for _, title, _ in ways),
        ]
        for i, layer in enumerate(self.layers):
            line = f"{layer:5}"
            for _, _, right in ways:
                low, high = wilson(right[i], self.count)
                line += f"{f'{right[i] / self.count:.1%} ({low:.1%} to {high:.1%})':>37}"
            lines.append(line + "  best" * (layer == self.best_layer and len(self.layers) > 1))
        return "\n".join(lines)


def probe(
    model: BeitPreTrainedModel,
    processor: BeitImageProcessor,
    images: Images,
    validation: Images,
    layers: Sequence[int] | None = None,
    k: int = 20,
    temperature: float = 0.07,
    epochs: int = 100,
    linear_batch_size: int = 1024,
    learning_rate: float | None = None,
    standardise: bool = False,
    views: int = 0,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> ProbeResult:
    """k-NN and linear probe of each layer, learned on `images`, measured on `validation`.

    k-NN looks at the mean of the patches: after pre-training alone it is several points better than the cls token, which
    nothing has taught, and no worse than both together. The best of many layers is measured on the images that it was
    chosen by, so it is a little too good: compare models at one layer.

    Arguments are those of `layer_features`, `knn` and `train_linear_probe`; with no `epochs` there is only k-NN.

    Raises:
        DataError: no labels, one class, other classes in `validation`, no such layer, too many unreadable images.
        ConfigError: more neighbours than images, or an impossible temperature.
        CheckpointError: the model answers NaN.
    """
    _check_classes(images, validation)
    _check_neighbours(k, temperature, len(images))
    known = layer_features(
        model, processor, images, layers, batch_size, device, views if epochs else 0, seed, crop_scale, progress
    )
    asked = layer_features(model, processor, validation, layers, batch_size, device, progress=progress)
    where = _body(model).device

    def right(answers: np.ndarray) -> list[int]:
        return (answers == asked.labels).sum(1).tolist()

    half = known.tokens.shape[2] // 2
    answers = knn(known.tokens[..., half:], known.labels, asked.tokens[..., half:], k, temperature, where)
    settings: dict[str, Any] = {"k": k, "temperature": temperature, "seed": seed}
    linear_right: list[int] = []
    if epochs:
        linear = train_linear_probe(
            known,
            len(images.classes),
            epochs,
            linear_batch_size,
            learning_rate,
            standardise,
            seed,
            where,
            progress,
        )
        linear_right = right(linear.classify(asked.tokens))
        settings |= {
            "epochs": epochs,
            "linear_batch_size": linear_batch_size,
            "learning_rate": learning_rate,
            "standardise": standardise,
            "views": views,
            "crop_scale": list(crop_scale),
        }
    return ProbeResult(
        layers=known.layers,
        knn_right=right(answers),
        linear_right=linear_right,
        train_count=len(known.labels),
        count=len(asked.labels),
        commonest=float(np.mean(asked.labels == np.bincount(known.labels).argmax())),
        classes=list(images.classes),
        settings=settings,
        skipped=known.skipped + asked.skipped,
    )


def _check_classes(images: Images, validation: Images) -> None:
    if images.labels is None or validation.labels is None:
        raise DataError("A probe needs labelled images, to learn from and to measure on: one subfolder a class.")
    known = {images.classes[i] for i in np.unique(images.labels)}
    asked = {validation.classes[i] for i in np.unique(validation.labels)}
    if len(known) < 2:
        raise DataError(f"There is only one class, {', '.join(known)}; a probe needs two: one subfolder each.")
    if known != asked or images.classes != validation.classes:
        missing, strange = sorted(known - asked), sorted(asked - known)
        raise DataError(
            "The images to measure on have other classes than those to learn from: "
            f"{', '.join(missing[:5]) or 'none'} missing, {', '.join(strange[:5]) or 'none'} unknown. Wanted the same in "
            f"both: {', '.join(images.classes[:5])}{', …' if len(images.classes) > 5 else ''}."
        )


def hold_out(images: Images, seed: int = 0, most: int | None = None) -> tuple[Images, Images]:
    """(images to learn from, images to measure on): a fifth of each class, drawn by the seed, is held out.

    Args:
        images: labelled images.
        seed: chooses.
        most: take about so many images only, of each class in proportion, but two at least.

    Raises:
        DataError: no labels, or a class with a single image.
    """
    if images.labels is None:
        raise DataError("Images can only be held out of each class when they are labelled: one subfolder a class.")
    rng = np.random.default_rng(seed)
    counts = np.bincount(images.labels, minlength=len(images.classes))
    part = 1.0 if most is None else min(most / len(images), 1.0)
    learn, measure = [], []
    for number, found in enumerate(np.split(np.argsort(images.labels, kind="stable"), np.cumsum(counts)[:-1])):
        if len(found) == 1:
            raise DataError(
                f"Class {images.classes[number]} has a single image; two are needed, one to learn from and one to measure on."
            )
        chosen = rng.permutation(found)[: max(round(part * len(found)), 2)]
        held = max(round(_HELD_OUT * len(chosen)), 1) if len(chosen) else 0
        measure.append(chosen[:held])
        learn.append(chosen[held:])
    return images.subset(np.sort(np.concatenate(learn))), images.subset(np.sort(np.concatenate(measure)))


def live_probe(
    model: BeitPreTrainedModel,
    processor: BeitImageProcessor,
    images: Images,
    seed: int = 0,
    most: int = 2500,
    k: int = 20,
    epochs: int = 20,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """A quick probe of a model in the middle of its training.

    The same images are held out whenever it is called with one seed, so that its answers can be compared. Features are
    standardised: then 20 epochs say more than 100 without. Modes of the modules, gradients and torch's random state are
    left as they are.

    Args:
        model: any BEiT model, not wrapped for several processes.
        processor: of this model.
        images: labelled images. `hold_out` tells before training whether they will do.
        seed: of what is held out and of the linear probe.
        most: about so many images at most.
        k: number of neighbours; all of them, if there are fewer.
        epochs: of the linear probe.
        batch_size: images at a time.
        device: where to compute; where the model is, if not given.

    Returns:
        Top-1 in [0, 1]: `knn_layer_01` … and `linear_layer_01` …, `knn_best`, `linear_best`; and `best_layer`, the
        number of the layer with the best linear probe.

    Raises:
        DataError, CheckpointError: as `probe` and `hold_out`.
    """
    learn, measure = hold_out(images, seed, most)
    result = probe(
        model,
        processor,
        learn,
        measure,
        k=min(k, len(learn)),
        epochs=epochs,
        standardise=True,
        batch_size=batch_size,
        seed=seed,
        device=device,
        progress=False,
    )
    line: dict[str, float] = {}
    for name, values in (("knn", result.knn), ("linear", result.linear)):
        line.update({f"{name}_layer_{layer:02}": value for layer, value in zip(result.layers, values, strict=True)})
        line[f"{name}_best"] = max(values)
    return {**line, "best_layer": float(result.best_layer)}

"""What features are worth without fine-tuning, layer by layer: nearest neighbours and a linear probe.

    images → one pass through the frozen network → [cls; mean of patches] of every layer (n, L, 2C)
           → k-NN by the mean of the patches, a linear layer on both → top-1 of every layer

After pre-training alone the middle layers are usually best: the last ones have turned to visual tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from beit.core.errors import DataError
from beit.core.files import atomic_path, write_json
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.evaluation.classification import wilson
from beit.evaluation.classifiers import check_neighbours, knn, train_linear_probe
from beit.inference.features import body_of, layer_features
from beit.models.torch.beit import BeitPreTrainedModel

PROBE_FILE = "probe.json"
PLOT_FILE = "probe.png"
_HELD_OUT = 0.2  # of each class, where there is nothing else to measure on


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
        from beit.evaluation.report import layer_curves  # matplotlib

        write_json(Path(folder) / PROBE_FILE, self.to_dict())
        lines = []
        for _, title, right in self._ways():
            intervals = [wilson(number, self.count) for number in right]
            lines.append((title, [number / self.count for number in right], intervals))
        with atomic_path(Path(folder) / PLOT_FILE) as temporary:
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
    check_neighbours(k, temperature, len(images))
    known = layer_features(
        model, processor, images, layers, batch_size, device, views if epochs else 0, seed, crop_scale, progress
    )
    asked = layer_features(model, processor, validation, layers, batch_size, device, progress=progress)
    where = body_of(model).device

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

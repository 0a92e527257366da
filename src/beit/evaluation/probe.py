"""Measure frozen features layer by layer: nearest neighbours and a linear probe.

    images → one pass through the frozen network → [cls; mean of patches] of every layer (n, L, 2C)
           → k-NN on the mean of the patches, a linear classifier on both → top-1 of every layer

After pre-training alone the middle layers are usually best: the last ones specialise in predicting visual tokens.
`report_probe.py` draws the result.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beit.core.errors import DataError
from beit.core.files import write_json
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.evaluation.classification import wilson
from beit.evaluation.hold_out import hold_out
from beit.evaluation.torch.classifiers import check_neighbours, knn, train_linear_probe
from beit.inference.torch.features import body_of, layer_features

if TYPE_CHECKING:
    import torch

    from beit.models.torch.beit import BeitPreTrainedModel

PROBE_FILE = "probe.json"


@dataclass
class ProbeResult:
    """Top-1 of every layer.

    Attributes:
        layers: numbers of the layers, from 1.
        knn_right: for each layer, how many validation images k-NN classifies right.
        linear_right: the same for the linear probe; empty without one.
        train_count: number of training images.
        count: number of validation images.
        commonest: top-1 of always guessing the commonest class of the training images: the baseline.
        classes: their names.
        settings: k, temperature, epochs and so on, as they were used.
        skipped: why images were skipped, one line per image.
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
        """The layer with the best linear probe, or the best k-NN if there is none; the first of equals."""
        right = self.linear_right or self.knn_right
        return self.layers[right.index(max(right))]

    def classifiers(self) -> list[tuple[str, str, list[int]]]:
        """(name in files, name in texts, right answers of each layer) of each classifier that was measured."""
        known = [("knn", "k-NN", self.knn_right), ("linear", "linear probe", self.linear_right)]
        return [classifier for classifier in known if classifier[2]]

    def to_dict(self) -> dict[str, Any]:
        """The content of probe.json."""
        rows: list[dict[str, Any]] = []
        for i, layer in enumerate(self.layers):
            rows.append({"layer": layer})
            for name, _, right in self.classifiers():
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
        """Write probe.json."""
        write_json(Path(folder) / PROBE_FILE, self.to_dict())

    def __str__(self) -> str:
        classifiers = self.classifiers()
        lines = [
            f"Trained on {self.train_count} images of {len(self.classes)} classes, measured on {self.count}; always guessing the "
            f"commonest class: {self.commonest:.1%}",
            "layer" + "".join(f"{title + ' top-1 (95 % interval)':>37}" for _, title, _ in classifiers),
        ]
        for i, layer in enumerate(self.layers):
            line = f"{layer:5}"
            for _, _, right in classifiers:
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
    """k-NN and a linear probe on each layer, trained on `images`, measured on `validation`.

    k-NN uses the mean of the patches: after pre-training alone that is several points better than the cls token, which no loss
    has trained, and no worse than both together. The score of the best layer is a little too good, because the layer was
    chosen by these very images: compare models at one layer.

    Args:
        model: any BEiT model.
        processor: its image processor.
        images: labelled images to learn from.
        validation: labelled images to measure on, of the same classes.
        epochs: of the linear probe; with 0 there is only k-NN.
        linear_batch_size: `batch_size` of `train_linear_probe`.
        layers, views, crop_scale, batch_size, device: as for `layer_features`.
        k, temperature: as for `knn`.
        learning_rate, standardise: as for `train_linear_probe`.
        seed: of the crops and of the linear probe.
        progress: show progress bars, if there is a terminal.

    Raises:
        DataError: no labels, a single class, other classes in `validation`, no such layer, or too many unreadable images.
        ConfigError: fewer images than neighbours, or an impossible temperature.
        CheckpointError: the model answers NaN or infinity.
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

    half = known.tokens.shape[2] // 2  # behind it lies the mean of the patches, before it the cls token
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
        raise DataError("A probe needs labelled images, to learn from and to measure on: one subfolder per class.")
    known = {images.classes[i] for i in np.unique(images.labels)}
    asked = {validation.classes[i] for i in np.unique(validation.labels)}
    if len(known) < 2:
        raise DataError(f"There is only one class, {', '.join(known)}; a probe needs at least two, one subfolder each.")
    if known != asked or images.classes != validation.classes:
        missing, strange = sorted(known - asked), sorted(asked - known)
        raise DataError(
            "The images to measure on have other classes than those to learn from: "
            f"{', '.join(missing[:5]) or 'none'} missing, {', '.join(strange[:5]) or 'none'} unknown. Wanted the same in "
            f"both: {', '.join(images.classes[:5])}{', …' if len(images.classes) > 5 else ''}."
        )


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
    """A quick probe of a model during its training.

    One seed always holds out the same images, so that the results of a run can be compared. Features are standardised: 20
    epochs then tell more than 100 without. Training goes on undisturbed: the modes of the modules, gradients and torch's random
    state are as before.

    Args:
        model: any BEiT model, not wrapped for several processes.
        processor: of this model.
        images: labelled images. Call `hold_out` before the training to see whether they can be used.
        seed: of what is held out and of the linear probe.
        most: use about this many images at most.
        k: number of neighbours; all images, if there are fewer.
        epochs: of the linear probe.
        batch_size: images per forward pass.
        device: where to compute; where the model is, if not given.

    Returns:
        Top-1 in [0, 1]: `knn_layer_01` … and `linear_layer_01` …, `knn_best`, `linear_best`; and `best_layer`, the
        number of the layer with the best linear probe.

    Raises:
        DataError, CheckpointError: as for `probe` and `hold_out`.
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
    values_by_name: dict[str, float] = {}
    for name, values in (("knn", result.knn), ("linear", result.linear)):
        values_by_name.update(
            {f"{name}_layer_{layer:02}": value for layer, value in zip(result.layers, values, strict=True)}
        )
        values_by_name[f"{name}_best"] = max(values)
    return {**values_by_name, "best_layer": float(result.best_layer)}

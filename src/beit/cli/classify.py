"""`beit evaluate`, `beit predict`, `beit embed`: using a trained model."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from beit.cli.parsing import at_least_one, default_device, parse, say_skipped
from beit.core.errors import ConfigError, DataError, require


@dataclass(kw_only=True)
class Evaluate:
    """Measure a classifier on labelled images: top-1 and top-5."""

    model: str
    """Fine-tuned model folder or Hub id."""
    images: Path
    """Folder with one subfolder a class, named as the model's classes."""
    framework: Literal["torch", "flax"] = "torch"
    """What computes: PyTorch, or JAX."""
    batch_size: int = 64
    """Images at a time."""
    output: Path | None = None
    """Folder to write evaluation.json into, with the confusion matrix."""


def evaluate_command(arguments: list[str]) -> None:
    settings = parse(Evaluate, "evaluate", arguments)
    at_least_one("batch_size", settings.batch_size)
    model = _classifier(settings.model, settings.framework, "beit evaluate")
    from beit.data.processor import BeitImageProcessor
    from beit.data.sources.images import FolderImages
    from beit.evaluation.classification import evaluate

    classes = [model.config.id2label[i] for i in range(model.config.num_labels)]
    images = FolderImages(settings.images, labelled=True, classes=classes)
    result = evaluate(model, BeitImageProcessor.from_pretrained(settings.model), images, settings.batch_size)
    print(result)
    say_skipped(result.skipped)
    if settings.output is not None:
        result.save(settings.output)


def _classifier(folder: str, framework: str, purpose: str) -> Any:
    """A fine-tuned model, where it is to compute; one without a trained classifier would only guess."""
    if framework == "flax":
        require("flax", "flax", purpose)
        from beit import FlaxBeitForImageClassification

        model = FlaxBeitForImageClassification.from_pretrained(folder)
    else:
        require("torch", "torch", purpose)
        from beit import BeitForImageClassification

        model = BeitForImageClassification.from_pretrained(folder).to(default_device())
    if model.load_report is not None and model.load_report.needs_training:
        raise ConfigError(f"{folder} has no trained classifier. Fine-tune it first: beit finetune --model {folder} …")
    if model.config.num_labels < 2:
        raise ConfigError(f"{folder} has {model.config.num_labels} classes; a classifier has at least two.")
    return model


@dataclass(kw_only=True)
class Predict:
    """Classify images."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    model: str
    """Fine-tuned model folder or Hub id."""
    framework: Literal["torch", "flax"] = "torch"
    """What computes: PyTorch, or JAX."""
    top: int = 5
    """How many labels to show."""
    json: bool = False
    """Print JSON instead of a table."""


def predict_command(arguments: list[str]) -> None:
    settings = parse(Predict, "predict", arguments)
    from beit.data.processor import BeitImageProcessor
    from beit.data.sources.images import FolderImages
    from beit.evaluation.classification import predict

    if not settings.images:
        raise DataError("No image was given: beit predict IMAGE… --model FOLDER")
    at_least_one("top", settings.top)
    paths: list[Any] = []
    for path in settings.images:
        paths += FolderImages(path).paths if path.is_dir() else [path]
    model = _classifier(settings.model, settings.framework, "beit predict")
    results = predict(model, BeitImageProcessor.from_pretrained(settings.model), paths, settings.top)
    if settings.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        for result in results:
            print(result["image"])
            for found in result.get("labels", []):
                print(f"  {found['probability']:7.1%}  {found['label']}")
            if "error" in result:
                print(f"  {result['error']}")
    failed = sum("error" in result for result in results)
    if failed:
        raise DataError(f"{failed} of {len(results)} images could not be read.")


@dataclass(kw_only=True)
class Embed:
    """Write features of images to a .npy or .parquet file."""

    model: str
    """Any BEiT model folder or Hub id."""
    images: Path
    """Folder with images."""
    output: Path
    """File to write: features.npy (with features.txt, the paths) or features.parquet (paths and features)."""
    layer: int | None = None
    """Layer to take, 1 to the last; the pooled output if not given."""
    batch_size: int = 64
    """Images at a time."""


def embed_command(arguments: list[str]) -> None:
    settings = parse(Embed, "embed", arguments)
    at_least_one("batch_size", settings.batch_size)
    if settings.output.suffix not in (".npy", ".parquet"):
        raise ConfigError(f"output is {settings.output}; its name must end in .npy or .parquet.")
    require("torch", "train", "beit embed")
    if settings.output.suffix == ".parquet":
        require("pyarrow", "train", "parquet files")
    if settings.output.is_dir():
        raise DataError(f"{settings.output} is a folder; name a file.")
    import numpy as np

    from beit.core.files import atomic_path
    from beit.data.processor import BeitImageProcessor
    from beit.data.sources.images import FolderImages
    from beit.evaluation.classification import embed
    from beit.models.torch.beit import BeitModel

    images = FolderImages(settings.images)
    processor = BeitImageProcessor.from_pretrained(settings.model)
    model = BeitModel.from_pretrained(settings.model)
    if model.pooler is not None and any(name.startswith("pooler") for name, _ in getattr(model.load_report, "new", [])):
        model.pooler = None  # its norm was never trained; the plain mean says the same
    kept, features, skipped = embed(model, processor, images, settings.layer, settings.batch_size, default_device())
    names = [images.name(index) for index in kept]
    with atomic_path(settings.output) as temporary:
        if settings.output.suffix == ".npy":
            with open(temporary, "wb") as file:
                np.save(file, features)
        else:
            arrow = require("pyarrow", "train", "parquet files")
            parquet = require("pyarrow.parquet", "train", "parquet files")
            width = features.shape[1]
            column = arrow.FixedSizeListArray.from_arrays(arrow.array(features.reshape(-1)), width)
            parquet.write_table(arrow.table({"image": names, "features": column}), temporary)
    if settings.output.suffix == ".npy":
        with atomic_path(settings.output.with_suffix(".txt")) as temporary:
            temporary.write_text("".join(name + "\n" for name in names), encoding="utf-8", errors="surrogateescape")
    print(f"Wrote {settings.output}: {features.shape[0]} images, {features.shape[1]} numbers each.")
    if skipped:
        print(f"{len(skipped)} images were skipped:\n  " + "\n  ".join(skipped[:10]), file=sys.stderr)

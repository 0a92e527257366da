"""`beit evaluate`, `beit embed`: use a trained model. `beit predict` has a file of its own."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from beit.cli.parsing import at_least_one, device_of, parse, require_framework, say_skipped, show
from beit.core.errors import ConfigError, DataError, require
from beit.core.files import check_folder
from beit.core.settings import Settings
from beit.core.text import as_utf8
from beit.data.sources.table_images import TableSettings

if TYPE_CHECKING:
    import numpy as np


@dataclass(kw_only=True)
class Evaluate(TableSettings):
    """Measure a model on labelled images: top-1 and top-5, scores of each class, calibration; mAP of several labels an image; R² and
    errors of numbers; with a report."""

    model: str
    """Folder or Hub id of a fine-tuned model."""
    images: Path
    """Folder of images, one subfolder per class, named as the classes of the model; or a table; or tar shards or a data set, as for beit
    finetune, of which a temporary copy is made."""
    framework: Literal["torch", "flax"] = "torch"
    """Compute with PyTorch (torch) or JAX (flax)."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, mps, …; a GPU where there is one if not given."""
    batch_size: int = 64
    """Images per forward pass."""
    output: Path | None = None
    """Folder for report.html (figures, mistakes as pictures) and evaluation.json (all numbers)."""


def evaluate_command(arguments: list[str]) -> None:
    settings = parse(Evaluate, "evaluate", arguments)
    at_least_one("batch_size", settings.batch_size)
    settings.check_table()
    if settings.output is not None:
        check_folder(settings.output)
    require_framework(settings.framework, "beit evaluate")
    device = device_of(settings.framework, settings.device)
    from beit.data.sources import open_to_measure
    from beit.data.sources.class_checks import check_class_folders, warn_of_absent_classes
    from beit.evaluation.evaluate import evaluate
    from beit.evaluation.reports import write_report
    from beit.inference.trained import open_classifier
    from beit.models.validation import problem_type

    model, processor = open_classifier(settings.model, settings.framework)
    classes = model.config.class_names
    images = open_to_measure(settings.images, classes, settings, problem_type(model.config, whole_numbers=True))
    check_class_folders(images)
    warn_of_absent_classes(images, classes)
    pictures = 0 if settings.output is None else 12
    result = evaluate(model, processor, images, settings.batch_size, device, pictures)
    show(result.summary())
    say_skipped(result.skipped)
    command = ["beit", "predict", "IMAGES", "--model", settings.model]
    if settings.output is None:
        command = [
            "beit",
            "evaluate",
            "--model",
            settings.model,
            "--images",
            str(settings.images),
            "--output",
            "REPORT",
        ]
    else:
        result.save(settings.output)
        show(f"Open {write_report(settings.output, result)}")
    show(f"Next:\n  {shlex.join(command)}")


@dataclass(kw_only=True)
class Embed(Settings):
    """Write the features of images to a .npy or .parquet file."""

    model: str
    """Folder or Hub id of any BEiT model."""
    images: Path
    """Folder of images."""
    output: Path
    """File to write: features.npy (with features.txt, the paths) or features.parquet (paths and features)."""
    overwrite: bool = False
    """Replace the file where it exists."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, mps, …; a GPU where there is one if not given."""
    layer: int | None = None
    """Layer whose patches are averaged, from 1 to the last; the pooled output if not given."""
    batch_size: int = 64
    """Images per forward pass."""


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
    written = [settings.output] + [settings.output.with_suffix(".txt")] * (settings.output.suffix == ".npy")
    there = [path for path in written if path.exists()]
    if there and not settings.overwrite:
        raise DataError(f"{there[0]} exists already. Give a new name, or --overwrite; nothing was written.")
    check_folder(settings.output.parent, "the file")
    from beit.data.sources.images import FolderImages
    from beit.inference.features import embed
    from beit.inference.trained import open_encoder

    device = device_of("torch", settings.device)
    images = FolderImages(settings.images)
    model, processor = open_encoder(settings.model)
    kept, features, skipped = embed(model, processor, images, settings.layer, settings.batch_size, device)
    _write_features(settings.output, features, [images.name(index) for index in kept])
    show(f"Wrote {settings.output}: {features.shape[0]} images, {features.shape[1]} numbers each.")
    say_skipped(skipped)


def _write_features(path: Path, features: np.ndarray, names: Sequence[str]) -> None:
    """Write features `(n, C)` with the names of their images: to PATH.npy and PATH.txt, or to PATH.parquet."""
    import numpy as np

    from beit.core.files import atomic_path

    if path.suffix == ".npy":
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, features)
        with atomic_path(path.with_suffix(".txt")) as temporary:
            lines = "".join(name.replace("\n", "\\n") + "\n" for name in names)  # line n is row n
            temporary.write_text(lines, encoding="utf-8", errors="surrogateescape")
        return
    arrow = require("pyarrow", "train", "parquet files")
    parquet = require("pyarrow.parquet", "train", "parquet files")
    column = arrow.FixedSizeListArray.from_arrays(arrow.array(features.reshape(-1)), features.shape[1])
    with atomic_path(path) as temporary:
        parquet.write_table(arrow.table({"image": [as_utf8(name) for name in names], "features": column}), temporary)

"""`beit evaluate`, `beit embed`: use a trained model. `beit predict` has a file of its own."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from beit.cli.parsing import at_least_one, device_of, parse, require_framework, say_skipped, show
from beit.cli.paths import say_frames_left_out
from beit.core.errors import ConfigError, DataError, require
from beit.core.files import check_folder
from beit.core.settings import Settings
from beit.data.sources.table_images import TableSettings


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
    frames: str = "first"
    """Of films (GIF, PNG, WebP, AVIF) and pages (TIFF): the first frame, all, or a number N for every Nth."""
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
    from beit.inference.feature_files import write_features
    from beit.inference.features import embed
    from beit.inference.frames import open_frames, parse_frames
    from beit.inference.origin import origin_of
    from beit.inference.trained import open_encoder

    device = device_of("torch", settings.device)
    images = open_frames(FolderImages(settings.images).paths, parse_frames(settings.frames))
    model, processor = open_encoder(settings.model)
    kept, features, skipped = embed(model, processor, images, settings.layer, settings.batch_size, device)
    origin = origin_of(settings.model, model, processor, settings.layer, device)
    write_features(settings.output, features, [images.name(index) for index in kept], origin)
    show(f"Wrote {settings.output}: {features.shape[0]} images, {features.shape[1]} numbers each.")
    say_skipped(skipped)
    say_frames_left_out(images)
    show(f"Next:\n  {shlex.join(['beit', 'similar', str(settings.output), '--html', 'GALLERY.html'])}")

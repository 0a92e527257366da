"""`beit predict`: classify images, on the screen or into files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from beit.cli.parsing import at_least_one, default_device_of, parse, require_framework, show, show_json
from beit.cli.paths import advice_on, image_paths
from beit.core.errors import ConfigError, DataError
from beit.core.files import check_folder
from beit.core.progress import progress_bar
from beit.core.settings import Settings
from beit.core.text import printable

if TYPE_CHECKING:
    from beit.inference.classification import Prediction


@dataclass(kw_only=True)
class Predict(Settings):
    """Classify images. The exit status is 1 where an image could not be read; the others are classified all the same."""

    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders of them, patterns in quotes ('photos/*.jpg'), or @FILE: a text file with one of these per line."""
    model: str
    """Folder or Hub id of a fine-tuned model."""
    framework: Literal["torch", "flax"] = "torch"
    """Compute with PyTorch (torch) or JAX (flax)."""
    top: int = 5
    """Number of classes to show for each image. Of a regression all numbers are shown."""
    json: bool = False
    """Print JSON instead of a table."""
    output: Path | None = None
    """File for the results instead of the screen: .csv, .jsonl or .parquet."""
    threshold: float | None = None
    """Least probability of a class in the results: below it an image has none. If not given, 0; of several labels per image, 0.5."""
    sort_into: Path | None = None
    """New folder into which the images are copied, one subfolder per class; those below the threshold into unsure/."""
    link: bool = False
    """Make symbolic links in that folder instead of copies."""


def predict_command(arguments: list[str]) -> None:
    settings = parse(Predict, "predict", arguments)
    if not settings.images:
        raise DataError("No image was given: beit predict IMAGE… --model FOLDER")
    _check(settings)
    paths = list(image_paths(settings.images, "beit predict"))
    require_framework(settings.framework, "beit predict")
    from beit.inference.classification import predict
    from beit.inference.files import ImageFiles
    from beit.inference.trained import open_classifier

    model, processor = open_classifier(settings.model, settings.framework)
    device = default_device_of(settings.framework)
    several = model.config.problem_type == "multi_label_classification"
    if settings.sort_into is not None and model.config.problem_type == "regression":
        raise ConfigError("The model is a regression and gives numbers; there are no classes to sort into.")
    writes = settings.output is not None or settings.sort_into is not None
    top = model.config.num_labels if several and writes else settings.top  # any of several may reach the threshold
    results = predict(model, processor, ImageFiles(paths), top, device=device)
    if not writes:
        failed = _print(list(results), settings)
    else:
        failed = _write(results, settings, model.config.class_names, several, len(paths))
    if failed:
        raise DataError(f"{failed} of {len(paths)} images could not be read.{advice_on(settings.images)}")


def _check(settings: Predict) -> None:
    """What can be said before the model is opened. Raises ConfigError or DataError."""
    from beit.inference.results import TABLES

    at_least_one("top", settings.top)
    if settings.threshold is not None and not 0 <= settings.threshold <= 1:
        raise ConfigError(f"threshold is {settings.threshold}; it is a probability, in [0, 1].")
    if settings.output is not None:
        if settings.output.suffix not in TABLES:
            raise ConfigError(f"output is {settings.output}; its name must end in {', '.join(TABLES)}.")
        if settings.output.exists():
            raise ConfigError(f"{settings.output} exists already. Give a new name, or remove it; nothing was written.")
        check_folder(settings.output.parent, "the file")
    writes = settings.output is not None or settings.sort_into is not None
    if settings.threshold is not None and not writes:
        raise ConfigError("threshold is for --output FILE and --sort-into FOLDER; the screen shows all probabilities.")
    if settings.json and writes:
        raise ConfigError(
            "json prints on the screen; with --output FILE.jsonl the results go into that file. Give one of them."
        )
    if settings.link and settings.sort_into is None:
        raise ConfigError("link is for --sort-into FOLDER; give both.")


def _print(results: list[Prediction], settings: Predict) -> int:
    """Print results; returns how many images could not be read."""
    if settings.json:
        show_json(results)
        return sum("error" in result for result in results)
    for result in results:
        if "error" in result:
            show(result["error"])  # begins with the image's name
            continue
        show(printable(result["image"]))
        for found in result.get("labels", []):
            number = f"{found['probability']:7.1%}" if "probability" in found else f"{found['value']:11.5g}"
            show(f"  {number}  {printable(found['label'])}")
    return sum("error" in result for result in results)


def _write(results: Iterator[Prediction], settings: Predict, classes: list[str], several: bool, count: int) -> int:
    """Write results as they come; returns how many images could not be read."""
    from beit.inference.results import UNSURE, Sorted, chosen, table

    threshold = settings.threshold if settings.threshold is not None else 0.5 if several else 0.0
    folder = None if settings.sort_into is None else Sorted(settings.sort_into, classes, settings.link)
    failed = unsure = 0
    with contextlib.ExitStack() as stack:
        rows = None if settings.output is None else stack.enter_context(table(settings.output, settings.top))
        bar = stack.enter_context(contextlib.closing(progress_bar(purpose="beit predict", total=count, unit="image")))
        for result in results:
            given = chosen(result, threshold, several)
            failed += "error" in result
            unsure += not given and "error" not in result
            if rows is not None:
                rows.add(result, given)
            if folder is not None and "error" not in result:
                folder.add(result["image"], given)
            if "error" in result:
                bar.write(result["error"])
            bar.update()
    places = " and ".join(printable(place) for place in (settings.output, settings.sort_into) if place is not None)
    show(f"Wrote {places}: {count - failed} images" + f", {unsure} of them {UNSURE}" * (unsure > 0) + ".")
    return failed

"""`beit predict`: classify images, on the screen or into files."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from beit.cli.parsing import at_least_one, device_of, parse, require_framework, show, show_json
from beit.cli.paths import advice_on, image_paths, say_frames_left_out
from beit.core.errors import ConfigError, DataError
from beit.core.settings import Settings
from beit.core.text import harmless, printable

if TYPE_CHECKING:
    from beit.data.sources.images import Images
    from beit.inference.classification import OnBatch, Prediction
    from beit.inference.predict_files import Wanted
    from beit.inference.results import Threshold


@dataclass(kw_only=True)
class Predict(Settings):
    """Classify images. The exit status is 1 where an image could not be read; the others are classified all the same."""

    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders of them, patterns in quotes ('photos/*.jpg'), or @FILE: a text file with one of these per line."""
    model: str
    """Folder or Hub id of a fine-tuned model."""
    framework: Literal["torch", "flax"] = "torch"
    """Compute with PyTorch (torch) or JAX (flax)."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, mps, …; a GPU where there is one if not given."""
    frames: str = "first"
    """Of films (GIF, PNG, WebP, AVIF) and pages (TIFF): the first frame, all, or a number N for every Nth."""
    top: int = 5
    """Number of classes to show for each image. Of a regression all numbers are shown."""
    json: bool = False
    """Print JSON instead of a table."""
    output: Path | None = None
    """File for the results instead of the screen: .csv, .jsonl or .parquet."""
    threshold: float | Literal["best"] | None = None
    """Least probability of a class in the results: below it an image has none. If not given, 0; of several labels per image, 0.5, or best
    for the threshold of each label that was best in the evaluation in the model's folder."""
    sort_into: Path | None = None
    """New folder into which the images are copied, one subfolder per class; those below the threshold into unsure/."""
    link: bool = False
    """Make symbolic links in that folder instead of copies."""
    attention: Path | None = None
    """New folder for a picture of each image with the attention of the last layer over it. About doubles the time."""
    resume: bool = False
    """Go on with a run that was ended, by the same arguments: what it has done is in OUTPUT.partial."""

    @property
    def writes(self) -> bool:
        """Whether results go into files, and not on the screen."""
        return self.output is not None or self.sort_into is not None

    def wanted(self, threshold: Threshold) -> Wanted:
        """What is to be written."""
        from beit.inference.predict_files import Wanted

        return Wanted(self.output, self.sort_into, self.top, threshold, self.link)


def predict_command(arguments: list[str]) -> None:
    settings = parse(Predict, "predict", arguments)
    if not settings.images:
        raise DataError("No image was given: beit predict IMAGE… --model FOLDER")
    _check(settings)
    paths = list(image_paths(settings.images, "beit predict"))
    require_framework(settings.framework, "beit predict")
    from beit.inference.attention import AttentionFiles
    from beit.inference.classification import predict
    from beit.inference.frames import open_frames, parse_frames
    from beit.inference.trained import open_classifier

    device = device_of(settings.framework, settings.device)
    every = parse_frames(settings.frames)
    if every and settings.sort_into is not None:
        raise ConfigError("sort_into copies files, and frames are none. Give --frames first, or --output FILE alone.")

    model, processor = open_classifier(settings.model, settings.framework)
    if settings.sort_into is not None and model.config.problem_type == "regression":
        raise ConfigError("The model is a regression and gives numbers; there are no classes to sort into.")
    images = open_frames(paths, every)
    attention = None
    if settings.attention is not None:
        names = [images.name(index) for index in range(len(images))]
        attention = AttentionFiles(settings.attention, names, model, processor)
    look = None if attention is None else attention.add
    if not settings.writes:
        failed = _print(list(predict(model, processor, images, settings.top, device=device, on_batch=look)), settings)
    else:
        failed = _write(model, processor, images, settings, device, look)
    if attention is not None:
        _note(f"Wrote {attention.written} pictures of the attention to {settings.attention}.")
    say_frames_left_out(images)
    if failed:
        raise DataError(f"{failed} of {len(images)} images could not be read.{advice_on(settings.images)}")


def _check(settings: Predict) -> None:
    """What can be said before the model is opened. Raises ConfigError or DataError."""
    at_least_one("top", settings.top)
    if isinstance(settings.threshold, float) and not 0 <= settings.threshold <= 1:
        raise ConfigError(f"threshold is {settings.threshold}; it is a probability, in [0, 1], or best.")
    if settings.threshold is not None and not settings.writes:
        raise ConfigError("threshold is for --output FILE and --sort-into FOLDER; the screen shows all probabilities.")
    if settings.json and settings.writes:
        raise ConfigError(
            "json prints on the screen; with --output FILE.jsonl the results go into that file. Give one of them."
        )
    if settings.link and settings.sort_into is None:
        raise ConfigError("link is for --sort-into FOLDER; give both.")
    if settings.resume and not settings.writes:
        raise ConfigError("resume goes on with --output FILE or --sort-into FOLDER; give what the run was begun with.")
    if settings.writes:
        settings.wanted(0.0).check(settings.resume)
    if settings.attention is not None:
        from beit.inference.attention import check_attention_folder

        check_attention_folder(settings.attention, settings.resume and settings.wanted(0.0).journal.exists())


def _note(text: str) -> None:
    print(harmless(text), file=sys.stderr)


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


def _write(
    model: Any, processor: Any, images: Images, settings: Predict, device: str | None, look: OnBatch | None
) -> int:
    """Write results; returns how many images could not be read."""
    from beit.inference.predict_files import predict_files
    from beit.inference.results import UNSURE, best_thresholds

    several = model.config.problem_type == "multi_label_classification"
    threshold: Threshold
    if isinstance(settings.threshold, str):
        if not several:
            raise ConfigError("threshold best is for a model of several labels an image. Give a number from 0 to 1.")
        threshold = best_thresholds(settings.model)
    else:
        threshold = settings.threshold if settings.threshold is not None else 0.5 if several else 0.0
    wanted = settings.wanted(threshold)
    further = {
        "framework": settings.framework,
        "frames": settings.frames,
        "attention": None if settings.attention is None else os.path.abspath(settings.attention),
    }
    try:
        found = predict_files(
            model,
            processor,
            images,
            wanted,
            settings.resume,
            further,
            device,
            look,
        )
    except BaseException:  # whatever ends it
        if wanted.journal.exists():
            print(f"\n{wanted.journal} holds what is done: go on with --resume.", file=sys.stderr)
        raise
    if found.before:
        show(f"{found.before} of {found.count} images were done before.")
    places = " and ".join(printable(place) for place in (settings.output, settings.sort_into) if place is not None)
    unsure = f", {found.unsure} of them {UNSURE}" * (found.unsure > 0)
    show(f"Wrote {places}: {found.count - found.failed} images{unsure}.")
    return found.failed

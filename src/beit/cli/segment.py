"""`beit segment`: train, evaluate, predict, and a demonstration."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from beit.cli.parsing import at_least_one, default_device, last_line, parse, say
from beit.core.errors import ConfigError, DataError, require


@dataclass(kw_only=True)
class _Ways:
    """How segmentation brings images to the model."""

    model: str
    """Folder or Hub id of a model that was trained for segmentation."""
    mode: Literal["slide", "whole"] = "slide"
    """Windows of the model's size over the image, or the whole image resized to that size (faster, coarser)."""
    short_side: int | None = None
    """Shorter side in pixels to which images are resized before windows are cut; the model's size if not given."""
    scales: tuple[float, ...] = (1.0,)
    """Average over these scales of the image, such as 0.5 0.75 1 1.25 1.5 1.75."""
    flip: bool = False
    """Average with the mirrored image."""
    batch_size: int = 8
    """Windows at a time."""


def segment_command(arguments: list[str]) -> None:
    actions = {
        "train": (_segment_train, "train segmentation on images with label maps"),
        "evaluate": (_segment_evaluate, "mIoU and accuracies, with a report of the worst cases"),
        "predict": (_segment_predict, "label maps and overlays of images"),
        "demo": (
            _segment_demo,
            "train and evaluate on embedded images, with a report (about three minutes on two CPU cores)",
        ),
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: beit segment {{{','.join(actions)}}} …\n")
        print("\n".join(f"  {name:9} {text}" for name, (_, text) in actions.items()))
        return
    action, *rest = arguments
    if action not in actions:
        raise ConfigError(f"beit segment has no action {action!r}. Choose {', '.join(actions)}.")
    actions[action][0](rest)


def _segment_train(arguments: list[str]) -> None:
    from beit.train.settings import SegmentSettings

    settings = parse(SegmentSettings, "segment train", arguments)
    require("torch", "train", "beit segment")
    from beit.train.segmentation import segment

    history, result = segment(settings)
    say(f"Saved {settings.output}: {last_line(settings, history)['accuracy']:.1%} of the training pixels right.")
    if result is not None:
        say(f"Validation: {result}\nOpen {settings.output / 'report.html'}")


@dataclass(kw_only=True)
class EvaluateSegmentation(_Ways):
    """Measure segmentation on images with label maps: mIoU, accuracies, and a report with the worst cases."""

    images: Path
    """Folder with images; or embedded:pasted_garments, the test part of the embedded task."""
    maps: Path | None = None
    """Folder with their label maps, named and arranged alike."""
    classes: Path | None = None
    """Text file with the names of the classes, one a line, where the model's own are only numbers."""
    ignore_index: int | None = None
    """Number in the label maps that means no label, if not the model's."""
    reduce_labels: bool = False
    """Maps count classes from 1 and 0 means no label; so it is anyway for a model that was trained so."""
    examples: int = 6
    """How many images from all over the set, and how many of the worst, to show in the report."""
    output: Path | None = None
    """Folder to write evaluation.json and report.html into."""


def _segment_evaluate(arguments: list[str]) -> None:
    settings = parse(EvaluateSegmentation, "segment evaluate", arguments)
    at_least_one("examples", settings.examples)
    if settings.output is not None and settings.output.is_file():
        raise DataError(f"{settings.output} is a file; give a folder for the result.")
    require("torch", "train", "beit segment")
    if settings.output is not None:
        require("matplotlib", "train", "the pictures of a report")
    from beit.data.label_maps import LabelRules
    from beit.data.sources.class_names import read_classes
    from beit.data.sources.opening import open_segmented
    from beit.evaluation.segmentation import evaluate_segmentation

    model, processor, way = _segmenter(settings)
    ignore = settings.ignore_index if settings.ignore_index is not None else model.config.semantic_loss_ignore_index
    reduce = settings.reduce_labels or processor.do_reduce_labels
    model.config.semantic_loss_ignore_index = ignore
    if settings.classes is not None:
        names = read_classes(settings.classes)
        if len(names) != model.config.num_labels:
            raise ConfigError(
                f"{settings.classes} names {len(names)} classes; {settings.model} has {model.config.num_labels}."
            )
        model.config.id2label = dict(enumerate(names))
    classes = [model.config.id2label[i] for i in range(model.config.num_labels)]
    images = open_segmented(settings.images, settings.maps, classes, LabelRules(ignore, reduce), test=True)
    if len(images.classes) != len(classes):
        raise ConfigError(f"{settings.model} has {len(classes)} classes, {settings.images} has {len(images.classes)}.")
    result = evaluate_segmentation(model, processor, images, way, default_device(), settings.examples)
    if settings.output is not None:
        result.save(settings.output)
    print(result)
    width = max(map(len, classes))
    for row in result.class_rows():
        print(f"  {row['name']:{width}}  {'absent' if row['iou'] is None else format(row['iou'], '6.1%')}")
    if result.skipped:
        print(f"{len(result.skipped)} images were skipped:\n  " + "\n  ".join(result.skipped[:10]), file=sys.stderr)
    if settings.output is not None:
        print(f"Open {settings.output / 'report.html'}")


@dataclass(kw_only=True)
class PredictSegmentation(_Ways):
    """Segment images: label maps, overlays, and a legend of the colours."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    output: Path
    """Folder for maps/, overlays/ and legend.png."""


def _segment_predict(arguments: list[str]) -> None:
    settings = parse(PredictSegmentation, "segment predict", arguments)
    if settings.output.is_file():
        raise DataError(f"{settings.output} is a file; give a folder for the result.")
    require("torch", "torch", "beit segment predict")
    from beit.inference.segment_files import predict_maps

    model, processor, way = _segmenter(settings)
    written, failed = predict_maps(model, processor, settings.images, settings.output, way, default_device())
    if written:
        print(f"Wrote {len(written)} label maps to {written[0].parent}, overlays and legend.png beside it.")
    if failed:
        total = len(written) + len(failed)
        raise DataError(f"{len(failed)} of {total} images could not be read:\n  " + "\n  ".join(failed))


def _segmenter(settings: Any) -> tuple[Any, Any, Any]:
    """(model, processor, way) of a command that uses a trained model; one without trained heads would only guess."""
    from beit.data.processor import BeitImageProcessor
    from beit.inference.segmentation import Way
    from beit.models.torch.segmentation import BeitForSemanticSegmentation

    way = Way(settings.mode, settings.short_side, settings.scales, settings.flip, settings.batch_size)
    model = BeitForSemanticSegmentation.from_pretrained(settings.model)
    if model.load_report is not None and model.load_report.needs_training:
        raise ConfigError(
            f"{settings.model} was not trained for segmentation. Train it first: beit segment train --model {settings.model} …"
        )
    return model, BeitImageProcessor.from_pretrained(settings.model), way


def _segment_demo(arguments: list[str]) -> None:
    from beit.demo.settings import SegmentDemo

    settings = parse(SegmentDemo, "segment demo", arguments)
    require("torch", "train", "beit segment demo")
    from beit.demo.segmentation import run_segment_demo

    print(f"Open {run_segment_demo(settings)}")

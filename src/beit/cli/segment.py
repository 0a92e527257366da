"""`beit segment`: train, evaluate, predict, and a demonstration."""

from __future__ import annotations

import sys
from typing import Any

from beit.cli.parsing import at_least_one, default_device, last_line, parse, say
from beit.core.errors import ConfigError, DataError, require


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


def _segment_evaluate(arguments: list[str]) -> None:
    from beit.cli.settings import EvaluateSegmentation

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


def _segment_predict(arguments: list[str]) -> None:
    from beit.cli.settings import PredictSegmentation

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
    from beit.cli.settings import SegmentDemo

    settings = parse(SegmentDemo, "segment demo", arguments)
    require("torch", "train", "beit segment demo")
    from beit.demo.segmentation import run_segment_demo

    print(f"Open {run_segment_demo(settings)}")

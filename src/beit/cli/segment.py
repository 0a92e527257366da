"""`beit segment`: train, evaluate, predict, and a demonstration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from beit.cli.parsing import at_least_one, device_of, last_line, parse, run_action, say, say_next, say_skipped, show
from beit.cli.paths import places
from beit.core.errors import ConfigError, DataError, require
from beit.core.files import check_folder
from beit.core.settings import Settings
from beit.core.text import printable

if TYPE_CHECKING:
    from beit.data.sources.images import Images
    from beit.inference.sliding_window import SlidingWindow
    from beit.models.torch.segmentation import BeitForSemanticSegmentation


def segment_command(arguments: list[str]) -> None:
    actions = {
        "train": (_train, "train segmentation on images with label maps"),
        "evaluate": (_evaluate, "measure mIoU and accuracies, with a report of the worst cases"),
        "predict": (_predict, "write label maps and overlays of images"),
        "demo": (
            _demo,
            "train and evaluate on embedded images, with a report (about three minutes on two CPU cores)",
        ),
    }
    run_action("segment", actions, arguments)


def _train(arguments: list[str]) -> None:
    from beit.train.settings import SegmentSettings

    settings = parse(SegmentSettings, "segment train", arguments)
    require("torch", "train", "beit segment")
    from beit.train.segmentation import segment

    history, result = segment(settings)
    say(f"Saved {settings.output}: {last_line(settings, history)['accuracy']:.1%} of the training pixels right.")
    if result is not None:
        say(f"Validation: {result}\nOpen {settings.output / 'report.html'}")
    say_next(["segment", "predict", "IMAGES", "--model", settings.output, "--output", "NEW"])


@dataclass(kw_only=True)
class _Inference(Settings):
    """What evaluation and prediction share: the model, and how images are brought to it."""

    model: str
    """Folder or Hub id of a model that was trained for segmentation."""
    mode: Literal["slide", "whole"] = "slide"
    """slide: windows of the model's size slide over the image; whole: the image is resized to that size (faster, coarser)."""
    short_side: int | None = None
    """Shorter side in pixels to which images are resized before windows are cut; the model's size if not given."""
    scales: tuple[float, ...] = (1.0,)
    """Average the predictions at these scales of the image, such as 0.5 0.75 1 1.25 1.5 1.75."""
    flip: bool = False
    """Average with the prediction for the mirrored image."""
    batch_size: int = 8
    """Windows per forward pass."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, mps, …; a GPU where there is one if not given."""

    def sliding_window(self) -> SlidingWindow:
        """These settings as inference takes them. Raises ConfigError for impossible ones."""
        from beit.inference.sliding_window import SlidingWindow

        return SlidingWindow(self.mode, self.short_side, self.scales, self.flip, self.batch_size)


@dataclass(kw_only=True)
class EvaluateSegmentation(_Inference):
    """Measure segmentation on images with label maps: mIoU, accuracies, and a report with the worst cases."""

    images: Path
    """Folder of images; or embedded:pasted_garments, the test images of the embedded task."""
    maps: Path | None = None
    """Folder of their label maps, with the same names and subfolders; or of YOLO's text files."""
    annotations: Path | None = None
    """COCO's annotations, in place of label maps; or data.yaml or classes.txt with the names of YOLO's classes."""
    unlabelled: Literal["background", "void"] | None = None
    """What pixels in no outline of COCO's or YOLO's are; if not given, the class background where the model has one, else void,
    no label."""
    classes: Path | None = None
    """Text file with the names of the classes, one per line, for a model that only has numbers."""
    ignore_index: int | None = None
    """Number in the label maps that means no label; the model's own if not given."""
    reduce_labels: bool = False
    """Label maps count classes from 1, and 0 means no label. Not needed for a model that was trained this way."""
    map_value: tuple[str, ...] = ()
    """Numbers in the label maps that stand for other numbers: 255=1 for masks of 0 and 255. As in training."""
    colors: Path | None = None
    """File with the colour of each class, for label maps in colour, as in training; classes are matched by name."""
    unknown_colors: Literal["refuse", "void"] = "refuse"
    """What to do about colours in label maps that the file --colors does not have: refuse them, or take them for no label."""
    mask_suffix: str | None = None
    """How the names of the label maps end after that of their image, such as _mask.png; if not given, it is found."""
    examples: int = 6
    """Number of images from all over the set, and number of the worst, to show in the report."""
    output: Path | None = None
    """Folder for evaluation.json and report.html."""


def _evaluate(arguments: list[str]) -> None:
    settings: EvaluateSegmentation = parse(EvaluateSegmentation, "segment evaluate", arguments)
    at_least_one("examples", settings.examples)
    if settings.output is not None:
        check_folder(settings.output)
    require("torch", "train", "beit segment")
    if settings.output is not None:
        require("matplotlib", "train", "the pictures of a report")
    from beit.evaluation.report_segmentation import percent, write_report
    from beit.evaluation.segmentation import evaluate_segmentation
    from beit.inference.trained import open_segmenter

    device = device_of("torch", settings.device)
    sliding_window = settings.sliding_window()
    model, processor = open_segmenter(settings.model)
    # What the model was trained on says nothing about labels of another form.
    numbers = settings.maps is not None and settings.colors is None and settings.annotations is None
    reduce_labels = settings.reduce_labels or (processor.do_reduce_labels and numbers)
    images = _labelled(settings, model, reduce_labels)
    result = evaluate_segmentation(model, processor, images, sliding_window, device, settings.examples)
    if settings.output is not None:
        result.save(settings.output)
        write_report(settings.output, result)
    show(result)
    width = max(len(printable(name)) for name in result.classes)
    for row in result.class_rows():
        show(f"  {printable(row['name']):{width}}  {percent(row['iou']):>6}")
    say_skipped(result.skipped)
    if settings.output is not None:
        show(f"Open {settings.output / 'report.html'}")


def _labelled(settings: EvaluateSegmentation, model: BeitForSemanticSegmentation, reduce_labels: bool) -> Images:
    """The images with their label maps; the model takes over the ignore index and the names of the classes."""
    from beit.data.label_form import LabelForm
    from beit.data.label_maps import LabelRules, parse_values
    from beit.data.sources.class_names import read_classes
    from beit.data.sources.label_map_scan import check_maps
    from beit.data.sources.open_segmented import open_segmented
    from beit.data.sources.outlined import background_of
    from beit.data.sources.segmented import SegmentedImages

    config = model.config
    if settings.ignore_index is not None:
        config.semantic_loss_ignore_index = settings.ignore_index
    if settings.classes is not None:
        names = read_classes(settings.classes)
        if len(names) != config.num_labels:
            raise ConfigError(
                f"{settings.classes} names {len(names)} classes; {settings.model} has {config.num_labels}."
            )
        config.id2label = dict(enumerate(names))
    classes = config.class_names
    rules = LabelRules(config.semantic_loss_ignore_index, reduce_labels, parse_values(settings.map_value))
    background = settings.unlabelled == "background" or (settings.unlabelled is None and background_of(classes) >= 0)
    form = LabelForm(rules, settings.colors, settings.unknown_colors, settings.mask_suffix, background)
    images = open_segmented(settings.images, settings.maps, settings.annotations, classes, form, test=True)
    if len(images.classes) != len(classes):
        raise ConfigError(f"{settings.model} has {len(classes)} classes, {settings.images} has {len(images.classes)}.")
    if isinstance(images, SegmentedImages):
        check_maps(images, refuse=False)
    return images


@dataclass(kw_only=True)
class PredictSegmentation(_Inference):
    """Segment images: label maps, overlays, and a legend of the colours."""

    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders of them, patterns in quotes ('photos/*.jpg'), or @FILE: a text file with one of these per line."""
    output: Path
    """Folder for maps/, overlays/ and legend.png."""


def _predict(arguments: list[str]) -> None:
    settings: PredictSegmentation = parse(PredictSegmentation, "segment predict", arguments)
    check_folder(settings.output)
    images = [Path(place).expanduser() for place in places(settings.images, "beit segment predict")]
    require("torch", "torch", "beit segment predict")
    from beit.inference.segment_files import MAPS, predict_maps
    from beit.inference.trained import open_segmenter

    device = device_of("torch", settings.device)
    sliding_window = settings.sliding_window()
    model, processor = open_segmenter(settings.model)
    written, failed = predict_maps(model, processor, images, settings.output, sliding_window, device)
    if written:
        show(f"Wrote {len(written)} label maps to {settings.output / MAPS}, overlays and legend.png beside it.")
    if failed:
        total = len(written) + len(failed)
        raise DataError(f"{len(failed)} of {total} images could not be read:\n  " + "\n  ".join(failed))


def _demo(arguments: list[str]) -> None:
    from beit.demo.settings import SegmentDemo

    settings = parse(SegmentDemo, "segment demo", arguments)
    require("torch", "train", "beit segment demo")
    from beit.demo.segmentation import run_segment_demo

    print(f"Open {run_segment_demo(settings)}")

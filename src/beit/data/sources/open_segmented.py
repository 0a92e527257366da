"""From what a user wrote to images with label maps: label files of any form, or the embedded task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beit.core.errors import ConfigError, DataError
from beit.data.colour_table import ColourTable
from beit.data.embedded.pasted_garments import PastedGarments
from beit.data.label_form import NAME_FILES, LabelForm
from beit.data.sources.coco import coco_images
from beit.data.sources.labelled_folders import LabelledFolders
from beit.data.sources.yolo import holds_labels, labels_beside, yolo_images

logger = logging.getLogger("beit")


def open_segmented(
    images: str | Path,
    maps: Path | None,
    annotations: Path | None,
    classes: Sequence[str] | None,
    form: LabelForm,
    test: bool,
) -> Any:
    """Images with label maps: files of maps, shapes as COCO or YOLO writes them, or the embedded task.

    Args:
        images: a folder, or `embedded:pasted_garments`.
        maps: the folder of the label maps, or of YOLO's text files; these are also found beside a folder called images.
        annotations: COCO's JSON file; or data.yaml or classes.txt, which name YOLO's classes.
        classes: names of the classes; None to leave them open, or to take those that the labels name.
        form: how the labels are written.
        test: of the embedded task, its test part. Of other images, what was guessed is not said again.

    Raises:
        DataError: as `LabelledFolders`, `coco_images` and `yolo_images`; or there are no labels.
        ConfigError: settings exclude each other.
    """
    if str(images).startswith("embedded:"):
        if str(images) != "embedded:pasted_garments":
            raise DataError(f"There are no embedded images {str(images)[9:]!r}; wanted embedded:pasted_garments.")
        return PastedGarments(test=test)
    folder = Path(images)
    names = annotations is not None and annotations.suffix.lower() in NAME_FILES
    if annotations is not None and not names:
        if maps is not None:
            raise ConfigError(f"{annotations} and {maps} both hold labels; give one of them.")
        _check_shapes(form)
        found = coco_images(folder, annotations, form.rules, form.background)
    else:
        labels = maps if maps is not None and (names or holds_labels(maps)) else None
        if maps is None:
            labels = labels_beside(folder)
            if labels is None:
                raise DataError(
                    f"Got no label maps for {images}. Give their folder: --maps, or --validation-maps for validation. Or COCO's file: "
                    "--annotations, or --validation-annotations. YOLO's labels are found in labels/ beside images/."
                )
            logger.warning("Labels of %s: the text files in %s.", images, labels)
        if labels is None:
            return _with_maps(folder, maps, classes, form, test)
        _check_shapes(form)
        found = yolo_images(folder, labels, annotations, form.rules, form.background)
    if not test:
        pixels = f"the class {found.names[found.unlabelled]}" if form.background else "no label"
        logger.warning("Pixels in no outline have %s; --unlabelled says otherwise.", pixels)
    return found if classes is None else found.with_classes(classes)


def _check_shapes(form: LabelForm) -> None:
    """Raises ConfigError for settings that are for label maps."""
    numbers = form.rules.reduce_labels or bool(form.rules.values)
    for name, given in (
        ("colors", form.colors is not None),
        ("mask_suffix", form.mask_suffix is not None),
        ("reduce_labels and map_value", numbers),
    ):
        if given:
            raise ConfigError(
                f"{name}: for files of label maps. Outlines of COCO and YOLO say their classes; leave it out."
            )


def _with_maps(folder: Path, maps: Any, classes: Sequence[str] | None, form: LabelForm, test: bool) -> LabelledFolders:
    colours = None
    if form.colors is not None:
        colours = ColourTable.read(form.colors, form.unknown_colors == "void")
        if not test and colours.void:
            logger.warning("%s: by its name, no label: %s.", form.colors, ", ".join(colours.void))
    return LabelledFolders(folder, maps, classes, form.rules, colours=colours, mask_suffix=form.mask_suffix)

"""From what a user wrote to images with label maps: label files of any form, or the embedded task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beit.core.errors import DataError
from beit.data.colour_table import ColourTable
from beit.data.embedded.pasted_garments import PastedGarments
from beit.data.label_form import LabelForm
from beit.data.sources.labelled_folders import LabelledFolders

logger = logging.getLogger("beit")


def open_segmented(
    images: str | Path, maps: Path | None, classes: Sequence[str] | None, form: LabelForm, test: bool
) -> Any:
    """Images with label maps: those of two folders, or the embedded task.

    Args:
        images: a folder, or `embedded:pasted_garments`.
        maps: the folder of the label maps.
        classes: names of the classes; None to leave them open, or to take those that the labels name.
        form: how the labels are written.
        test: of the embedded task, its test part.

    Raises:
        DataError: as `LabelledFolders`; or a folder of images without one of maps.
    """
    if str(images).startswith("embedded:"):
        if str(images) != "embedded:pasted_garments":
            raise DataError(f"There are no embedded images {str(images)[9:]!r}; wanted embedded:pasted_garments.")
        return PastedGarments(test=test)
    if maps is None:
        raise DataError(
            f"Got no label maps for {images}. Give their folder: --maps, or --validation-maps for validation."
        )
    colours = None
    if form.colors is not None:
        colours = ColourTable.read(form.colors, form.unknown_colors == "void")
        if not test and colours.void:
            logger.warning("%s: by its name, no label: %s.", form.colors, ", ".join(colours.void))
    return LabelledFolders(images, maps, classes, form.rules, colours=colours, mask_suffix=form.mask_suffix)

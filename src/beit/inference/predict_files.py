"""Predictions of many images as files: a table, images sorted into folders, or both. A run that was ended goes on.

Predictions are kept in a journal (`journal.py`) until all are there. Then the folders and the table are made beside their
places, and appear by a rename.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beit.core.errors import ConfigError, DataError
from beit.core.files import check_folder, sync_folder
from beit.core.progress import progress_bar
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.inference.classification import OnBatch, batch_logits, prediction_batches
from beit.inference.feature_files import sample_image
from beit.inference.journal import Journal, digest, partial_folder
from beit.inference.results import Sorted, Threshold, chosen, table
from beit.inference.tables import check_table

if TYPE_CHECKING:
    import torch

_BATCH = 64


@dataclass(frozen=True)
class Wanted:
    """What is to be written.

    Attributes:
        output: a table, by its suffix; or None.
        sort_into: a folder with one folder per class; or None.
        top: most probable classes of an image in the table.
        threshold: least probability of a class that is given to an image, or that of each class by its name.
        link: symbolic links in place of copies.
    """

    output: Path | None = None
    sort_into: Path | None = None
    top: int = 5
    threshold: Threshold = 0.0
    link: bool = False

    @property
    def journal(self) -> Path:
        """The folder of unfinished work."""
        place = self.output if self.output is not None else self.sort_into
        assert place is not None
        return partial_folder(place)

    def check(self, resume: bool) -> None:
        """Refuse, before the work, what cannot be written or would be overwritten.

        Raises:
            ConfigError: a result exists, or unfinished work does and `resume` is False.
            DataError: a folder cannot be written.
            MissingExtraError: pyarrow is not installed.
        """
        if not (resume and os.path.lexists(self.journal)):
            self.check_free()
        if self.output is not None:
            check_table(self.output, may_exist=True)
        if self.sort_into is not None:
            check_folder(self.sort_into.parent)
        for place in (self.output, self.sort_into):
            if place is not None and os.path.lexists(partial_folder(place)) and not resume:
                raise ConfigError(
                    f"{partial_folder(place)} holds unfinished work. Go on with it by --resume, or remove that folder to begin anew."
                )

    def check_free(self) -> None:
        """Raise ConfigError where a result exists."""
        if self.output is not None and os.path.lexists(self.output):
            raise ConfigError(f"{self.output} exists already. Give a new name, or remove it; nothing was written.")
        if self.sort_into is not None and _has_something(self.sort_into):
            raise ConfigError(f"{self.sort_into} exists already. Give a new folder to sort into; nothing was written.")


@dataclass
class Written:
    """What was written.

    Attributes:
        count: number of images.
        failed: how many of them could not be read.
        unsure: how many could be, and got no class.
        before: how many were done by an earlier run.
    """

    count: int
    failed: int = 0
    unsure: int = 0
    before: int = 0


def predict_files(
    model: Any,
    processor: BeitImageProcessor,
    images: Images,
    wanted: Wanted,
    resume: bool = False,
    settings: dict[str, Any] | None = None,
    device: torch.device | str | None = None,
    on_batch: OnBatch | None = None,
) -> Written:
    """Classify images into files.

    Args:
        model: a classifier, as for `batch_logits`.
        processor: its image processor.
        images: what to classify. Their names are paths, where they are sorted into folders.
        wanted: what to write.
        resume: go on with unfinished work, where there is some.
        settings: further values of JSON on which the results depend; unfinished work of other ones is refused.
        device: as for `batch_logits`.
        on_batch: called with (numbers, images) of each batch before it counts as done; a run that goes on may call it again.

    Raises:
        ConfigError: as of `Wanted.check`; or the unfinished work has other images, settings or another model.
        CheckpointError: the model answers NaN or infinity, or something could not be written.
    """
    wanted.check(resume)
    config = model.config
    several = config.problem_type == "multi_label_classification"
    top = config.num_labels if several else wanted.top  # any of several may reach the threshold
    names = [images.name(index) for index in range(len(images))]
    logits = batch_logits(model, processor, [sample_image()], device, min(_BATCH, max(len(images), 1)))[0]
    work = {
        "images": [len(names), digest(names)],
        "model": {"classes": digest(config.class_names), "sample": [round(float(value), 6) for value in logits]},
        "top": wanted.top,
        "threshold": wanted.threshold,
        "sort_into": None if wanted.sort_into is None else os.path.abspath(wanted.sort_into),
        "link": wanted.link,
        **(settings or {}),
    }
    with Journal(wanted.journal, work, resume) as journal:
        if journal.done < len(images):  # else the run may have ended between its last two steps
            wanted.check_free()
        found = Written(len(images), before=journal.done)
        with progress_bar(purpose="beit predict", total=len(images), initial=journal.done, unit="image") as bar:
            for batch in prediction_batches(model, processor, images, top, _BATCH, device, journal.done, on_batch):
                journal.add(batch)
                for prediction in batch:
                    if "error" in prediction:
                        bar.write(prediction["error"])
                bar.update(len(batch))
        _deliver(journal, wanted, config.class_names, several, found)
        journal.remove()
    return found


def _deliver(journal: Journal, wanted: Wanted, classes: list[str], several: bool, found: Written) -> None:
    """Make the results from the journal. What an earlier run has put into its place already stays."""
    for prediction in journal.predictions():
        given = chosen(prediction, wanted.threshold, several)
        found.failed += "error" in prediction
        found.unsure += not given and "error" not in prediction
    if wanted.sort_into is not None and not _has_something(wanted.sort_into):
        _sort(journal, wanted, wanted.sort_into, classes, several, found)
    if wanted.output is not None and not wanted.output.exists():
        made = journal.folder / wanted.output.name
        with table(made, wanted.top) as rows:
            for prediction in journal.predictions():
                rows.add(prediction, chosen(prediction, wanted.threshold, several))
        os.replace(made, wanted.output)
        sync_folder(wanted.output.parent)
    if wanted.sort_into is not None and wanted.output is not None:
        shutil.rmtree(partial_folder(wanted.sort_into), ignore_errors=True)


def _sort(journal: Journal, wanted: Wanted, place: Path, classes: list[str], several: bool, found: Written) -> None:
    staging = partial_folder(place) / "sorted"
    if staging.exists():
        shutil.rmtree(staging)  # an earlier run was ended while it sorted
    staging.mkdir(parents=True)
    sorted_ = Sorted(staging, classes, wanted.link)
    with progress_bar(purpose="beit predict", total=found.count, desc="sorting", unit="image") as bar:
        for prediction in journal.predictions():
            if "error" not in prediction:
                try:
                    sorted_.add(prediction["image"], chosen(prediction, wanted.threshold, several))
                except FileNotFoundError as error:
                    raise DataError(
                        f"{prediction['image']} has gone since it was classified. Bring it back and go on with --resume, or remove "
                        f"{journal.folder} to begin anew."
                    ) from error
            bar.update()
    if place.exists():
        place.rmdir()  # empty
    os.replace(staging, place)
    sync_folder(place.parent)


def _has_something(folder: Path) -> bool:
    return os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir()))

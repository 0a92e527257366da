"""The model card of a run: README.md in its output folder, with data, settings, figures and how to load the model.

`beit.checkpoints.model_card` writes it, and keeps one that a person wrote. No path of this machine stands in it: of a folder, its
name alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import beit
from beit.checkpoints import catalogue, model_card
from beit.checkpoints.hub import without_secrets
from beit.config import PRESETS
from beit.core.text import printable
from beit.evaluation.evaluate import Measured
from beit.evaluation.multi_label import MultiLabelEvaluation
from beit.evaluation.regression import RegressionScores
from beit.evaluation.scores import wilson
from beit.evaluation.segmentation import SegmentationEvaluation
from beit.train.settings import (
    FinetuneSettings,
    PretrainSettings,
    RunSettings,
    SegmentSettings,
    TokenizerSettings,
)

_MOST_CLASSES = 60
# What a reader wants to know even where it is the default.
_ALWAYS = ("steps", "epochs", "batch_size", "learning_rate", "seed")
# Places, of which other lines give the names; and how a run was kept, which changes no figure.
_LEFT_OUT = {
    *("images", "validation", "output", "model", "tokenizer", "token_cache", "probe", "maps", "validation_images"),
    *("validation_maps", "classes", "resume", "allow_inexact_resume", "workers", "log_every", "save_every", "keep"),
    *("probe_every", "shuffle_buffer", "image_folder", "label_columns", "path_column"),
}
# Of a line of the log: how fast the training went and where it was, which says nothing about the model.
_PROGRESS = {"step", "epoch", "learning_rate", "images_per_second", "data_wait", "gradient_norm"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

Result = Measured | SegmentationEvaluation


class Figure(NamedTuple):
    """One line of the results.

    Attributes:
        name: what it is.
        value: as text.
        interval: its 95 % interval as text; "" where there is none.
        hub: its name among the Hub's metrics; "" for none.
        number: for the Hub.
    """

    name: str
    value: str
    interval: str = ""
    hub: str = ""
    number: float = 0.0


class _Task(NamedTuple):
    """What a kind of run makes, what the Hub calls its task, and how it is loaded and used."""

    what: str
    pipeline: str
    load: str
    command: str


_LOAD = """from beit import AutoImageProcessor, load
model, processor = load("FOLDER"), AutoImageProcessor.from_pretrained("FOLDER")"""
_TASKS: dict[type[RunSettings], _Task] = {
    FinetuneSettings: _Task(
        "An image classifier, fine-tuned", "image-classification", _LOAD, "beit predict IMAGE --model FOLDER"
    ),
    PretrainSettings: _Task(
        "A vision model, pre-trained without labels by masked image modelling (BEiT),",
        "image-feature-extraction",
        _LOAD,
        "beit finetune --images LABELLED --model FOLDER --output NEW",
    ),
    SegmentSettings: _Task(
        "A model for semantic segmentation, trained",
        "image-segmentation",
        _LOAD,
        "beit segment predict IMAGE --model FOLDER --output NEW",
    ),
    TokenizerSettings: _Task(
        "A visual tokenizer (a dVAE), trained",
        "",
        'from beit.tokenizers import load_tokenizer\ntokenizer = load_tokenizer("FOLDER")',
        "beit pretrain --images IMAGES --tokenizer FOLDER --output NEW",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card is made of.

    Attributes:
        settings: of the run, as in settings.json.
        data: the images in a few words, without a path; "" where their number is unknown.
        history: lines of the log.
        classes: names of the classes; none for a run without labels.
        result: the evaluation, if any.
        remark: what is to be known about its figures.
    """

    settings: RunSettings
    data: str
    history: Sequence[Mapping[str, float]]
    classes: Sequence[str] = ()
    result: Result | None = None
    remark: str = ""

    def save(self) -> None:
        """Write README.md into the run's folder; one that a person wrote is kept. Raises CheckpointError."""
        model_card.write_card(self.settings.output, self.text())

    def text(self) -> str:
        """The card in Markdown, with the Hub's front matter."""
        task = self._task
        sections = [
            f"# {_text(self._name)}",
            f"{self._what} with beit {beit.__version__}.",
            "## Use",
            f"FOLDER is this folder, or its name on the Hub.\n\n```python\n{task.load}\n```\n\n```bash\n{task.command}\n```",
            "## Data",
            "\n".join(self._data()),
            "## Figures",
            "\n".join(self._figures()),
            "## Training",
            "\n".join(self._training()),
            "## Licence",
            self._licence(),
        ]
        return "\n".join(["---", *self._front_matter(), "---", "", ""]) + "\n\n".join(sections) + "\n"

    # --- sections ------------------------------------------------------------------------------------------------

    def _front_matter(self) -> Iterator[str]:
        """Lines of YAML. Texts are written as in JSON, which YAML reads."""
        yield "library_name: beit"
        yield "# license: choose one before you publish; the licence of the images and of the base model bind it"
        yield "tags:"
        yield from (f"- {tag}" for tag in ("beit", "vision", *([self._task.pipeline] if self._task.pipeline else [])))
        if self._task.pipeline:
            yield f"pipeline_tag: {self._task.pipeline}"
        base = self._base_model()
        if base is not None:
            yield f"base_model: {json.dumps(base)}"
        known = [figure for figure in figures_of(self.result) if figure.hub]
        if not known:
            return
        yield "metrics:"
        yield from (f"- {name}" for name in dict.fromkeys(figure.hub for figure in known))
        data = json.dumps(printable(name_of(self.settings.images)), ensure_ascii=False)
        yield f"model-index:\n- name: {json.dumps(printable(self._name), ensure_ascii=False)}\n  results:\n  - task:"
        yield f"      type: {self._task.pipeline}\n    dataset:\n      name: {data}\n      type: images\n    metrics:"
        for figure in known:
            yield f"    - type: {figure.hub}\n      name: {json.dumps(figure.name)}\n      value: {figure.number:.6g}"

    def _data(self) -> Iterator[str]:
        yield f"- Images: `{_code(name_of(self.settings.images))}`{': ' if self.data else ''}{_text(self.data, 2000)}"
        measured = getattr(self.settings, "validation", None) or getattr(self.settings, "validation_images", None)
        if measured is not None:
            yield f"- Measured on: `{_code(name_of(measured))}`"
        if self.classes:
            named = ", ".join(_text(name, 80) for name in self.classes[:_MOST_CLASSES])
            more = len(self.classes) - _MOST_CLASSES
            yield f"- Classes ({len(self.classes)}): {named}" + (f", … and {more} more" if more > 0 else "")

    def _figures(self) -> Iterator[str]:
        found = figures_of(self.result)
        if found:
            yield "| on images that it did not learn from | value | 95 % interval |\n|---|---|---|"
            yield from (f"| {_text(row.name)} | {row.value} | {row.interval or 'not known'} |" for row in found)
            yield ""
            yield f"Number of images: {getattr(self.result, 'count', 0):,}. {self.remark}".rstrip()
            return
        last = {name: value for name, value in (self.history or [{}])[-1].items() if name not in _PROGRESS}
        yield "| last line of the training's log | value |\n|---|---|"
        yield from (f"| {_text(name.replace('_', ' '))} | {value:.6g} |" for name, value in last.items())
        yield "\nThese are of images that the model learned from, and have no interval: nothing says what they are on others."
        if self.remark:
            yield self.remark

    def _training(self) -> Iterator[str]:
        yield f"Start: {self._start()}.\n"
        yield "| setting | value |\n|---|---|"
        defaults = {item.name: item.default for item in dataclasses.fields(self.settings)}
        for name, value in self.settings.to_dict().items():
            if name == "epochs" and self.settings.steps is not None:
                continue  # the steps decided
            asked = name in _ALWAYS and value is not None
            if name not in _LEFT_OUT and (asked or value != defaults.get(name)):
                yield f"| {name} | {_text(_shown(value))} |"

    def _licence(self) -> str:
        text = "None is stated here."
        if (entry := catalogue.find(self._model)) is not None:
            text += f" The base model's: {entry.licence} ({entry.source})."
        return f"{text} Before you publish this model, see what the images' terms allow."

    # --- facts ---------------------------------------------------------------------------------------------------

    @property
    def _task(self) -> _Task:
        return next(task for kind, task in _TASKS.items() if isinstance(self.settings, kind))

    @property
    def _what(self) -> str:
        """What was made: by the labels that it was measured on, where they are not one class an image."""
        if isinstance(self.result, RegressionScores):
            return "A model that answers an image with numbers (regression), fine-tuned"
        if isinstance(self.result, MultiLabelEvaluation):
            return "An image classifier that gives several labels, fine-tuned"
        return self._task.what

    @property
    def _name(self) -> str:
        return name_of(self.settings.output)

    @property
    def _model(self) -> str:
        """What the run began from, as the settings name it; "" for nothing."""
        if isinstance(self.settings, TokenizerSettings):
            return ""
        return str(getattr(self.settings, "model", None) or catalogue.RECOMMENDED)

    def _base_model(self) -> str | None:
        """The Hub's id of what the run began from; None for a folder, a file or a new model."""
        model = self._model
        if model in PRESETS or os.path.exists(os.path.expanduser(model)):
            return None
        entry = catalogue.find(model)
        if entry is not None:
            return next((form.where for form in entry.forms if form.kind in ("hf", "timm")), None)
        return model if _HUB_ID.fullmatch(model) else None

    def _start(self) -> str:
        model = self._model
        if not model or model in PRESETS:
            return "new weights" + (f", size {model}" if model else "")
        tokenizer = getattr(self.settings, "tokenizer", None)
        more = f"; tokenizer `{_code(name_of(tokenizer))}`" if tokenizer else ""
        return f"`{_code(self._base_model() or name_of(model))}`{more}"


# --- figures ---------------------------------------------------------------------------------------------------------


def figures_of(result: Result | None) -> list[Figure]:
    """What a card says of an evaluation; nothing for None."""
    if result is None:
        return []
    if isinstance(result, RegressionScores):
        rows = zip(result.names, result.mse, result.mae, result.r2, result.r2_interval, strict=True)
        return [
            Figure(f"{printable(name, 60)}: {what}", f"{value:.4g}", _between(ends) if what == "R²" else "", hub, value)
            for name, *values, ends in rows
            for what, hub, value in zip(("MSE", "MAE", "R²"), ("mse", "mae", "r_squared"), values, strict=True)
            if value is not None
        ]
    if isinstance(result, MultiLabelEvaluation):
        return [
            _percent("mean average precision (mAP)", result.mean_average_precision, "map", result.interval),
            _percent("exactly the right labels, above one half", result.exact, "accuracy", result.exact_interval),
            _percent("macro-F1, above one half", result.macro_f1, "f1"),
            Figure("binary cross-entropy in nats", f"{result.loss:.4g}"),
        ]
    if isinstance(result, SegmentationEvaluation):
        return [
            _percent("mIoU", result.miou, "mean_iou"),
            _percent("pixel accuracy", result.pixel_accuracy, "accuracy"),
            _percent("mean accuracy of the classes", result.mean_accuracy),
        ]
    found = [_percent("top-1", result.top1, "accuracy", result.interval)]
    if result.top5 is not None:
        found.append(_percent("top-5", result.top5, "", wilson(round(result.top5 * result.count), result.count)))
    found.append(_percent("macro-F1", result.macro_f1, "f1"))
    if result.exact is not None:
        found.append(_percent("exactly the true class above one half", result.exact))
    if result.mean_average_precision is not None:
        found.append(_percent("mean average precision (mAP)", result.mean_average_precision))
    found.append(Figure("cross-entropy in nats", f"{result.loss:.4g}"))
    if result.ece is not None:
        found.append(_percent("calibration error (ECE)", result.ece))
    return found


def _between(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _percent(name: str, value: float, hub: str = "", interval: tuple[float, float] | None = None) -> Figure:
    return Figure(
        name, f"{value:.1%}", "" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}", hub, value
    )


# --- text ------------------------------------------------------------------------------------------------------------


def name_of(place: str | os.PathLike[str]) -> str:
    """What a place is called: the last part of a path or an address; an id on the Hub and hub:… as they are."""
    text = without_secrets(place)
    kind, _, rest = text.partition(":")
    if kind.lower() in ("http", "https"):
        return text.rstrip("/").rpartition("/")[2]
    if kind.lower() in ("hub", "embedded"):
        if not os.path.exists(os.path.expanduser(rest)):  # hub: may stand before a folder of this machine too
            return text
        text = rest
    return Path(os.path.abspath(os.path.expanduser(text))).name


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return str(value)


def _text(text: object, most: int = 300) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    plain = printable(text, most).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", plain)


def _code(text: object) -> str:
    """Text for between backticks, in a list."""
    return printable(text).replace("`", "'")

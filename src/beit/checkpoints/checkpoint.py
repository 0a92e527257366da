"""`Checkpoint`: an open checkpoint, passed to everything that needs its settings or tensors, so that each file is read once."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np

from beit.checkpoints import dialects, grids, infer, locate, names
from beit.checkpoints.catalogue import Published
from beit.checkpoints.dialects import openmmlab, timm
from beit.checkpoints.infer import Guess
from beit.checkpoints.read_weights import read_files
from beit.core.errors import CheckpointError
from beit.core.files import read_json
from beit.core.notebook import Shown

CONFIG_FILE = "config.json"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
Tensors = dict[str, np.ndarray]
_IMAGE_SIZE = 224  # of a config.json that states none


class Checkpoint(Shown):
    """An open checkpoint in any layout. Each file is read when it is first needed, and kept.

    `BeitConfig`, `BeitImageProcessor` and the models take a `Checkpoint` wherever they take an id or a folder:

        checkpoint = Checkpoint("microsoft/beit-base-patch16-224")
        config = BeitConfig.from_pretrained(checkpoint, num_labels=10)
        processor = BeitImageProcessor.from_pretrained(checkpoint)
        model = BeitForImageClassification.from_pretrained(checkpoint, config=config)

    A model takes the tensors over without a copy, and the checkpoint keeps only their names, shapes and types. So it holds no
    memory after a model was loaded, and two models never share an array; for the second one, the weight files are read again.

    Args:
        source: a folder, a weight file, a Hub id, a URL, or a name of the catalogue (`beit models`).
        given: fields of the config that the caller states; they override config.json and are not inferred.
        **where: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder`, of the Hub; `variant` and
            `use_safetensors` choose among the weight files of a folder; `weights="ema"` takes the averaged weights in a file of
            `torch.save`.

    Raises:
        CheckpointError (here and from every attribute): nothing is there; damaged, unsafe, incomplete; no BEiT.
    """

    def __init__(self, source: str | os.PathLike[str], given: Mapping[str, Any] | None = None, **where: Any) -> None:
        self.source = os.fspath(source) if isinstance(source, str | os.PathLike) else source
        self.given = dict(given or {})
        self.where = where
        self._files = _Files(self.source, where)

    @classmethod
    def open(cls, source: Source, given: Mapping[str, Any] | None = None, **where: Any) -> Checkpoint:
        """Return `source` itself if it is an open checkpoint, with the fields `given` added; else open it.

        Raises:
            CheckpointError: nothing is there; or `where` is given for a checkpoint that is open already.
        """
        if not isinstance(source, Checkpoint):
            return cls(source, given, **where)
        if where:
            raise CheckpointError(
                f"{source.source} is open already, so {', '.join(where)} comes too late. Pass it to Checkpoint(…)."
            )
        return source.with_given(given or {})

    def with_given(self, given: Mapping[str, Any]) -> Checkpoint:
        """The same checkpoint with more fields stated. It shares what was read; `self` is not changed."""
        if not given:
            return self
        other = object.__new__(Checkpoint)
        other.source, other.where, other._files = self.source, self.where, self._files
        other.given = {**self.given, **given}
        return other

    def shown(self) -> tuple[str, list[tuple[str, ...]]]:
        """As `Shown.shown`: what is known so far; looking at a checkpoint opens no file and asks no server."""
        rows: list[tuple[str, ...]] = [("source", str(self.source))]
        if self.published is not None:
            rows.append(("published", self.published.name))
        stated = self._files.__dict__.get("stated") or {}
        names = ("architectures", "image_size", "patch_size", "hidden_size", "num_hidden_layers")
        rows += [(name, str(stated[name])) for name in names if name in stated]
        if "weights" in self._files.__dict__:
            rows.append(("files", ", ".join(path.name for path in self.files)))
        return "Checkpoint", [*rows, *((f"given {name}", str(value)) for name, value in self.given.items())]

    # --- files -----------------------------------------------------------------------------------------------------

    @property
    def published(self) -> Published | None:
        """Its entry in the catalogue, where it has one."""
        return self._files.place.published

    @property
    def stated(self) -> dict[str, Any] | None:
        """The content of config.json; None where there is none, as for a single weight file."""
        return self._files.stated

    @property
    def of_timm(self) -> bool:
        """Whether config.json is timm's."""
        return self.stated is not None and timm.is_config(self.stated)

    @property
    def inferred(self) -> bool:
        """Whether settings are inferred from the tensors, for lack of a config.json that states them."""
        return self.stated is None or self.of_timm

    @property
    def files(self) -> list[Path]:
        """The weight files."""
        return self._files.weights

    @property
    def format(self) -> str:
        """`safetensors`, `msgpack` or `PyTorch`."""
        return self._files.read.format

    @property
    def wrapper(self) -> str:
        """What stands before the names of the whole model, such as `module.`; "" for nothing."""
        return self._files.read.wrapper

    @property
    def container(self) -> str:
        """The key under which the weights stood in the file; "" for none."""
        return self._files.read.container

    @property
    def more(self) -> Mapping[str, Any]:
        """Plain values that the file holds beside the weights."""
        return self._files.read.more

    @property
    def dialect(self) -> str:
        """Whose names the tensors have: `hf`, `unilm` or `openmmlab`."""
        return self._files.read.dialect

    @property
    def tensors(self) -> Tensors:
        """Name in the dialect → array. Shared, so do not write to the arrays."""
        self._files.ensure_values()
        return self._files.read.tensors

    @property
    def state_dict(self) -> Tensors:
        """Parameter name, with the `beit.` prefix → array. Shared, so do not write to the arrays; see `take`."""
        self._files.ensure_values()
        return self._files.translated.state_dict

    @property
    def left_over(self) -> list[str]:
        """Names of tensors that no model here has, such as the extra blocks of BEiT v2's pre-training."""
        return self._files.translated.left_over

    def take(self) -> Tensors:
        """Hand over `state_dict`: the arrays belong to the caller alone, who may keep and change them."""
        self._files.ensure_values()
        return self._files.hand_over()

    # --- settings --------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _settings(self) -> tuple[dict[str, Any], list[Guess]]:
        stated = self.stated
        if stated is not None and not self.of_timm:
            return stated, []
        of_timm = {} if stated is None else timm.settings_in(stated)
        self._refuse_other_layers()
        values, guesses = infer.settings_of(
            self._outline, self._files.read.tensors, self._dialect, str(self.source), {**of_timm, **self.given}
        )
        values |= of_timm
        classes = openmmlab.class_names(self.more) or timm.class_names(stated or {})
        if len(classes) == values.get("num_labels") and "id2label" not in self.given:
            del values["num_labels"]
            values["id2label"] = dict(enumerate(classes))
        return values, guesses

    @property
    def _dialect(self) -> dialects.Dialect:
        return dialects.DIALECTS[self.dialect]

    @property
    def _outline(self) -> Tensors:
        """`state_dict` where only names, shapes and types matter, which are known even after `take`."""
        return self._files.translated.state_dict

    def _refuse_other_layers(self) -> None:
        strange = [name for name in self.left_over if name.startswith(self._dialect.encoder)]
        if strange:
            raise CheckpointError(
                f"{self.source} is no BEiT: its layers have {strange[0]} and {len(strange) - 1} more tensors that a BEiT lacks. "
                "Is it EVA, BEiT-3 or another relative?"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Values of a `BeitConfig`, from config.json or inferred. The fields `given` override them."""
        return self._settings[0]

    @property
    def guesses(self) -> list[Guess]:
        """Settings that no file states and no tensor shows."""
        return self._settings[1]

    @property
    def grid(self) -> tuple[int, int] | None:
        """Patches `(h, w)` that the positions in the file belong to; None where nothing shows it."""
        if not self.inferred:
            return grids.grid_of_settings(self.settings)
        # A table's length shows the number of displacements, not the rectangle. So what the caller states comes first.
        stated = grids.grid_of_settings({**self.settings, **self.given})
        if stated is not None and grids.agrees(stated, self._outline):
            return stated
        return grids.grid_of(self._outline, self._files.read.tensors)

    @functools.cached_property
    def architecture(self) -> str:
        """The class that config.json names, such as `BeitForImageClassification`; else it is told by the tensors."""
        named = self.settings.get("architectures")
        if isinstance(named, list) and named:
            return str(named[0]).removeprefix("Flax").replace("Data2VecVision", "Beit")
        infer.check_model_type(self.settings)  # a clearer refusal of another architecture than its tensors allow
        return infer.architecture_of(self._outline)

    @functools.cached_property
    def _pixels(self) -> tuple[dict[str, Any], list[Guess]]:
        if self._files.processor is not None:
            return self._files.processor, []
        stated = {"image_size": self.given.get("image_size"), **self.settings}
        if self.of_timm:
            return timm.pixels_in(self.stated or {}, stated["image_size"]), []
        # config.json leaves out what is the default: 224 pixels, two classes.
        values = {
            "image_size": stated["image_size"] or _IMAGE_SIZE,
            "num_labels": stated.get("num_labels") or len(stated.get("id2label") or ()),
            "architectures": [self.architecture],
        }
        known = None if self.published is None else self.published.mean_std
        return infer.pixels_of(values, self._dialect, self.more, known)

    @property
    def pixels(self) -> dict[str, Any]:
        """Settings of a `BeitImageProcessor`: from the folder's file, or inferred as the publisher has them."""
        return self._pixels[0]

    @property
    def pixel_guesses(self) -> list[Guess]:
        """Those of `pixels` that are guesses."""
        return self._pixels[1]

    @property
    def stored_pixels(self) -> dict[str, Any] | None:
        """`pixels` without guesses for a model folder, which should have a file for them: None where that is missing."""
        return self.pixels if self._files.processor is not None or self.inferred else None


Source = Union[str, "os.PathLike[str]", Checkpoint]  # whatever `from_pretrained` takes


class _Read(NamedTuple):
    """The content of the weight files: tensors by their names in a dialect, and what else they hold."""

    format: str
    container: str
    more: Mapping[str, Any]
    dialect: str
    tensors: Tensors
    wrapper: str


class _Translated(NamedTuple):
    state_dict: Tensors
    left_over: list[str]


class _Files:
    """The files of a checkpoint, shared by all `Checkpoint`s of one source. Each is read when first asked for."""

    def __init__(self, source: str, where: Mapping[str, Any]) -> None:
        self.source = source
        where = dict(where)
        weights = where.pop("weights", None)
        if weights not in (None, "ema"):
            raise CheckpointError("weights takes 'ema', for averaged weights; leave it out for the model's own.")
        self.average = weights == "ema"
        self.place = locate.find(source, **where)
        self._handed_over = False

    @functools.cached_property
    def stated(self) -> dict[str, Any] | None:
        path = self.place.file(CONFIG_FILE)
        if path is None:
            return None
        values = read_json(path)
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} holds no settings (a JSON object).")
        return values

    @functools.cached_property
    def processor(self) -> dict[str, Any] | None:
        paths = (self.place.file(name) for name in PROCESSOR_FILES)
        path = next((path for path in paths if path is not None), None)
        return None if path is None else pixels_in(path)

    @functools.cached_property
    def weights(self) -> list[Path]:
        return self.place.weights()

    @functools.cached_property
    def read(self) -> _Read:
        raw = read_files(self.weights, self.average)
        found = dialects.recognise(raw.tensors, str(self.source))
        return _Read(raw.format, raw.container, raw.more, *found)

    @functools.cached_property
    def translated(self) -> _Translated:
        read = self.read
        try:
            return _Translated(*names.to_state_dict(read.tensors, read.dialect))
        except CheckpointError as error:
            raise CheckpointError(f"{self.source}: {error}") from error

    def hand_over(self) -> Tensors:
        """Give the state dict away. What stays are outlines, from which settings are still inferred."""
        state_dict = self.translated.state_dict
        self.read = self.read._replace(tensors=_outline(self.read.tensors))
        self.translated = self.translated._replace(state_dict=_outline(state_dict))
        self._handed_over = True
        return state_dict

    def ensure_values(self) -> None:
        """Read the weight files again after their arrays were handed over."""
        if self._handed_over:
            del self.read, self.translated
            self._handed_over = False


def _outline(tensors: Tensors) -> Tensors:
    """Arrays of the same shapes and types that take no memory. Integer ones, which are small indices, are kept."""
    return {
        name: np.broadcast_to(np.zeros((), array.dtype), array.shape) if array.dtype.kind == "f" else array
        for name, array in tensors.items()
    }


def pixels_in(path: Path) -> dict[str, Any]:
    """Read the settings of a `BeitImageProcessor` from one of `PROCESSOR_FILES`.

    Raises:
        CheckpointError: the file holds none.
    """
    settings = read_json(path)
    if isinstance(settings, dict) and path.name == PROCESSOR_FILES[1]:
        settings = settings.get("image_processor")
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} holds no settings of an image processor. Save or download it again.")
    return settings

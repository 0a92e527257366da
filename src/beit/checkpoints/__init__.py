"""Every BEiT checkpoint there is → named arrays, settings, and what had to be guessed.

    name, folder or file → places.py (where it lies) → beit/weight_files.py (arrays) → dialects.py (whose names) → infer.py (settings that
    no file states) → `Checkpoint`, which the models' `from_pretrained`, `BeitConfig` and `BeitImageProcessor` read

    and back: write.py (one of the layouts) → parity.py (do both give the same numbers?)

published.py is the catalogue. Loads neither torch nor jax, but for files that `torch.save` wrote.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beit.checkpoints import dialects, infer, locate
from beit.checkpoints import names as weights
from beit.checkpoints.infer import Guess
from beit.checkpoints.read_weights import Raw, read_files
from beit.core.errors import CheckpointError, ConfigError
from beit.core.files import read_json

CONFIG_FILE = "config.json"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


class Checkpoint:
    """A checkpoint in any layout, read as far as it is asked for: settings without weights where a config.json has them.

    Args:
        source: a folder, a weight file, a Hub id, a URL, or a name of the catalogue (`beit models`).
        given: fields of the config that the caller states; they are not inferred.
        **where: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder`, of the Hub.

    Raises:
        CheckpointError (here and from every attribute): nothing is there; damaged, unsafe, incomplete; no BEiT.
    """

    def __init__(self, source: str | os.PathLike[str], given: Mapping[str, Any] | None = None, **where: Any) -> None:
        self.source = os.fspath(source) if isinstance(source, str | os.PathLike) else source
        self.given = dict(given or {})
        self._where = where
        self._place = locate.find(source, **where)
        self.published = self._place.published

    # --- files -----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def stated(self) -> dict[str, Any] | None:
        """config.json; None where there is none, as beside a single weight file."""
        path = self._place.file(CONFIG_FILE)
        if path is None:
            return None
        values = read_json(path)
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} holds no settings (a JSON object).")
        return values

    @property
    def of_timm(self) -> bool:
        """Whether config.json is timm's."""
        return self.stated is not None and "architecture" in self.stated and "model_type" not in self.stated

    @functools.cached_property
    def files(self) -> list[Path]:
        """The weight files."""
        return self._place.weights()

    @functools.cached_property
    def _raw(self) -> Raw:
        return read_files(self.files)

    @functools.cached_property
    def _found(self) -> dialects.Found:
        return dialects.recognise(self._raw.tensors, str(self.source))

    @property
    def format(self) -> str:
        """`safetensors`, `msgpack` or `PyTorch`."""
        return self._raw.format

    @property
    def container(self) -> str:
        """The key under which the weights stood in the file."""
        return self._raw.container

    @property
    def more(self) -> Mapping[str, Any]:
        """Plain values that the file holds beside the weights."""
        return self._raw.more

    @property
    def dialect(self) -> weights.Dialect:
        """Whose names the tensors have."""
        return self._found.dialect

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors, by the names of their dialect in the table of `weights.py`."""
        return self._found.tensors

    @functools.cached_property
    def _memory(self) -> tuple[dict[str, np.ndarray], list[str]]:
        tensors, dialect = self.tensors, self.dialect
        try:
            return weights.to_memory(tensors, dialect)
        except CheckpointError as error:
            raise CheckpointError(f"{self.source}: {error}") from error

    @property
    def memory(self) -> dict[str, np.ndarray]:
        """The tensors by their names in memory."""
        return self._memory[0]

    @property
    def left_over(self) -> list[str]:
        """Names of tensors that no model here has a place for, such as the extra blocks of BEiT v2's pre-training."""
        return self._memory[1]

    # --- settings --------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _settings(self) -> tuple[dict[str, Any], list[Guess]]:
        stated = self.stated
        if stated is not None and not self.of_timm:
            return stated, []
        from beit.config import BeitConfig

        of_timm = {} if stated is None else _of_timm(stated)
        self._refuse_other_blocks()
        values, guesses = infer.settings_of(
            self.memory, self.tensors, self.dialect, str(self.source), {**of_timm, **self.given}
        )
        values |= of_timm
        names = _class_names(self.more, stated)
        if len(names) == values.get("num_labels") and "id2label" not in self.given:
            del values["num_labels"]
            values["id2label"] = dict(enumerate(names))
        try:
            BeitConfig.from_dict(values, **self.given)
        except ConfigError as error:
            raise CheckpointError(f"{self.source}: its tensors are of impossible sizes. {error}") from error
        return values, guesses

    def _refuse_other_blocks(self) -> None:
        strange = [name for name in self.left_over if name.startswith(("blocks.", "backbone.layers.", "beit.encoder."))]
        if strange:
            raise CheckpointError(
                f"{self.source} is no BEiT: its layers have {strange[0]} and {len(strange) - 1} more tensors that a BEiT lacks. "
                "Is it EVA, BEiT-3 or another relative?"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Values of a `BeitConfig`: of config.json, or inferred."""
        return self._settings[0]

    @property
    def guesses(self) -> list[Guess]:
        """Settings that no file states and no tensor shows."""
        return self._settings[1]

    @property
    def grid(self) -> tuple[int, int] | None:
        """Patches `(h, w)` that the positions belong to; None where nothing says so."""
        from beit.config import BeitConfig

        if self.stated is None or self.of_timm:
            stated = BeitConfig.from_dict(self.settings, **self.given).grid
            # A table says how many displacements there are and not of which rectangle: what the caller states comes first.
            return stated if infer.fits(stated, self.memory) else infer.grid_of(self.memory, self.tensors)
        try:
            return BeitConfig.from_dict(self.stated).grid
        except (ConfigError, CheckpointError):
            return None  # the caller has a config of its own

    @functools.cached_property
    def architecture(self) -> str:
        """The class, such as `BeitForImageClassification`, that config.json names, or the tensors."""
        named = self.settings.get("architectures")
        if isinstance(named, list) and named:
            return str(named[0]).removeprefix("Flax").replace("Data2VecVision", "Beit")
        from beit.config import BeitConfig

        BeitConfig.from_dict(self.settings)  # names another architecture before its tensors do
        return infer.architecture_of(self.memory)

    @functools.cached_property
    def _pixels(self) -> tuple[dict[str, Any] | None, list[Guess]]:
        for name in PROCESSOR_FILES:
            path = self._place.file(name)
            if path is not None:
                return pixels_in(path), []
        if self.stated is not None and not self.of_timm:
            return None, []
        known = None if self.published is None else self.published.mean_std
        values = {"image_size": self.given.get("image_size"), **self.settings}
        if self.of_timm:
            return _pixels_of_timm(self.stated or {}, values), []
        return infer.pixels_of(values, self.dialect, self.more, known)

    @property
    def pixels(self) -> dict[str, Any] | None:
        """Settings of a `BeitImageProcessor`: of the folder's file, or inferred; None for a model folder without."""
        return self._pixels[0]

    @property
    def pixel_guesses(self) -> list[Guess]:
        """As `guesses`, of `pixels`."""
        return self._pixels[1]


def pixels_in(path: Path) -> dict[str, Any]:
    """Settings of a `BeitImageProcessor` in one of `PROCESSOR_FILES`.

    Raises:
        CheckpointError: there are none.
    """
    settings = read_json(path)
    if isinstance(settings, dict) and path.name == PROCESSOR_FILES[1]:
        settings = settings.get("image_processor")
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} holds no settings of an image processor. Save or download it again.")
    return settings


def _of_timm(stated: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's config.json says that tensors do not."""
    given: dict[str, Any] = {}
    arguments = stated.get("model_args")
    if isinstance(arguments, Mapping) and isinstance(arguments.get("num_heads"), int):
        given["num_attention_heads"] = arguments["num_heads"]
    return given


def _pixels_of_timm(stated: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """timm's evaluation: the shorter side to size / crop_pct, the middle square."""
    from beit.core import geometry

    pretrained = stated.get("pretrained_cfg")
    about: dict[str, Any] = {**stated, **pretrained} if isinstance(pretrained, Mapping) else dict(stated)
    height, width = geometry.pair(values["image_size"])
    part = about.get("crop_pct")
    part = float(part) if isinstance(part, int | float) and 0.1 < part <= 1 else 0.875
    return {
        "size": {"shortest_edge": int(min(height, width) / part)},
        "crop_size": {"height": height, "width": width},
        "do_center_crop": True,
        "resample": 2 if about.get("interpolation") == "bilinear" else 3,
        "image_mean": _three_numbers(about.get("mean"), infer.HALF[0], "mean"),
        "image_std": _three_numbers(about.get("std"), infer.HALF[1], "std"),
    }


def _three_numbers(value: Any, default: tuple[float, ...], name: str) -> list[float]:
    if value is None:
        return list(default)
    if not isinstance(value, list | tuple) or not all(isinstance(x, int | float) and math.isfinite(x) for x in value):
        raise CheckpointError(f"config.json of timm has {name} {value!r:.60}; wanted a number a channel.")
    return [float(x) for x in value]


def _class_names(more: Mapping[str, Any], stated: Mapping[str, Any] | None) -> list[str]:
    """Names of the classes, where OpenMMLab's meta or timm's config.json has them."""
    meta = more.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    for names in (meta.get("CLASSES"), dataset.get("classes"), (stated or {}).get("label_names")):
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            return list(names)
    return []

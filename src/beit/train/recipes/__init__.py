"""Recipes by name, what their docstrings say, and the command line that each stands for.

A recipe is a function that returns a run's settings. Its docstring has these entries:

    Command:    what to type; several entries for an experiment of several runs
    Hardware:   what it was made for
    Time:       published, measured or estimated, and how
    Published:  the number to expect, with its source
    Needs:      what must exist before (optional)

`beit recipes` prints them, and `--recipe NAME` runs one. Loads no framework.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beit.core.errors import ConfigError
from beit.core.suggest import did_you_mean, similar
from beit.evaluation.settings import Probe
from beit.train.recipes.finetune import (
    finetune_base,
    finetune_base_384,
    finetune_base_labels,
    finetune_large,
    finetune_large_384,
    finetune_large_512,
    finetune_large_labels,
    probe_base,
)
from beit.train.recipes.pretrain import (
    pretrain_base_in1k,
    pretrain_base_in22k,
    pretrain_large_in1k,
    pretrain_large_in22k,
)
from beit.train.recipes.segmentation import ade20k_base, ade20k_base_labels, ade20k_large_labels, pasted_garments
from beit.train.recipes.small import Experiment, base_100, garments, photographs, small_images, small_photos
from beit.train.settings import RUNS

__all__ = ["RECIPES", "Experiment", "arguments_of", "command_line", "default_of", "facts", "find", "runs"]

_BOOK: list[Callable[..., Any]] = [
    pretrain_base_in1k,
    pretrain_large_in1k,
    pretrain_base_in22k,
    pretrain_large_in22k,
    finetune_base,
    finetune_large,
    finetune_base_labels,
    finetune_large_labels,
    finetune_base_384,
    finetune_large_384,
    finetune_large_512,
    probe_base,
    ade20k_base,
    ade20k_base_labels,
    ade20k_large_labels,
    base_100,
    small_photos,
    small_images,
    garments,
    pasted_garments,
    photographs,
]
RECIPES: dict[str, Callable[..., Any]] = {recipe.__name__.replace("_", "-"): recipe for recipe in _BOOK}

# A class of settings → the command that takes them.
_COMMANDS: dict[type, str] = {Probe: "probe", **{kind: command for command, kind in RUNS.items()}}
# Stands for what only the user knows and has not said yet. In square brackets, since a shell would redirect at < and >.
UNSAID = "[{}]"
_NAMED = ("images", "output", "tokenizer", "model", "data")


def find(name: str) -> Callable[..., Any]:
    """The recipe with a name. Raises ConfigError, which suggests similar names, where there is none."""
    if name not in RECIPES:
        hint = did_you_mean(similar(name, RECIPES))
        raise ConfigError(f"There is no recipe {name!r}.{hint} beit recipes lists them.")
    return RECIPES[name]


def facts(recipe: Callable[..., Any]) -> dict[str, list[str]]:
    """What a recipe's docstring says: `About` (its first line) and the entries that the module names, each a list of texts."""
    text = inspect.getdoc(recipe) or ""
    found: dict[str, list[str]] = {"About": [text.partition("\n")[0]]}
    # An entry may continue on further lines, which are indented.
    for match in re.finditer(r"^(Command|Hardware|Time|Published|Needs): (.*(?:\n    .*)*)", text, re.MULTILINE):
        found.setdefault(match[1], []).append(" ".join(match[2].split()))
    return found


def runs(
    recipe: Callable[..., Any], batch_size: int | None = None, devices: int | None = None, **given: Any
) -> dict[str, Any]:
    """The settings of each run of a recipe: {command: settings}.

    In an experiment, training from scratch has the name `finetune scratch`. What was not given is `[images]`, `[output]` and so
    on.

    Args:
        recipe: one of `RECIPES`.
        batch_size: images per step, over all devices; the recipe's own if None.
        devices: how many share a batch; as many as the recipe was made for if None.
        given: images, output, tokenizer, model or data.

    Raises:
        ConfigError: the recipe cannot be scaled like this.
    """
    wanted = inspect.signature(recipe).parameters
    values = {name: given.get(name) or UNSAID.format(name) for name in _NAMED if name in wanted}
    if "data" in wanted:  # a data set whose archive unpacks to a folder of this name
        values["data"] = given.get("images") or "ADEChallengeData2016"
    for name in ("output", "data"):  # not images, which may be an address: Path would take a slash from it
        if name in values:
            values[name] = Path(values[name])
    if batch_size is not None:
        if "batch_size" not in wanted:
            raise ConfigError("This recipe has a fixed batch; it cannot be scaled by batch_size.")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
        values["batch_size"] = batch_size
    if devices is not None and "devices" in wanted:
        values["devices"] = devices
    made = recipe(**values)
    if not isinstance(made, Experiment):
        return {_COMMANDS[type(made)]: made}
    parts = {"tokenizer train": made.tokenizer, "pretrain": made.pretrain, "finetune": made.finetune}
    return {**parts, "finetune scratch": made.scratch}


def default_of(name: str, kind: type, command: str, batch_size: int | None, devices: int) -> Any:
    """Settings from which `beit COMMAND --recipe NAME` starts; what only the user knows is `tyro.MISSING`.

    Raises:
        ConfigError: there is no such recipe, or it is for another command.
    """
    import tyro

    found = runs(find(name), batch_size, devices)
    fitting: Any = next((settings for settings in found.values() if type(settings) is kind), None)
    if fitting is None or name == "garments":  # only `beit demo` opens the images of this one
        commands = ["demo"] if name == "garments" else [text for text in found if text != "finetune scratch"]
        raise ConfigError(f"{name} is a recipe for beit {' and beit '.join(commands)}, not for beit {command}.")
    for item in dataclasses.fields(fitting):
        if str(getattr(fitting, item.name)).startswith("["):
            setattr(fitting, item.name, tyro.MISSING)
    return fitting


def arguments_of(settings: Any) -> list[str]:
    """Command-line arguments for these settings: everything that differs from the defaults of their class."""
    arguments = []
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if value == item.default:
            continue
        flag = "--" + item.name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        else:
            arguments += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return arguments


def command_line(command: str, settings: Any, devices: int = 1) -> str:
    """What to type for a run on `devices` devices of one machine."""
    program = "beit" if devices == 1 else f"torchrun --nproc-per-node {devices} -m beit.cli"
    return f"{program} {command.removesuffix(' scratch')} {shlex.join(arguments_of(settings))}"

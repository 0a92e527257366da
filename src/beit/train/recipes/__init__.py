"""The book of recipes: all of them by name, what they say of themselves, and the command line that each stands for.

A recipe is a function that returns a run's settings. Its docstring says in a line each:

    Command:    what to type; several lines for an experiment of several runs
    Hardware:   what it was made for
    Time:       published, measured or estimated, and how
    Published:  the number to expect, with its source
    Needs:      what must be there first (where there is such a thing)

`beit recipes` prints them, `--recipe NAME` runs them. Loads no framework.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beit.core.errors import ConfigError
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

# class of settings → the command that takes them
_COMMANDS = {"Probe": "probe", **{kind.__name__: command for command, kind in RUNS.items()}}
# What only the user can know, as long as nobody has said it. Square brackets: no shell takes them for a redirection.
UNSAID = "[{}]"
_NAMED = ("images", "output", "tokenizer", "model", "data")


def find(name: str) -> Callable[..., Any]:
    """The recipe of a name. Raises ConfigError with the nearest names where there is none."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=2, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(f"There is no recipe {name!r}. {hint}beit recipes lists them.")
    return RECIPES[name]


def facts(recipe: Callable[..., Any]) -> dict[str, list[str]]:
    """What its docstring says: `About` (the first line) and the entries named on top of this page, each a list of texts."""
    text = inspect.getdoc(recipe) or ""
    found: dict[str, list[str]] = {"About": [text.partition("\n")[0]]}
    for match in re.finditer(r"^(Command|Hardware|Time|Published|Needs): (.*(?:\n    .*)*)", text, re.MULTILINE):
        found.setdefault(match[1], []).append(" ".join(match[2].split()))
    return found


def runs(
    recipe: Callable[..., Any], batch_size: int | None = None, devices: int | None = None, **given: Any
) -> dict[str, Any]:
    """The settings of each run of a recipe: {command: settings}.

    An experiment's training from scratch goes by `finetune scratch`. Names that nobody has given yet are `[images]`, `[output]`
    and so on; a recipe for the embedded demonstration has those of `beit demo`.

    Args:
        recipe: one of `RECIPES`.
        batch_size: images a step, over all devices; the recipe's own if None.
        devices: how many share a batch; those it was made for if None.
        given: images, output, tokenizer, model or data.

    Raises:
        ConfigError: the recipe cannot be scaled so.
    """
    wanted = inspect.signature(recipe).parameters
    values = {name: given.get(name) or UNSAID.format(name) for name in _NAMED if name in wanted}
    if "data" in wanted:  # a data set that is unpacked under one name everywhere
        values["data"] = given.get("images") or "ADEChallengeData2016"
    for name in ("output", "data"):  # images may be an address, of which Path would take a slash
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
        return {_COMMANDS[type(made).__name__]: made}
    parts = {"tokenizer train": made.tokenizer, "pretrain": made.pretrain, "finetune": made.finetune}
    return {**parts, "finetune scratch": made.scratch}


def default_of(name: str, kind: type, command: str, batch_size: int | None, devices: int) -> Any:
    """Settings from which `beit COMMAND --recipe NAME` starts; what only the user can know is `tyro.MISSING`.

    Raises:
        ConfigError: there is no such recipe, or it is for another command.
    """
    import tyro

    found = runs(find(name), batch_size, devices)
    fitting: Any = next((settings for settings in found.values() if type(settings) is kind), None)
    if fitting is None or name == "garments":  # whose images only the demonstration opens
        commands = ["demo"] if name == "garments" else [text for text in found if text != "finetune scratch"]
        raise ConfigError(f"{name} is a recipe for beit {' and beit '.join(commands)}, not for beit {command}.")
    for item in dataclasses.fields(fitting):
        if str(getattr(fitting, item.name)).startswith("["):
            setattr(fitting, item.name, tyro.MISSING)
    return fitting


def arguments_of(settings: Any) -> list[str]:
    """The arguments that stand for these settings: all that differs from the defaults of their class."""
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
